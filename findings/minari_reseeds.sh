#!/usr/bin/env bash
# Minari's DataCollector reseeds the environment at every reset without a seed, so that a seed given once holds for one episode only.
# Versions: minari 0.5.4, gymnasium 1.4.0
# Behaviour: gymnasium's reset() without a seed goes on with the generator that reset(seed=..) began. Wrapped in DataCollector the same
#   call draws 64 bits from the operating system and begins again from them, so that the episode can be repeated alone (its docstring
#   says so). But a script that seeds its first reset, as most training loops do, repeats its first episode and no other once it is
#   told to record. options={"minari_autoseed": False}, given at every reset, brings the contract back.
# Seen 2026-12-01 (start angles of Pendulum-v1, reset(seed=0) and two resets without a seed; the collector's differ by run):
#   plain                  repeats: True  True  True
#   collected              repeats: True  False False
#   minari_autoseed False  repeats: True  True  True
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q minari==0.5.4 h5py==3.16.0 pillow==11.3.0 jax==0.10.2 gymnasium==1.4.0 numpy==2.4.6
cd "$dir"
export MINARI_DATASETS_PATH=$dir/datasets
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import gymnasium as gym
from minari import DataCollector


def starts(env, options):
    """First observations of three episodes, the first one seeded."""
    observations = [env.reset(seed=0, options=options)[0]]
    for _ in range(2):
        env.step(env.action_space.sample())
        observations.append(env.reset(options=options)[0])
    env.close()
    return observations


def repeats(collect, options):
    envs = [gym.make("Pendulum-v1") for _ in range(2)]
    first, second = (starts(DataCollector(env) if collect else env, options) for env in envs)
    return [(one == other).all() for one, other in zip(first, second, strict=True)]


plain, collected = repeats(False, None), repeats(True, None)
free = repeats(True, {"minari_autoseed": False})
for name, same in (("plain", plain), ("collected", collected), ("minari_autoseed False", free)):
    print(f"{name:<22} repeats: {' '.join(f'{value!s:<5}' for value in same)}")
assert plain == free == [True, True, True]
assert collected == [True, False, False]
PY
