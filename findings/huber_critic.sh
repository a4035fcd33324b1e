#!/usr/bin/env bash
# TorchRL's SAC and TD3 do not learn the mean return: of a reward of 10 in one step of ten their critics make .11, not 1.
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.13.0
# Behaviour: loss_function is "smooth_l1" in SACLoss, TD3Loss, REDQLoss and CrossQLoss, "l2" in DDPGLoss and DQNLoss. An error above 1
#   pulls no harder than one of 1, so that what is learned of a spread of returns is nearer to their median than to their mean. Returns
#   of MuJoCo tasks differ by hundreds. loss_function="l2" learns the mean.
# Seen 2026-11-30 (value of one state whose steps all end, one in ten with reward 10):
#   SACLoss                      0.111
#   SACLoss, loss_function="l2"  1.000
#   TD3Loss                      0.111
#   DDPGLoss                     1.000
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torchrl==0.14.1 tensordict==0.14.3 torch==2.13.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import DDPGLoss, SACLoss, TD3Loss


class Constant(nn.Module):
    """One value for everything."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, observation, action):
        return self.value.expand(len(observation), 1)


def deterministic():
    return TensorDictModule(nn.Sequential(nn.Linear(1, 1), nn.Tanh()), ["observation"], ["action"])


def squashed():
    heads = TensorDictModule(
        nn.Sequential(nn.Linear(1, 2), NormalParamExtractor()), ["observation"], ["loc", "scale"]
    )
    return ProbabilisticActor(
        heads, in_keys=["loc", "scale"], distribution_class=TanhNormal, spec=Bounded(-1, 1, (1,))
    )


rewards = torch.zeros(10, 1)
rewards[0] = 10
nothing, ended = torch.zeros(10, 1), torch.ones(10, 1, dtype=torch.bool)
after = {"observation": nothing, "reward": rewards, "done": ended, "terminated": ended}
steps = TensorDict({"observation": nothing, "action": nothing, "next": after}, [10])


def learned(kind, actor, name="qvalue", **flags):
    loss = kind(actor, ValueOperator(Constant(), in_keys=["observation", "action"]), **flags)
    weights = list(getattr(loss, f"{name}_network_params").parameters())
    optimizer = torch.optim.SGD(weights, lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        loss(steps.clone())[f"loss_{name}"].backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in weights]).mean().item()


bounds = {"action_spec": Bounded(-1, 1, (1,))}
found = {
    "SACLoss": learned(SACLoss, squashed(), **bounds),
    'SACLoss, loss_function="l2"': learned(SACLoss, squashed(), **bounds, loss_function="l2"),
    "TD3Loss": learned(TD3Loss, deterministic(), **bounds),
    "DDPGLoss": learned(DDPGLoss, deterministic(), "value"),
}
for name, value in found.items():
    print(f"{name:28} {value:.3f}")
assert [round(value, 2) for value in found.values()] == [0.11, 1, 0.11, 1]
EOF
