#!/usr/bin/env bash
# Action i does not drive joint i in Gymnasium's Ant and Humanoid: Ant's actions begin with the last leg, Humanoid's swap two of the abdomen.
# Versions: gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: positions and velocities are observed in the order of the joints, actions come in that of the XML's actuators. They agree in
#   HalfCheetah, Hopper and Walker2d. A PD controller, or a mirrored copy of a transition, that takes action i for joint i is wrong in
#   the other three.
# Seen 2026-11-29 (by action, the joint on which it has a force; 0 is the first that has an actuator):
#   HalfCheetah-v5     0 1 2 3 4 5
#   Hopper-v5          0 1 2
#   Walker2d-v5        0 1 2 3 4 5
#   Ant-v5             6 7 0 1 2 3 4 5
#   Humanoid-v5        1 0 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
#   HumanoidStandup-v5 1 0 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 mujoco==3.8.1 imageio==2.38.1 packaging==26.4 numpy==2.4.6
cat >"$dir/order.py" <<'EOF'
import gymnasium as gym
import numpy as np

for name in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"):
    env = gym.make(name).unwrapped
    env.reset(seed=0)
    free, driven = env.model.nv - env.model.nu, []
    for action in np.eye(env.model.nu) * env.action_space.high:
        env.step(action)
        driven.append(int(np.abs(env.data.qfrc_actuator[free:]).argmax()))
    print(f"{name:18}", *driven)
    assert sorted(driven) == list(range(env.model.nu))
    assert (driven == sorted(driven)) == (name[:-3] in ("HalfCheetah", "Hopper", "Walker2d"))
EOF
"$dir/venv/bin/python" -W ignore "$dir/order.py"
