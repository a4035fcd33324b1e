#!/usr/bin/env bash
# Doing nothing succeeds in 7 % of FetchPush's episodes and 6 % of PandaPush's: their goals are drawn where the object already is.
# Versions: gymnasium-robotics 1.4.2, panda-gym 3.0.7 (pybullet 3.2.7), gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: a reset draws the goal without asking how near the object lies, and success is any distance below the threshold of 5 cm.
#   FetchPush keeps the object away from the gripper alone. With zero actions the object stays, and the last step of the
#   episode, or in panda-gym the first, reports success. So a success rate begins at that, not at 0, and an agent that has learned to stay
#   away from the object keeps it. The sliding task, whose goals lie beyond reach, has none.
# Seen 2026-11-30 (300 episodes with zero actions; solved at the reset, and success at the end):
#   FetchReach-v4           5   7
#   FetchPush-v4           21  21
#   FetchPickAndPlace-v4   11  11
#   FetchSlide-v4           0   0
#   PandaReach-v3          10  10
#   PandaPush-v3           19  19
#   PandaPickAndPlace-v3   16  16
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium-robotics==1.4.2 panda-gym==3.0.7 pybullet==3.2.7 gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6 \
  scipy==1.17.1 packaging==26.4 imageio==2.38.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'PY' | grep -v "^argv"
import gymnasium as gym
import gymnasium_robotics
import numpy as np
import panda_gym  # noqa: F401

gym.register_envs(gymnasium_robotics)
fetch = "FetchReach-v4", "FetchPush-v4", "FetchPickAndPlace-v4", "FetchSlide-v4"
panda = "PandaReach-v3", "PandaPush-v3", "PandaPickAndPlace-v3"
ends = {}
for name in fetch + panda:
    env = gym.make(name, disable_env_checker=True)
    nothing = np.zeros(env.action_space.shape, np.float32)
    start = end = 0
    for seed in range(300):
        obs, _ = env.reset(seed=seed)
        reward = env.unwrapped.compute_reward(obs["achieved_goal"], obs["desired_goal"], {})  # 0 for success, -1 else
        start += int(reward > -0.5)
        over = False
        while not over:
            obs, reward, terminated, truncated, info = env.step(nothing)
            over = terminated or truncated
        end += int(info["is_success"])
    env.close()
    ends[name] = end
    print(f"{name:22} {start:3} {end:3}", flush=True)
assert ends["FetchSlide-v4"] == 0
assert all(9 <= ends[name] <= 33 for name in ("FetchPush-v4", "PandaPush-v3"))
PY
