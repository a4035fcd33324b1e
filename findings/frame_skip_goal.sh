#!/usr/bin/env bash
# TorchRL skips frames in two ways; one of them goes on after the end and is paid for the goal several times.
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.13.0, gymnasium 1.4.0
# Behaviour: GymEnv(name, frame_skip=n) stops repeating the action where the episode ends. The same environment followed by
#   FrameSkipTransform(n) repeats it n times whatever happens: it steps an environment that has ended and adds what that pays.
#   MountainCarContinuous pays 100 at the goal, once; a car that arrives at the first of n frames is paid n times as much, at a
#   later one less, so that the return depends on the phase of arrival. Both report one end.
# Seen 2026-12-01 (the reward of the step that ends the episode):
#   frame_skip 1: GymEnv  100, FrameSkipTransform  100
#   frame_skip 2: GymEnv  100, FrameSkipTransform  100
#   frame_skip 4: GymEnv  100, FrameSkipTransform  400
#   frame_skip 8: GymEnv  100, FrameSkipTransform  799
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 gymnasium==1.4.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import torch
from torchrl.envs import FrameSkipTransform, GymEnv, TransformedEnv

NAME = "MountainCarContinuous-v0"


def last_reward(env):
    """Swing the car: always push the way it moves."""
    env.set_seed(0)
    state, done = env.reset(), False
    while not done:
        velocity = state["observation"][1]
        state["action"] = torch.where(velocity < 0, -1.0, 1.0).reshape(1)
        state = env.step(state)["next"]
        reward, done = state["reward"].item(), state["done"].item()
    assert state["terminated"].item()
    return reward


natives, transforms = [], []
for n in (1, 2, 4, 8):
    natives.append(last_reward(GymEnv(NAME, frame_skip=n)))
    transforms.append(last_reward(TransformedEnv(GymEnv(NAME), FrameSkipTransform(n))))
    print(f"frame_skip {n}: GymEnv {natives[-1]:4.0f}, FrameSkipTransform {transforms[-1]:4.0f}")
assert all(98 < reward <= 100 for reward in natives)
assert abs(transforms[0] - natives[0]) < 0.01
assert transforms[2] > 390 and transforms[3] > 690
PY
