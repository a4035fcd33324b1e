#!/usr/bin/env bash
# SAC's default target entropy, -17 on Humanoid, asks TorchRL for a wider policy than Stable-Baselines3: they measure entropy in other units.
# Versions: torchrl 0.14.1 (tensordict 0.14.3), stable-baselines3 2.9.2, gymnasium 1.4.0, torch 2.13.0
# Behaviour: both take minus the number of action dimensions. Stable-Baselines3 has the density of the action in [-1, 1], TorchRL
#   that of the action in the environment's units. Humanoid's actions are within .4, which is 17 log .4 = -15.6 nats: the policy with
#   entropy -17 in TorchRL has -1.4 in Stable-Baselines3. On tasks with actions within 1 they agree.
# Seen 2026-11-29 (entropies of one Gaussian behind tanh, 20 000 samples):
#   actions within 1.0: targets -17 and -17, entropy 11.2 in Stable-Baselines3, 11.2 in TorchRL
#   actions within 0.4: targets -17 and -17, entropy 11.2 in Stable-Baselines3, -4.4 in TorchRL
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6
cat >"$dir/entropy.py" <<'EOF'
import math

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss


class Still(gym.Env):
    """17 actions within a bound, as Humanoid has."""

    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, bound):
        self.action_space = gym.spaces.Box(-bound, bound, (17,), np.float32)

    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


class Q(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(20, 1)

    def forward(self, obs, action):
        return self.layer(torch.cat([obs, action], -1))


found = []
for bound in (1.0, 0.4):
    model, obs = SAC("MlpPolicy", Still(bound), seed=0), torch.zeros(20_000, 3)
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(obs)
        ours = -model.actor.action_log_prob(obs)[1].mean().item()
        gaussian = TanhNormal(mean, log_std.exp(), low=-bound, high=bound)
        theirs = -gaussian.log_prob(gaussian.sample()).mean().item()
    spec = Bounded(-bound, bound, (17,))
    net = TensorDictModule(
        torch.nn.Sequential(torch.nn.Linear(3, 34), NormalParamExtractor()), ["observation"], ["loc", "scale"]
    )
    limits = {"low": spec.space.low, "high": spec.space.high}
    actor = ProbabilisticActor(
        net, in_keys=["loc", "scale"], spec=spec, distribution_class=TanhNormal, distribution_kwargs=limits, return_log_prob=True
    )
    loss = SACLoss(actor, ValueOperator(Q(), in_keys=["observation", "action"]))
    targets = f"targets {model.target_entropy:.0f} and {loss.target_entropy.item():.0f}"
    print(f"actions within {bound}: {targets}, entropy {ours:.1f} in Stable-Baselines3, {theirs:.1f} in TorchRL")
    assert model.target_entropy == loss.target_entropy.item() == -17
    found.append(ours - theirs)
assert abs(found[0]) < 0.2 and abs(found[1] + 17 * math.log(0.4)) < 0.2
EOF
"$dir/venv/bin/python" "$dir/entropy.py" 2>/dev/null
