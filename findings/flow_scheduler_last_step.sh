#!/usr/bin/env bash
# K steps of diffusers' flow-matching Euler scheduler are K - 1 steps: the last evaluation of the network moves a sample by .001.
# Versions: diffusers 0.42.1, torch 2.13.0
# Behaviour: set_timesteps(K) spreads the noise levels evenly from 1 to 1/1000, the smallest of training, and appends 0. So the steps are
#   .999 / (K - 1) long and the last one .001, whatever K is. With K = 2 a sample is one step. Image pipelines hide it by tens of steps or
#   pass sigmas of their own; a policy with four steps pays for four evaluations of its network and integrates with three.
#   set_timesteps(sigmas=...) with 1, .75, .5, .25 has four even steps.
# Seen 2026-11-29 (error of the Euler integration of dx/dt = x from 1):
#   K = 2: steps 0.999 0.001, error 0.7173; even steps 0.4683, one step fewer 0.7183
#   K = 4: steps 0.333 0.333 0.333 0.001, error 0.3473; even steps 0.2769, one step fewer 0.3479
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cat >"$dir/steps.py" <<'EOF'
import math

import torch
from diffusers import FlowMatchEulerDiscreteScheduler


def integrate(scheduler):
    """dx/dt = x over t = 1 - sigma, whose velocity the scheduler wants with the sign of d sigma."""
    x = torch.ones(1)
    for t in scheduler.timesteps:
        x = scheduler.step(-x, t, x).prev_sample
    return x.item()


for steps in (2, 4):
    scheduler, even = FlowMatchEulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    even.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
    lengths = -scheduler.sigmas.diff()
    assert len(scheduler.timesteps) == steps and abs(lengths[-1] - 0.001) < 1e-6
    assert torch.allclose(-even.sigmas.diff(), torch.full((steps,), 1 / steps))
    error, best, fewer = math.e - integrate(scheduler), math.e - integrate(even), math.e - (1 + 1 / (steps - 1)) ** (steps - 1)
    print(f"K = {steps}: steps", *(f"{length:.3f}" for length in lengths), end=", ")
    print(f"error {error:.4f}; even steps {best:.4f}, one step fewer {fewer:.4f}")
    assert abs(error - fewer) < 0.02 * fewer and best < 0.9 * error
EOF
"$dir/venv/bin/python" "$dir/steps.py"
