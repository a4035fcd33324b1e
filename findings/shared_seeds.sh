#!/usr/bin/env bash
# Five "independent" seeds of eight environments each are 12 environments, not 40: neighbouring seeds share seven of their eight.
# Versions: gymnasium 1.4.0, stable-baselines3 2.9.2, EnvPool 1.2.5, mujoco 3.8.1
# Behaviour: gymnasium's vector environments, SB3's make_vec_env and EnvPool all give environment i the seed s + i. Seeds 0 to 4, as papers
#   count them, then draw the same starts: environment 0 of seed 1 is environment 1 of seed 0, its later resets included. Intervals over
#   such seeds take them for independent. Seeds further apart than the number of environments do not overlap.
# Seen 2026-12-01 (different first states of HalfCheetah-v4):
#   gymnasium  seeds 0 to 4: 12 of 40, seeds 0, 100, .., 400: 40 of 40
#   SB3        seeds 0 to 4: 12 of 40, seeds 0, 100, .., 400: 40 of 40
#   EnvPool    seeds 0 to 4: 12 of 40, seeds 0, 100, .., 400: 40 of 40
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q stable-baselines3==2.9.2 envpool==1.2.5 envpool-assets==0.3.0 gymnasium==1.4.0 mujoco==3.8.1 \
    torch==2.13.0 numpy==2.4.6 imageio==2.38.1 packaging==26.4
cd "$dir"
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import envpool
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env

NAME, ENVS = "HalfCheetah-v4", 8


def gymnasium_starts(seed):
    return gym.make_vec(NAME, num_envs=ENVS).reset(seed=seed)[0]


def sb3_starts(seed):
    return make_vec_env(NAME, n_envs=ENVS, seed=seed).reset()


def envpool_starts(seed):
    return envpool.make_gymnasium(NAME, num_envs=ENVS, seed=seed).reset()[0]


def different(starts, seeds):
    states = np.concatenate([starts(seed) for seed in seeds]).round(9)
    assert len(states) == 40
    return len(np.unique(states, axis=0))


for name, starts in (("gymnasium", gymnasium_starts), ("SB3", sb3_starts), ("EnvPool", envpool_starts)):
    near, far = different(starts, range(5)), different(starts, range(0, 500, 100))
    print(f"{name:<10} seeds 0 to 4: {near} of 40, seeds 0, 100, .., 400: {far} of 40")
    assert (near, far) == (12, 40)
PY
