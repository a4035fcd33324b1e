#!/usr/bin/env bash
# A quadruped that does nothing scores 500 of 1000 on dm_control's quadruped-walk and -run wherever it drops onto its feet.
# Versions: dm_control 1.0.41, mujoco 3.8.1, numpy 2.4.6
# Behaviour: returns of its tasks lie between 0 and 1000, and 1000 is the usual divisor of normalised scores. What an idle body gets differs
#   from task to task. The quadruped's reward for speed is half at speed 0, times how upright it is; it is dropped in a random
#   pose, and lands upright in two of five episodes. The ball begins above the cup in one of ten and falls in. So the same .4 is
#   a policy that learned much on cheetah-run, and less than standing still on quadruped-run.
# Seen 2026-11-30 (zero actions, ten episodes: mean return, least and largest):
#   cheetah-run                0  (0 to 0)
#   walker-walk               18  (10 to 24)
#   walker-stand             105  (61 to 145)
#   fish-swim                 67  (1 to 127)
#   cartpole-balance_sparse  356  (284 to 426)
#   ball_in_cup-catch        100  (0 to 995)
#   quadruped-walk           201  (0 to 503)
#   quadruped-run            202  (0 to 500)
#   cartpole-balance         750  (706 to 774)
#   fish-upright             396  (0 to 970)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q dm_control==1.0.41 mujoco==3.8.1 numpy==2.4.6 scipy==1.17.1
cd "$dir"
MUJOCO_GL=disabled "$dir/venv/bin/python" -W ignore - <<'PY'
import numpy as np
from dm_control import suite

tasks = ("cheetah-run", "walker-walk", "walker-stand", "fish-swim", "cartpole-balance_sparse", "ball_in_cup-catch", "quadruped-walk")
tasks += "quadruped-run", "cartpole-balance", "fish-upright"
means, spans = {}, {}
for name in tasks:
    returns = []
    for seed in range(10):
        env = suite.load(*name.split("-"), task_kwargs={"random": seed})
        nothing = np.zeros(env.action_spec().shape)
        step, score = env.reset(), 0.0
        while not step.last():
            step = env.step(nothing)
            score += step.reward
        returns.append(score)
    means[name], spans[name] = np.mean(returns), (min(returns), max(returns))
    print(f"{name:24} {means[name]:3.0f}  ({min(returns):.0f} to {max(returns):.0f})", flush=True)
assert means["cheetah-run"] < 5 and 600 < means["cartpole-balance"] < 900
assert all(spans[name][0] < 20 and 450 < spans[name][1] < 550 for name in ("quadruped-walk", "quadruped-run"))
PY
