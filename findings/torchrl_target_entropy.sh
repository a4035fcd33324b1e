#!/usr/bin/env bash
# TorchRL's SAC aims at another entropy with more environments: its target "auto" counts their number as action dimensions.
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.13.0, gymnasium 1.4.0
# Behaviour: SACLoss(target_entropy="auto") is documented as -prod(n_actions). Given the action_spec of a batched environment that is the
#   product of the whole shape, batch included: -16 nats with 16 environments of one action dimension each, the entropy of an interval
#   a ten-millionth wide. full_action_spec and action_spec_unbatched give -1.
# Seen 2026-11-30:
#    1 environment   action_spec   -1  full_action_spec   -1  action_spec_unbatched   -1
#    4 environments  action_spec   -4  full_action_spec   -1  action_spec_unbatched   -1
#   16 environments  action_spec  -16  full_action_spec   -1  action_spec_unbatched   -1
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 gymnasium==1.4.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 + 1, 1)

    def forward(self, observation, action):
        return self.layer(torch.cat([observation, action], dim=-1))


def target(spec):
    heads = nn.Sequential(nn.Linear(3, 2), NormalParamExtractor())
    module = TensorDictModule(heads, in_keys=["observation"], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(module, in_keys=["loc", "scale"], distribution_class=TanhNormal)
    critic = ValueOperator(Critic(), in_keys=["observation", "action"])
    return SACLoss(actor, critic, action_spec=spec, target_entropy="auto").target_entropy.item()


for count in (1, 4, 16):
    envs = SerialEnv(count, lambda: GymEnv("Pendulum-v1"))
    whole, composite, single = target(envs.action_spec), target(envs.full_action_spec), target(envs.action_spec_unbatched)
    print(f"{count:2d} environment{'s' if count > 1 else ' '}  action_spec {whole:4.0f}  full_action_spec {composite:4.0f}",
          f" action_spec_unbatched {single:4.0f}")
    assert (whole, composite, single) == (-count, -1, -1)
PY
