#!/usr/bin/env bash
# MuJoCo's cvel, which Humanoid observes, is not how fast a body moves: it is off by about as much as the body's speed.
# Versions: mujoco 3.8.1, gymnasium 1.4.0, numpy 2.4.6
# Behaviour: the linear part of data.cvel, "com-based velocity", is that of a point at the centre of mass of the whole robot, moving as if it
#   were fixed to the body. It differs from the velocity of the body's own centre of mass by its rotation times the distance of the two.
#   Rewards for imitating a motion, foot slip or speed that read cvel[body, 3:] read something else. mj_objectVelocity gives the
#   body's, and so does cvel with the cross product added.
# Seen 2026-11-30 (1000 random steps, all bodies; medians: speed, distance of cvel from the velocity, the distance over the speed, and
#   the largest distance with the cross product added):
#   HalfCheetah-v5  speed 1.1 m/s, off by 1.6 m/s, ratio 1.47, corrected 0e+00
#   Ant-v5          speed 1.0 m/s, off by 0.8 m/s, ratio 0.92, corrected 0e+00
#   Humanoid-v5     speed 1.2 m/s, off by 1.0 m/s, ratio 0.84, corrected 0e+00
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6 packaging==26.4 imageio==2.38.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import gymnasium as gym
import mujoco
import numpy as np

for name in ("HalfCheetah-v5", "Ant-v5", "Humanoid-v5"):
    env = gym.make(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    model, data = env.unwrapped.model, env.unwrapped.data
    speed, off, corrected, velocity = [], [], [], np.zeros(6)
    for _ in range(1000):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        mujoco.mj_forward(model, data)
        for body in range(1, model.nbody):
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
            spin, linear = data.cvel[body, :3], data.cvel[body, 3:]
            arm = data.xipos[body] - data.subtree_com[model.body_rootid[body]]
            speed.append(np.linalg.norm(velocity[3:]))
            off.append(np.linalg.norm(linear - velocity[3:]))
            corrected.append(np.linalg.norm(linear + np.cross(spin, arm) - velocity[3:]))
        if terminated or truncated:
            env.reset()
    ratio = np.median(np.array(off) / speed)
    medians = f"speed {np.median(speed):.1f} m/s, off by {np.median(off):.1f} m/s, ratio {ratio:.2f}"
    print(f"{name:14}  {medians}, corrected {max(corrected):.0e}")
    assert 0.5 < ratio < 2 and max(corrected) < 1e-9
PY
