#!/usr/bin/env bash
# OGBench reports success one step after the state that earns it, and never if that state is the last before the step limit.
# Versions: ogbench 1.2.2, gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: reward, termination and success judge the state in which the action was taken. The step into the goal, within the
#   tolerance of 1 m, returns -1 and goes on; the next returns 0 and terminates. With the limit at the step into the goal, the
#   episode ends truncated, reward -1, success 0, in the goal.
# Seen 2026-11-28:
#   distance to the goal after the step, reward, terminated, truncated, success
#   step 157 1.129 -1.0 False False False
#   step 158 0.929 -1.0 False False False
#   step 159 0.729 0.0 True False True
#   with a limit of 158 steps:
#   step 158 0.929 -1.0 False True False
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q ogbench==1.2.2 dm_control==1.0.41 gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import numpy as np
import ogbench


def run(**limit):
    np.random.seed(0)
    env = ogbench.make_env_and_datasets("pointmaze-medium-navigate-singletask-v0", env_only=True, **limit)
    env.reset(seed=0)
    maze, rows = env.unwrapped, []
    while not rows or not (rows[-1][2] or rows[-1][3]):
        way = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)[0] - maze.get_xy()
        _, reward, terminated, truncated, info = env.step((way / np.linalg.norm(way)).astype(np.float32))
        distance = np.linalg.norm(maze.get_xy() - maze.cur_goal_xy)
        rows.append((round(float(distance), 3), float(reward), bool(terminated), bool(truncated), bool(info["success"])))
    return rows


rows = run()
short = run(max_episode_steps=len(rows) - 1)
print("distance to the goal after the step, reward, terminated, truncated, success")
for step in range(len(rows) - 3, len(rows)):
    print("step", step + 1, *rows[step])
print(f"with a limit of {len(short)} steps:")
print("step", len(short), *short[-1])
assert rows[-2][0] < 1 and rows[-2][1:] == (-1, False, False, False) and rows[-1][1:] == (0, True, False, True)
assert short[-1][0] < 1 and short[-1][1:] == (-1, False, True, False)
EOF
