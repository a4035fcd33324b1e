#!/usr/bin/env bash
# Action 1, 0 and -1 do not ask a MyoSuite muscle for all, half and nothing: it gets .92, .08 and .0006, and half is action .5.
# Versions: myosuite 3.0.0, gymnasium 1.2.3, mujoco 4.0.0
# Behaviour: actions are in [-1, 1], and a muscle's control in [0, 1] is sigmoid(5 (action - .5)) of them, not their affine image. No
#   policy reaches the last 8 %, and the lower half of a squashed policy's range moves the control by .08. Uniformly random
#   actions average .31. normalize_act=False takes controls as they are.
# Seen 2026-11-29 (elbow with six muscles, and what normalize_act=False gives):
#   action -1.0: control 0.0006
#   action -0.5: control 0.0067
#   action  0.0: control 0.0759
#   action  0.5: control 0.5000
#   action  1.0: control 0.9241
#   uniformly random actions: mean control 0.31
#   normalize_act=False, action 1.0: control 1.0000
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q myosuite==3.0.0 gymnasium==1.2.3 mujoco==4.0.0 numpy==2.4.6
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'EOF'
import gymnasium as gym
import myosuite  # noqa: F401
import numpy as np


def control(env, action):
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, action))
    return float(np.mean(env.unwrapped.data.ctrl))


env = gym.make("myoElbowPose1D6MRandom-v0")
seen = {action: control(env, action) for action in (-1.0, -0.5, 0.0, 0.5, 1.0)}
for action, value in seen.items():
    print(f"action {action:4.1f}: control {value:.4f}")
    assert abs(value - 1 / (1 + np.exp(-5 * (action - 0.5)))) < 1e-6
draws = np.random.default_rng(0).uniform(-1, 1, 200)
mean = np.mean([control(env, action) for action in draws])
print(f"uniformly random actions: mean control {mean:.2f}")
assert 0.25 < mean < 0.35
raw = control(gym.make("myoElbowPose1D6MRandom-v0", normalize_act=False), 1.0)
print(f"normalize_act=False, action 1.0: control {raw:.4f}")
assert raw == 1
EOF
