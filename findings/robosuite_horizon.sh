#!/usr/bin/env bash
# robosuite's Gymnasium wrapper calls its time limit a termination: value learning stops bootstrapping at every horizon.
# Versions: robosuite 1.5.2, mujoco 3.8.1
# Behaviour: GymWrapper speaks Gymnasium's interface of five values, but hands robosuite's `done`, which is true at the horizon, on as
#   `terminated`, and always False as `truncated`. An agent that heeds the difference learns that the last state is worth nothing.
# Seen 2026-11-30: Lift with a horizon of 20, zero actions
#   step 19: terminated False, truncated False
#   step 20: terminated True, truncated False
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mujoco==3.8.1 numpy==2.4.6 numba==0.68.1 scipy==1.17.1 pillow==11.3.0 termcolor==3.3.0 \
  opencv-python-headless==5.0.0.93 gymnasium==1.4.0 h5py==3.16.0
"$dir/venv/bin/pip" install -q --no-deps robosuite==1.5.2
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import robosuite
from robosuite.wrappers import GymWrapper

env = robosuite.make("Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, horizon=20)
env = GymWrapper(env)
env.reset()
ends = []
for step in range(1, 21):
    terminated, truncated = env.step(np.zeros(env.action_space.shape))[2:4]
    ends.append((terminated, truncated))
    if step >= 19:
        print(f"step {step}: terminated {terminated}, truncated {truncated}")
assert ends == [(False, False)] * 19 + [(True, False)], ends
PY
