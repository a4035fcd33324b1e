#!/usr/bin/env bash
# torch.manual_seed does not repeat a sample of torchsde: its noise is seeded by NumPy's global generator.
# Versions: torchsde 0.2.6, torch 2.13.0, numpy 2.4.6
# Behaviour: sdeint makes its Brownian motion by itself and seeds it with an integer that np.random draws. So np.random.seed repeats the
#   sample, though everything else is PyTorch's, and torch.manual_seed does not. A policy's or diffusion model's samples
#   by torchsde are not repeatable in a program that seeds PyTorch alone; a Brownian motion of one's own takes the seed as `entropy`.
# Seen 2026-11-30 (dy = -y dt + dW from 0 to 1 in four Euler steps; the number of different samples in five):
#   torch.manual_seed(0) before each               5
#   np.random.seed(0) before each                  1
#   BrownianInterval(.., entropy=0) for each       1
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torchsde==0.2.6 torch==2.13.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import numpy as np
import torch
import torchsde


class OrnsteinUhlenbeck(torch.nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return torch.ones_like(y)


def sample(**motion) -> float:
    start, times = torch.zeros(1, 1), torch.tensor([0.0, 1.0])
    return torchsde.sdeint(OrnsteinUhlenbeck(), start, times, dt=0.25, method="euler", **motion)[-1].item()


def seeded(seed) -> int:
    """How many samples differ, each drawn after seed(0)."""
    found = set()
    for _ in range(5):
        seed(0)
        found.add(sample())
    return len(found)


by_torch, by_numpy = seeded(torch.manual_seed), seeded(np.random.seed)
own = {sample(bm=torchsde.BrownianInterval(0.0, 1.0, size=(1, 1), entropy=0)) for _ in range(5)}
print("torch.manual_seed(0) before each              ", by_torch)
print("np.random.seed(0) before each                 ", by_numpy)
print("BrownianInterval(.., entropy=0) for each      ", len(own))
assert (by_torch, by_numpy, len(own)) == (5, 1, 1)
EOF
