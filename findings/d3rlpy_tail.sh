#!/usr/bin/env bash
# d3rlpy drops every step behind the last termination: of a policy that learned not to fall, the dataset keeps the falls.
# Versions: d3rlpy 2.8.1, gymnasium 1.0.0, mujoco 3.8.1, torch 2.13.0
# Behaviour: MDPDataset(observations, actions, rewards, terminals) cuts the arrays into episodes at their terminals. What comes after the
#   last one is no episode and is gone, with no warning, however long; only data without any terminal raise an error. Replay buffers
#   that keep terminations alone, as bootstrapping needs, therefore lose all from the last fall on. timeouts= keeps it.
# Seen 2026-12-01 (InvertedPendulum-v5: 20 episodes of random actions, then 5 of a controller that balances to the time limit):
#   logged: 25 episodes, 5109 steps, the last five of [1000, 1000, 1000, 1000, 1000]
#   terminals alone: 20 episodes, 109 steps
#   and timeouts: 25 episodes, 5109 steps
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q d3rlpy==2.8.1 torch==2.13.0 gymnasium==1.0.0 mujoco==3.8.1 numpy==2.4.6 imageio==2.38.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import gymnasium as gym
import numpy as np
import structlog
from d3rlpy.dataset import MDPDataset

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))  # warnings would still be shown
env = gym.make("InvertedPendulum-v5")
env.action_space.seed(0)
rows, lengths = [], []
for episode in range(25):
    obs, _ = env.reset(seed=episode)
    ended = False
    while not ended:
        balance = np.clip([2 * obs[0] + 20 * obs[1] + 2 * obs[2] + 4 * obs[3]], -3, 3)
        action = env.action_space.sample() if episode < 20 else balance
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, terminated, truncated))
        obs, ended = following, terminated or truncated
    lengths.append(len(rows) - sum(lengths))
obs, actions, rewards, terminals, timeouts = (np.array(column, np.float32) for column in zip(*rows, strict=True))
print(f"logged: {len(lengths)} episodes, {len(rows)} steps, the last five of {lengths[20:]}")
kept = []
for name, more in (("terminals alone", {}), ("and timeouts", {"timeouts": timeouts})):
    episodes = MDPDataset(obs, actions, rewards, terminals, **more).episodes
    kept.append((len(episodes), sum(map(len, episodes))))
    print(f"{name}: {kept[-1][0]} episodes, {kept[-1][1]} steps")
assert lengths[20:] == [1000] * 5 and terminals.sum() == 20
assert kept == [(20, sum(lengths[:20])), (25, len(rows))]
PY
