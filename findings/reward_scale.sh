#!/usr/bin/env bash
# Gymnasium's NormalizeReward and Stable-Baselines3's VecNormalize scale the same rewards differently where episodes end by a time limit.
# Versions: gymnasium 1.4.0, stable-baselines3 2.9.2, mujoco 3.8.1
# Behaviour: both divide by the deviation of a running discounted return. Stable-Baselines3 begins it again with each episode, Gymnasium
#   only where one terminates: a time limit lets it run on into the next episode, where it varies less. On tasks of 50 and 100 steps that
#   never terminate Gymnasium's rewards come out 2 and 3 times as large; on one that terminates they agree.
# Seen 2026-11-29 (deviation that rewards are divided by after 20 000 random steps, discount .99):
#   Reacher-v5          NormalizeReward 5.5, VecNormalize 9.8
#   Pusher-v5           NormalizeReward 8.8, VecNormalize 27.3
#   InvertedPendulum-v5 NormalizeReward 3.4, VecNormalize 3.3
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 stable-baselines3==2.9.2 mujoco==3.8.1 torch==2.13.0 packaging==26.4 imageio==2.38.1
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

ratios = []
for task in ("Reacher-v5", "Pusher-v5", "InvertedPendulum-v5"):
    env = gym.wrappers.NormalizeReward(gym.make(task), gamma=0.99)
    vec = VecNormalize(DummyVecEnv([lambda: gym.make(task)]), norm_obs=False, gamma=0.99)
    env.action_space.seed(0)
    env.reset(seed=0)
    vec.seed(0)
    vec.reset()
    for _ in range(20_000):
        action = env.action_space.sample()
        *_, terminated, truncated, _ = env.step(action)
        vec.step(action[None])
        if terminated or truncated:
            env.reset()
    mine, theirs = (float(np.sqrt(scale.var)) for scale in (env.return_rms, vec.ret_rms))
    ratios.append(theirs / mine)
    print(f"{task:19} NormalizeReward {mine:.1f}, VecNormalize {theirs:.1f}")
assert 1.5 < ratios[0] < 2.1 and 2.6 < ratios[1] < 3.6 and 0.9 < ratios[2] < 1.1
EOF
