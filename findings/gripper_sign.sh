#!/usr/bin/env bash
# robosuite's gripper obeys the sign of its action alone: exploration noise of .01 drives the fingers as far as noise of 1. OGBench's does not.
# Versions: robosuite 1.5.2, ogbench 1.2.2, mujoco 3.8.1
# Behaviour: the last action of both lies in [-1, 1]. robosuite's Panda moves its target by a fixed part of the way, whatever the size, so a
#   policy whose mean is near 0 opens and closes at random, and less noise changes nothing. OGBench goes by the size.
# Seen 2026-11-30 (change of the opening: robosuite's in cm, OGBench's of 1, which is closed; path: the sum of its sizes):
#   robosuite, action 0.01: after 3 steps -1.39, after 10 -3.90; Gaussian noise of deviation 0.01, 200 steps: path 54.9
#   robosuite, action 1.00: after 3 steps -1.39, after 10 -3.90; Gaussian noise of deviation 1.00, 200 steps: path 54.9
#   OGBench,   action 0.01: after 3 steps +0.02, after 10 +0.05; Gaussian noise of deviation 0.01, 200 steps: path 0.7
#   OGBench,   action 1.00: after 3 steps +0.76, after 10 +0.98; Gaussian noise of deviation 1.00, 200 steps: path 25.7
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1 numpy==2.4.6 numba==0.68.1 scipy==1.17.1 pillow==11.3.0 termcolor==3.3.0 \
  opencv-python-headless==5.0.0.93 ogbench==1.2.2 dm_control==1.0.41 gymnasium==1.4.0
"$dir/venv/bin/pip" install -q --no-deps robosuite==1.5.2
cat >"$dir/gripper.py" <<'EOF'
import logging

logging.disable(logging.WARNING)  # of extras that are not installed
import gymnasium
import numpy as np
import ogbench.manipspace
import robosuite

flags = {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False, "ignore_done": True, "seed": 0}
lift = robosuite.make("Lift", robots="Panda", **flags)
cube = gymnasium.make("cube-single-singletask-task1-v0", disable_env_checker=True, max_episode_steps=1000)


def robosuite_opening(actions):
    """After every step, in cm."""
    result = [100 * np.ptp(lift.reset()["robot0_gripper_qpos"])]
    for action in actions:
        result.append(100 * np.ptp(lift.step(np.append(np.zeros(6), action))[0]["robot0_gripper_qpos"]))
    return np.array(result)


def ogbench_closing(actions):
    """After every step: 0 open, 1 closed."""
    result = [cube.reset(seed=0)[1]["proprio/gripper_opening"][0]]
    for action in actions:
        result.append(cube.step(np.append(np.zeros(4), action).astype(np.float32))[4]["proprio/gripper_opening"][0])
    return np.array(result)


noise, found = np.random.default_rng(0).standard_normal(200), {}
for name, run in (("robosuite", robosuite_opening), ("OGBench", ogbench_closing)):
    for size in (0.01, 1.0):
        width, wander = run(np.full(10, size)), np.abs(np.diff(run(size * noise))).sum()
        moved = width - width[0]
        found[name, size] = moved[3], moved[10], wander
        text = "{:10} action {:.2f}: after 3 steps {:+.2f}, after 10 {:+.2f}; Gaussian noise of deviation {:.2f}, 200 steps: path {:.1f}"
        print(text.format(name + ",", size, moved[3], moved[10], size, wander))
assert np.allclose(found["robosuite", 0.01], found["robosuite", 1.0], rtol=0.02) and found["robosuite", 1.0][1] < -2
assert found["OGBench", 1.0][0] > 20 * found["OGBench", 0.01][0] and found["OGBench", 1.0][2] > 10 * found["OGBench", 0.01][2]
EOF
"$dir/venv/bin/python" -W ignore "$dir/gripper.py" 2>/dev/null
