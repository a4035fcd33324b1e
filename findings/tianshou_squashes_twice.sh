#!/usr/bin/env bash
# The best action that Tianshou's SAC can take without noise is .76 of the bound: its actor squashes the mean, and its policy squashes again.
# Versions: tianshou 2.0.1, torch 2.13.0, gymnasium 1.4.0
# Behaviour: ContinuousActorProbabilistic ends in tanh unless unbounded=True, and SACPolicy takes tanh of what it draws. So the action
#   without noise is at most tanh(1) = .7616 whatever is learned; the one warning is of a max_action that is not 1. SACExperimentBuilder, the
#   high-level interface, has the same default (read in its source, not run).
# Seen 2026-11-30 (episodes of one step whose reward is the action, best 1; 600 updates; the largest over 1000 observations):
#   the actor's default   without noise 0.762
#   unbounded=True        without noise 0.995
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q tianshou==2.0.1 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import math

import gymnasium
import numpy as np
import torch
from tianshou.algorithm import SAC
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

torch.set_num_threads(1)
EPISODES, SIZES, ADAM = 4000, (64, 64), AdamOptimizerFactory(lr=3e-3)
rng = np.random.default_rng(0)
observations = rng.uniform(-1, 1, (EPISODES, 2)).astype(np.float32)
actions = rng.uniform(-1, 1, (EPISODES, 1)).astype(np.float32)
buffer = ReplayBuffer(EPISODES)
for obs, action in zip(observations, actions):
    buffer.add(Batch(obs=obs, act=action, rew=action[0], terminated=True, truncated=False, obs_next=obs, info={}))


def best_action(**flags) -> float:
    torch.manual_seed(0)
    np.random.seed(0)
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=(2,), hidden_sizes=SIZES), action_shape=(1,), conditioned_sigma=True, **flags
    )
    critic = ContinuousCritic(preprocess_net=Net(state_shape=(2,), action_shape=(1,), hidden_sizes=SIZES, concat=True))
    policy = SACPolicy(actor=actor, action_space=gymnasium.spaces.Box(-1, 1, (1,)))
    sac = SAC(policy=policy, policy_optim=ADAM, critic=critic, critic_optim=ADAM, alpha=0.01)
    with policy_within_training_step(policy), torch_train_mode(sac):
        for _ in range(600):
            sac.update(buffer=buffer, sample_size=64)
    with torch.no_grad():
        return policy(Batch(obs=observations[:1000], info={})).act.max().item()


default, unbounded = best_action(), best_action(unbounded=True)
print(f"the actor's default   without noise {default:.3f}")
print(f"unbounded=True        without noise {unbounded:.3f}")
assert math.tanh(1) - 0.01 < default < math.tanh(1) + 1e-6 and unbounded > 0.97
EOF
