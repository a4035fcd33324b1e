#!/usr/bin/env bash
# Every episode of a Brax environment begins where its first one began: of 2048 environments training never sees a 2049th start.
# Versions: brax 0.14.2, jax 0.10.2, mujoco 3.8.1 (mujoco-mjx 3.8.1)
# Behaviour: auto_reset keeps the state that reset gave each environment of the batch, and puts it back at every end, at a limit as at a
#   termination. Nothing is drawn again: a task that draws a goal at its reset keeps that goal for ever. Of Brax's own trainers PPO alone
#   can reset anew, between evaluations (num_resets_per_eval, 0 by default).
# Seen 2026-11-30 (inverted_pendulum, spring, 4 environments, action 0, five episodes of 20 steps; the number of different starts):
#   auto_reset            4
#   reset before each    20
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q brax==0.14.2 jax==0.10.2 mujoco==3.8.1 mujoco-mjx==3.8.1 numpy==2.4.6
cd "$dir"
JAX_PLATFORMS=cpu "$dir/venv/bin/python" -W ignore - 2>/dev/null <<'EOF'
import jax
import jax.numpy as jnp
from brax import envs

BATCH, LENGTH, EPISODES = 4, 20, 5
ENV = {"episode_length": LENGTH, "backend": "spring", "batch_size": BATCH}


def distinct(starts: list) -> int:
    return len({tuple(map(float, start)) for batch in starts for start in batch})


env = envs.create("inverted_pendulum", auto_reset=True, **ENV)
reset, step = jax.jit(env.reset), jax.jit(env.step)
state = reset(jax.random.PRNGKey(0))
starts = [state.obs]
for _ in range(LENGTH * (EPISODES - 1)):
    state = step(state, jnp.zeros((BATCH, env.action_size)))
    if state.done.any():
        assert state.done.all()
        starts.append(state.obs)  # of the next episode
assert len(starts) == EPISODES
again = [reset(key).obs for key in jax.random.split(jax.random.PRNGKey(0), EPISODES)]
print("auto_reset          ", f"{distinct(starts):>3}")
print("reset before each   ", f"{distinct(again):>3}")
assert distinct(starts) == BATCH and distinct(again) == BATCH * EPISODES
EOF
