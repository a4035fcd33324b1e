#!/usr/bin/env bash
# An average of weights with decay .995 is 199 updates old, by hand and in PyTorch; ema-pytorch's, with the same number, is 1999.
# Versions: ema-pytorch 0.8.3, torch-ema 0.3, diffusers 0.42.1, torch 2.13.0
# Behaviour: ema-pytorch's update() moves the average at every tenth call only (update_every), copies the weights in the first 100
#   (update_after_step), and comes to its beta after some 28 000. With update_every=1, update_after_step=0 and a large power it is
#   PyTorch's. torch-ema and diffusers' EMAModel, whose averages diffusion policies act with, begin with the decay (1 + n) / (10 + n),
#   and come to .995 after some 1800 updates.
# Seen 2026-11-29 (by how many updates the average is behind, after 100, 1000, 10 000 and 50 000 updates, of a weight that counts them):
#   torch AveragedModel     77.8   197.7   199.0   199.0
#   torch-ema               10.1   100.1   199.0   199.0
#   diffusers EMAModel      10.0   100.0   199.0   199.0
#   ema-pytorch              9.0   498.6  1978.1  1999.0
#   ema-pytorch, as torch   77.8   197.7   199.0   199.0
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 ema-pytorch==0.8.3 torch-ema==0.3 diffusers==0.42.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import torch
from diffusers.training_utils import EMAModel
from ema_pytorch import EMA
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_ema import ExponentialMovingAverage

DECAY, MOMENTS = 0.995, (100, 1000, 10_000, 50_000)


def behind(make, update, read):
    """The online weight is the number of updates: how far is the average below it?"""
    network, found = torch.nn.Linear(1, 1, bias=False).double(), []
    network.weight.data.zero_()
    average = make(network)
    for step in range(1, MOMENTS[-1] + 1):
        network.weight.data.fill_(step)
        update(average, network)
        if step in MOMENTS:
            found.append(step - read(average).item())
    return found


def torchs(network):
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY))


def as_torch(network):
    return EMA(network, beta=DECAY, update_every=1, update_after_step=0, power=1e9)


def call_update(average, _):
    average.update()


def copied(average):
    return average.ema_model.weight


def shadow(average):
    return average.shadow_params[0]


found = {
    "torch AveragedModel": behind(torchs, AveragedModel.update_parameters, lambda average: average.module.weight),
    "torch-ema": behind(lambda n: ExponentialMovingAverage(n.parameters(), decay=DECAY), call_update, shadow),
    "diffusers EMAModel": behind(
        lambda n: EMAModel(n.parameters(), decay=DECAY), lambda average, n: average.step(n.parameters()), shadow
    ),
    "ema-pytorch": behind(lambda n: EMA(n, beta=DECAY), call_update, copied),
    "ema-pytorch, as torch": behind(as_torch, call_update, copied),
}
for name, ages in found.items():
    print(f"{name:21}", *(f"{age:7.1f}" for age in ages))
rounded = {name: [round(age) for age in ages] for name, ages in found.items()}
assert rounded["torch AveragedModel"] == rounded["ema-pytorch, as torch"] == [78, 198, 199, 199]
assert rounded["torch-ema"] == rounded["diffusers EMAModel"] == [10, 100, 199, 199]
assert rounded["ema-pytorch"] == [9, 499, 1978, 1999]
EOF
