#!/usr/bin/env bash
# EnvPool's Humanoid-v4 and HumanoidStandup-v4 are Gymnasium's but for the 84 contact forces in the observation, which are always 0.
# Versions: envpool 1.2.5 (envpool-assets 0.3.0), gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: begun in one state and given the same actions, the other observations agree to .001 for 20 steps. EnvPool computes
#   contact forces for v5 alone (post_constraint is off in v4); Gymnasium computes them for v4 as well, up to thousands. So a policy
#   trained on v4 in one sees other observations in the other, and EnvPool's HumanoidStandup-v4 never pays its impact cost.
# Seen 2026-11-29:
#   Humanoid-v4: rest off by at most 0.0001, largest force 0 in EnvPool, 2202 in Gymnasium, returns 101.14 and 101.14
#   Humanoid-v5: rest off by at most 0.0001, largest force 2202 in EnvPool, 2202 in Gymnasium, returns 96.64 and 96.64
#   HumanoidStandup-v4: rest off by at most 0.0008, largest force 0 in EnvPool, 811 in Gymnasium, returns 601.36 and 598.90
#   HumanoidStandup-v5: rest off by at most 0.0008, largest force 811 in EnvPool, 811 in Gymnasium, returns 598.90 and 598.90
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q envpool==1.2.5 envpool-assets==0.3.0 gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6 imageio==2.38.1 packaging==26.4
cat >"$dir/forces.py" <<'EOF'
import envpool
import gymnasium as gym
import numpy as np

for name in ("Humanoid-v4", "Humanoid-v5", "HumanoidStandup-v4", "HumanoidStandup-v5"):
    pool, env = envpool.make(name, env_type="gymnasium", num_envs=1, seed=0), gym.make(name).unwrapped
    obs, _ = pool.reset()
    env.reset(seed=0)
    n = env.model.nq - 2  # the observation begins with qpos without x and y, then has qvel
    env.set_state(np.concatenate([[0, 0], obs[0, :n]]), obs[0, n : n + env.model.nv])
    forces = 84 if name.endswith("v4") else 78
    rng, rest, largest, returns = np.random.default_rng(0), 0.0, np.zeros(2), np.zeros(2)
    for _ in range(20):
        action = rng.uniform(-0.4, 0.4, 17)
        (one,), (reward,), *_ = pool.step(action[None])
        other, other_reward, *_ = env.step(action)
        rest = max(rest, np.abs(one - other)[:-forces].max())
        largest = np.maximum(largest, [np.abs(one[-forces:]).max(), np.abs(other[-forces:]).max()])
        returns += reward, other_reward
    print(
        f"{name}: rest off by at most {rest:.4f}, largest force {largest[0]:.0f} in EnvPool, {largest[1]:.0f} in Gymnasium,"
        f" returns {returns[0]:.2f} and {returns[1]:.2f}"
    )
    assert rest < 0.01 and largest[1] > 100
    assert largest[0] == 0 if name.endswith("v4") else abs(largest[0] - largest[1]) < 10
EOF
"$dir/venv/bin/python" "$dir/forces.py" 2>/dev/null
