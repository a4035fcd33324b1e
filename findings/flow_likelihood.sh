#!/usr/bin/env bash
# The likelihood that flow_matching gives a flow of four Euler steps is that of no distribution: it integrates to 1.5, and is not the samples'.
# Versions: flow-matching 1.0.10, torch 2.13.0, torchdiffeq 0.2.5
# Behaviour: ODESolver's sample and compute_likelihood take the same step_size. The first takes Euler steps forward. The second takes other
#   Euler steps back, and adds up divergences, where the density of K steps needs log |det(1 + J / K)| of each. Both are right as K grows. At
#   the K of a policy the exact flow from N(0, 1) to N(0, .1^2) makes samples narrower than .1 and calls them wider: the entropy by this
#   likelihood is too high by 1.6 nats per dimension, 27 for the 17 actions of Humanoid.
# Seen 2026-11-30 (entropies in nats; of the samples: they are Gaussian):
#   K = 4:   deviation 0.028, mass of the density 1.53, entropy by the likelihood -0.54, of the samples -2.15
#   K = 10:  deviation 0.062, mass of the density 1.33, entropy by the likelihood -1.11, of the samples -1.36
#   K = 100: deviation 0.096, mass of the density 1.03, entropy by the likelihood -0.95, of the samples -0.92
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 flow-matching==1.0.10 torchdiffeq==0.2.5 numpy==2.4.6 tqdm==4.67.1
cat >"$dir/likelihood.py" <<'EOF'
import math

import torch
from flow_matching.solver import ODESolver

WIDTH = 0.1  # standard deviation of the target


def velocity(x, t):
    """The marginal field of straight paths between independent draws of N(0, 1) and N(0, WIDTH^2)."""
    return (t * WIDTH**2 - (1 - t)) / (t**2 * WIDTH**2 + (1 - t) ** 2) * x


def log_normal(x):
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


solver, errors = ODESolver(velocity), {}
for steps in (4, 10, 100):
    torch.manual_seed(0)
    samples = solver.sample(torch.randn(20_000, 1), step_size=1 / steps)
    grid = torch.linspace(-20 * WIDTH, 20 * WIDTH, 20_001)[:, None]
    density, own = (
        solver.compute_likelihood(x, log_normal, step_size=1 / steps, exact_divergence=True)[1] for x in (grid, samples)
    )
    mass = torch.trapezoid(density.exp(), grid[:, 0]).item()
    deviation, claimed = samples.std().item(), -own.mean().item()
    entropy = math.log(deviation) + 0.5 * math.log(2 * math.pi * math.e)
    text = "{:8} deviation {:.3f}, mass of the density {:.2f}, entropy by the likelihood {:.2f}, of the samples {:.2f}"
    print(text.format(f"K = {steps}:", deviation, mass, claimed, entropy))
    errors[steps] = mass, claimed - entropy
assert errors[4][0] > 1.4 and errors[4][1] > 1.5
assert abs(errors[100][0] - 1) < 0.05 and abs(errors[100][1]) < 0.05
EOF
"$dir/venv/bin/python" "$dir/likelihood.py"
