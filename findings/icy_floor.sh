#!/usr/bin/env bash
# A floor of ice, a tenth of the friction, changes nothing in Gymnasium's six locomotion tasks, to the last bit; a rough one does.
# Versions: gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: MuJoCo gives a contact the larger friction of its two geoms, where other engines multiply or average. The bodies have as much
#   friction as the floor or more, so that a floor made slippery (robustness tests, domain randomization) is the same task. On four tasks
#   the body's alone does nothing either, because the floor's stays. What is slippery needs both, or a priority on the floor's geom.
# Seen 2026-11-29 (largest change of qpos over 200 random steps):
#   task               floor/10  body/10   both/10  floor*3
#   HalfCheetah-v5     0.000000  0.000000  1.353086  1.023000
#   Hopper-v5          0.000000  0.339325  0.341539  0.506731
#   Walker2d-v5        0.000000  1.706619  1.746889  0.151174
#   Ant-v5             0.000000  0.000000  2.709874  3.046099
#   Humanoid-v5        0.000000  0.000000  2.699039  2.656154
#   HumanoidStandup-v5 0.000000  0.000000  2.358227  1.069507
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 mujoco==3.8.1 imageio==2.38.1 packaging==26.4 numpy==2.4.6
cat >"$dir/floor.py" <<'EOF'
import gymnasium as gym
import mujoco
import numpy as np


def positions(name, floor=1.0, body=1.0):
    """qpos (200, n) under the same random actions, with frictions multiplied."""
    env = gym.make(name)
    model = env.unwrapped.model
    plane = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    assert plane.sum() == 1
    model.geom_friction[plane] *= floor
    model.geom_friction[~plane] *= body
    env.reset(seed=0)
    env.action_space.seed(0)
    path = []
    for _ in range(200):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        path.append(env.unwrapped.data.qpos.copy())
        if terminated or truncated:
            env.reset()
    return np.array(path)


print("task               floor/10  body/10   both/10  floor*3")
for name in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"):
    usual = positions(name)
    changes = {"floor": 0.1}, {"body": 0.1}, {"floor": 0.1, "body": 0.1}, {"floor": 3.0}
    ice, body, both, rough = (np.abs(positions(name, **change) - usual).max() for change in changes)
    print(f"{name:18} {ice:.6f}  {body:.6f}  {both:.6f}  {rough:.6f}")
    assert ice == 0 and both > 0.01 and rough > 0.01
    assert (body == 0) == (name not in ("Hopper-v5", "Walker2d-v5"))
EOF
"$dir/venv/bin/python" -W ignore "$dir/floor.py"
