#!/usr/bin/env bash
# Most contact forces that Ant-v5 observes are -1 or 1: cut at a force of 1, they say that a leg touches the floor, not how hard.
# Versions: gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: contact_force_range=(-1, 1) reads like a guard against rare blows. But a leg that carries its share pushes with several units,
#   and most entries that are not 0 are at a bound. The contact cost is made of the same cut entries: a blow costs what a touch costs.
# Seen 2026-11-30 (10 000 steps; of 78 entries those that are not 0, sizes before the cut, cost per step with and without it):
#   actions within 0.3: 5.7% not 0, 80% of them at a bound; median 3.6, 99 % below 51; cost 0.0019, uncut 0.36
#   actions within 1.0: 4.5% not 0, 64% of them at a bound; median 2.0, 99 % below 81; cost 0.0012, uncut 0.55
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6 imageio==2.38.1 packaging==26.4
"$dir/venv/bin/python" -W ignore - <<'EOF'
import gymnasium as gym
import numpy as np

for size in (0.3, 1.0):
    env, rng = gym.make("Ant-v5"), np.random.default_rng(0)
    env.reset(seed=0)
    seen, raw, costs = [], [], []
    for _ in range(10_000):
        obs, _, terminated, truncated, info = env.step(size * rng.uniform(-1, 1, 8))
        seen.append(obs[27:])
        raw.append(env.unwrapped.data.cfrc_ext[1:].flatten())
        costs.append(-info["reward_contact"])
        if terminated or truncated:
            env.reset()
    seen, raw = np.array(seen), np.abs(raw)
    assert seen.shape == raw.shape == (10_000, 78) and np.allclose(np.abs(seen), np.minimum(raw, 1))
    touched = raw > 0
    share, bound = touched.mean(), (raw[touched] >= 1).mean()
    cost, uncut = np.mean(costs), 5e-4 * np.square(raw).sum(1).mean()
    text = "actions within {}: {:.1%} not 0, {:.0%} of them at a bound; median {:.1f}, 99 % below {:.0f}; cost {:.4f}, uncut {:.2f}"
    print(text.format(size, share, bound, np.median(raw[touched]), np.quantile(raw[touched], 0.99), cost, uncut))
    assert bound > 0.6 and uncut > 20 * cost
EOF
