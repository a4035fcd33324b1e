#!/usr/bin/env bash
# The deterministic action of a squashed Gaussian is not its most likely one, and from sigma = .71 on can be the least likely nearby.
# Versions: stable-baselines3 2.9.2, torch 2.13.0, gymnasium 1.4.0
# Behaviour: the density of a = tanh(u) has a factor 1 / (1 - a^2), which lifts it towards the bounds. tanh(mu), which
#   SquashedDiagGaussianDistribution.mode() returns, is neither mode nor mean of it. Around mu = 0 the second derivative of its
#   logarithm is 2 - 1 / sigma^2: above sigma = 1 / sqrt(2) mode() is a local minimum, and a fresh SAC policy begins at 1. The entropy
#   has its largest value, near log 2, at .87: a policy that is wider than that has to narrow to gain entropy.
# Seen 2026-11-29 (one action dimension, mu = 0, densities on a grid up to .9995):
#   sigma 0.50: density 0.798 at mode(), most 0.798 at 0.00, entropy 0.500
#   sigma 0.70: density 0.570 at mode(), most 0.570 at 0.00, entropy 0.650
#   sigma 0.87: density 0.459 at mode(), most 0.583 at 0.86, entropy 0.684
#   sigma 1.00: density 0.399 at mode(), most 0.767 at 0.96, entropy 0.670
#   sigma 1.50: density 0.266 at mode(), most 5.819 at 1.00, entropy 0.423
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6
cat >"$dir/mode.py" <<'EOF'
import math

import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

grid = torch.linspace(-0.9995, 0.9995, 4001)[:, None]


def squashed(std, count):
    zeros = torch.zeros(count, 1)
    return SquashedDiagGaussianDistribution(1).proba_distribution(zeros, zeros + math.log(std))


entropies = {}
for std in (0.5, 0.7, 0.87, 1.0, 1.5):
    torch.manual_seed(0)
    policy = squashed(std, len(grid))
    density, mode = policy.log_prob(grid).exp(), policy.mode()
    at_mode, most = policy.log_prob(mode).exp()[0].item(), density.max().item()
    where = grid[density.argmax()].abs().item()
    _, log_prob = squashed(std, 1_000_000).log_prob_from_params(torch.zeros(1_000_000, 1), torch.full((1_000_000, 1), math.log(std)))
    entropies[std] = -log_prob.mean().item()
    print(f"sigma {std:.2f}: density {at_mode:.3f} at mode(), most {most:.3f} at {where:.2f}, entropy {entropies[std]:.3f}")
    assert (most > 1.01 * at_mode) == (std > math.sqrt(0.5))
    near = policy.log_prob(mode + 0.05).exp()[0].item()
    assert (near > at_mode) == (std > math.sqrt(0.5))
assert entropies[0.87] > entropies[1.0] > entropies[1.5] and entropies[0.87] < math.log(2)
EOF
"$dir/venv/bin/python" "$dir/mode.py"
