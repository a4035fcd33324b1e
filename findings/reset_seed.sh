#!/usr/bin/env bash
# reset(seed=0) fixes neither OGBench's nor Meta-World's episode: each call draws another start or goal.
# Versions: ogbench 1.2.2, metaworld 3.0.0, gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: OGBench draws a maze's start and end and the task's number from NumPy's global generator, so that only np.random.seed before the
#   reset repeats them. Meta-World's goal comes from the tasks that its wrapper draws by a generator of its own, seeded by
#   gym.make(..., seed=...) alone. Both take the seed of reset without complaint.
#   (The first two lines below may differ from run to run.)
# Seen 2026-11-28:
#   antmaze, reset(seed=0), start: [ 0.051 -0.786] [-0.386 -0.972] [ 0.78  -0.041]
#   cube-single, reset(seed=0) twenty times, tasks: [1, 2, 3, 4, 5]
#   after np.random.seed(0): [0.098 0.43 ] [0.098 0.43 ] [0.098 0.43 ] [5]
#   reach-v3 made with seed=0, reset(seed=0), goal: [0.085 0.883 0.292] [-0.067  0.864  0.173] [-0.093  0.843  0.178]
#   made with seed=0 again, reset(seed=5), goal:    [0.085 0.883 0.292] [-0.067  0.864  0.173] [-0.093  0.843  0.178]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q ogbench==1.2.2 metaworld==3.0.0 dm_control==1.0.41 gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import gymnasium as gym
import metaworld  # noqa: F401
import numpy as np
import ogbench

maze = ogbench.make_env_and_datasets("antmaze-medium-navigate-singletask-v0", env_only=True)
cube = ogbench.make_env_and_datasets("cube-single-play-v0", env_only=True)


def start():
    return maze.reset(seed=0)[0][:2]


def task():
    cube.reset(seed=0)
    return cube.unwrapped.cur_task_id


def globally(draw):
    np.random.seed(0)
    return draw()


starts, tasks = [start() for _ in range(3)], [task() for _ in range(20)]
print("antmaze, reset(seed=0), start:", *np.round(starts, 3))
print("cube-single, reset(seed=0) twenty times, tasks:", sorted(set(tasks)))
assert np.ptp(starts, axis=0).min() > 0 and len(set(tasks)) > 1
starts, tasks = [globally(start) for _ in range(3)], [globally(task) for _ in range(20)]
print("after np.random.seed(0):", *np.round(starts, 3), sorted(set(tasks)))
assert np.ptp(starts, axis=0).max() == 0 and len(set(tasks)) == 1

goals = []
for seed in (0, 5):
    reach = gym.make("Meta-World/MT1", env_name="reach-v3", seed=0)
    goals.append([reach.reset(seed=seed)[0][-3:] for _ in range(3)])
print("reach-v3 made with seed=0, reset(seed=0), goal:", *np.round(goals[0], 3))
print("made with seed=0 again, reset(seed=5), goal:   ", *np.round(goals[1], 3))
assert np.ptp(goals[0], axis=0).min() > 0 and np.array_equal(goals[0], goals[1])
EOF
