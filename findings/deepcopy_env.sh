#!/usr/bin/env bash
# copy.deepcopy of a Gymnasium MuJoCo environment in mid-episode copies the step counter but not the robot.
# Versions: gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: no error; the wrappers come along with their state (TimeLimit has its 5 steps), while the task inside them is built anew,
#   at time 0 in the model's initial pose without reset noise. Planning on such copies plans from the wrong state.
# Seen 2026-11-28:
#   original: elapsed steps 5, physics time 0.040, qpos [ 5.0000e-04  1.2405e+00 -6.5000e-03 -3.2000e-03 -1.7000e-03 -2.1700e-02]
#   copy: elapsed steps 5, physics time 0.000, qpos [0.   1.25 0.   0.   0.   0.  ]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6 imageio==2.38.1 packaging==26.4 mujoco==3.8.1
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import copy

import gymnasium as gym
import numpy as np

env = gym.make("Hopper-v5")
env.reset(seed=0)
env.action_space.seed(0)
for _ in range(5):
    env.step(env.action_space.sample())
twin = copy.deepcopy(env)
for name, e in (("original", env), ("copy", twin)):
    data = e.unwrapped.data
    print(f"{name}: elapsed steps {e._elapsed_steps}, physics time {data.time:.3f}, qpos {data.qpos.round(4)}")
assert twin._elapsed_steps == env._elapsed_steps == 5
assert env.unwrapped.data.time > 0 == twin.unwrapped.data.time
assert np.array_equal(twin.unwrapped.data.qpos, twin.unwrapped.init_qpos)
EOF
