#!/usr/bin/env bash
# dm_control's flat observation and Gymnasium's flat observation of the same task are the same numbers in another order, in 32 of 51 tasks.
# Versions: dm_control 1.0.41, shimmy 2.0.1, gymnasium 1.4.0, mujoco 3.8.1
# Behaviour: flat_observation=True of dm_control joins the parts in the task's order, Gymnasium's FlattenObservation, behind Shimmy, in
#   the alphabet's. Lengths agree, so that a policy, a data set or normalisation statistics of one run with the other without an error.
# Seen 2026-11-29:
#   cheetah-run, dm_control: position velocity
#   cheetah-run, Gymnasium:  position velocity
#   walker-walk, dm_control: orientations height velocity
#   walker-walk, Gymnasium:  height orientations velocity
#   tasks whose order differs: 32 of 51
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export MUJOCO_GL=${MUJOCO_GL:-disabled}
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q dm_control==1.0.41 shimmy==2.0.1 gymnasium==1.4.0 mujoco==3.8.1 numpy==2.4.6 imageio==2.38.1 packaging==26.4
cat >"$dir/order.py" <<'EOF'
import gymnasium as gym
import numpy as np
import shimmy  # noqa: F401
from dm_control import suite
from gymnasium.wrappers import FlattenObservation

differ = 0
for domain, task in suite.ALL_TASKS:
    env = gym.make(f"dm_control/{domain}-{task}-v0")
    parts = list(suite.load(domain, task).observation_spec())
    differ += parts != list(env.observation_space.spaces)
    if (domain, task) not in (("walker", "walk"), ("cheetah", "run")):
        continue
    print(f"{domain}-{task}, dm_control: {' '.join(parts)}")
    print(f"{domain}-{task}, Gymnasium:  {' '.join(env.observation_space.spaces)}")
    own = suite.load(domain, task, environment_kwargs={"flat_observation": True})
    flat = own.reset().observation["observations"]
    named = own.task.get_observation(own.physics)
    assert np.array_equal(flat, np.concatenate([np.ravel(named[name]) for name in parts]))
    other = FlattenObservation(env).observation(named)
    assert flat.shape == other.shape and np.array_equal(np.sort(flat), np.sort(other))
    assert np.array_equal(flat, other) == (domain == "cheetah")
print(f"tasks whose order differs: {differ} of {len(suite.ALL_TASKS)}")
assert differ > 20
EOF
"$dir/venv/bin/python" "$dir/order.py" 2>/dev/null
