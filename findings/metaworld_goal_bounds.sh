#!/usr/bin/env bash
# Meta-World's MT1 shows the goal, but its observation space says that the goal is always 0: what goes by the bounds erases it or divides by 0.
# Versions: metaworld 3.1.1, gymnasium 1.4.0, mujoco 3.3.0
# Behaviour: the space is read while the goal is still hidden, as in ML1, and bounds its three numbers by 0 and 0. No observation is in the
#   space. Clipping to it leaves a task whose goal cannot be seen, without an error; rescaling from its bounds has nothing to divide by.
#   Of the other 36 numbers none leaves its bounds here.
# Seen 2026-11-29:
#   reach-v3: goal [0.085 0.883 0.292], bounds [0. 0. 0.] to [0. 0. 0.], outside [36, 37, 38], after clipping [0. 0. 0.]
#   push-v3: goal [0.085 0.883 0.019], bounds [0. 0. 0.] to [0. 0. 0.], outside [36, 37, 38], after clipping [0. 0. 0.]
#   door-open-v3: goal [-0.292  0.455  0.15 ], bounds [0. 0. 0.] to [0. 0. 0.], outside [36, 37, 38], after clipping [0. 0. 0.]
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q metaworld==3.1.1 gymnasium==1.4.0 mujoco==3.3.0 numpy==2.4.6 imageio==2.38.1 packaging==26.4
"$dir/venv/bin/python" -W ignore - 2>/dev/null <<'EOF'
import gymnasium as gym
import metaworld  # noqa: F401
import numpy as np

for name in ("reach-v3", "push-v3", "door-open-v3"):
    env = gym.make("Meta-World/MT1", env_name=name, seed=0)
    obs, _ = env.reset(seed=0)
    space, goal = env.observation_space, obs[36:]
    low, high = space.low[36:], space.high[36:]
    outside = np.flatnonzero((obs < space.low) | (obs > space.high)).tolist()
    clipped = np.clip(obs, space.low, space.high)[36:]
    print(f"{name}: goal {goal.round(3)}, bounds {low} to {high}, outside {outside}, after clipping {clipped}")
    assert np.allclose(goal, env.unwrapped._target_pos), "it is the task's own goal"
    assert outside == [36, 37, 38] and not low.any() and not high.any() and not clipped.any()
EOF
