#!/usr/bin/env bash
# Shimmy calls a goal in dm_control's soccer a truncation and the end of the match a termination: value learning bootstraps behind the goal only.
# Versions: shimmy 2.0.1, dm_control 1.0.41, pettingzoo 1.27.0, mujoco 3.8.1
# Behaviour: a discount of 0 at a last step is dm_control's sign of an end, 1 that of a time limit. Shimmy's wrapper for one agent reads it so;
#   the one for several agents reads it the other way round.
# Seen 2026-12-01 (one player a side, a match of one second; the ball put into the goal by hand):
#   a goal           discount 0   termination False   truncation True
#   end of the match discount 1   termination True    truncation False
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q shimmy==2.0.1 dm_control==1.0.41 mujoco==3.8.1 pettingzoo==1.27.0 gymnasium==1.4.0 \
    numpy==2.4.6 pillow==12.3.0 imageio==2.38.1 packaging==26.2
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import numpy as np
from dm_control.locomotion import soccer
from shimmy import DmControlMultiAgentCompatibilityV0 as Shimmy


def match():
    return soccer.load(team_size=1, time_limit=1.0, walker_type=soccer.WalkerType.BOXHEAD)


def score(env):
    goal = env.task.arena.away_goal
    env.task.ball.set_pose(env.physics, (np.array(goal.lower) + np.array(goal.upper)) / 2)


seen = {}
for name, prepare in (("a goal", score), ("end of the match", lambda env: None)):
    env = match()
    step = env.reset()
    prepare(env)
    while not step.last():
        step = env.step([np.zeros(spec.shape) for spec in env.action_spec()])

    inner = match()
    wrapped = Shimmy(inner)
    wrapped.reset(seed=0)
    prepare(inner)
    terminated = truncated = False
    while not (terminated or truncated):
        still = {agent: np.zeros(wrapped.action_space(agent).shape) for agent in wrapped.agents}
        _, _, terminations, truncations, _ = wrapped.step(still)
        terminated, truncated = all(terminations.values()), all(truncations.values())
    seen[name] = int(step.discount), terminated, truncated
    print(f"{name:16} discount {step.discount:.0f}   termination {terminated!s:5}   truncation {truncated}")
assert seen == {"a goal": (0, False, True), "end of the match": (1, True, False)}
EOF
