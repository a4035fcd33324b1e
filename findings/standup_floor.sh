#!/usr/bin/env bash
# HumanoidStandup returns 29 800 for lying still, and more for random actions; a return of 150 000 is a robot that sits.
# Versions: gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: the reward for standing up is the torso's height over the simulator's timestep of 3 ms, every step, whether it moves or not; it
#   neither starts at the pose's own height nor ends the episode. So a curve that begins at 30 000 has learned nothing yet, and a thousand
#   steps are worth 334 000 per metre of height. Standing from the first step to the last would return 470 000.
# Seen 2026-11-29 (the same in v4 and v5):
#   an episode of zero actions: 29802, of random actions: 32407
#   torso at 0.10 m: 35.8 per step, times 1000 steps 35817
#   torso at 0.45 m: 150.5 per step, times 1000 steps 150542
#   torso at 1.40 m: 467.2 per step, times 1000 steps 467208
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6 imageio==2.38.1 packaging==26.4
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'EOF'
import gymnasium as gym
import numpy as np


def episode(env, act):
    env.action_space.seed(0)
    env.reset(seed=0)
    total, ended = 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(act())
        total, ended = total + reward, terminated or truncated
    return total


def at_height(env, height):
    """The reward of one step from that height: upright and clear of the floor, or on the back."""
    env.reset(seed=0)
    robot = env.unwrapped
    pose = robot.init_qpos.copy()
    pose[2] = height
    if height > 1:
        pose[3:7] = 1, 0, 0, 0
    robot.set_state(pose, np.zeros(robot.model.nv))
    return robot.step(np.zeros(17))[1]


results = []
for version in ("v4", "v5"):
    env = gym.make(f"HumanoidStandup-{version}")
    still, random = episode(env, lambda: np.zeros(17)), episode(env, env.action_space.sample)
    results.append([still, random] + [at_height(env, height) for height in (0.10, 0.45, 1.40)])
np.testing.assert_allclose(*results, rtol=1e-6)
still, random, *rewards = results[0]
print(f"an episode of zero actions: {still:.0f}, of random actions: {random:.0f}")
for height, reward in zip((0.10, 0.45, 1.40), rewards, strict=True):
    print(f"torso at {height:.2f} m: {reward:.1f} per step, times 1000 steps {1000 * reward:.0f}")
assert 29_000 < still < 31_000 < random < 36_000
assert 140 < rewards[1] < 160 and 450 < rewards[2] < 480
EOF
