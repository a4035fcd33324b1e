#!/usr/bin/env bash
# torchdiffeq's "rk4" is not the classic Runge-Kutta method: it asks the network at t, t + h/3, t + 2h/3 and t + h.
# Versions: torchdiffeq 0.2.5, torch 2.13.0, scipy 1.17.1
# Behaviour: it is Kutta's 3/8 rule, of the same order and cost. In a few steps, as flows are sampled with, the samples differ: one
#   that was drawn with another library's or one's own rk4 is not repeated. A network that was trained on a grid of times, as those of
#   few-step samplers are, is asked between its points: halves of a step become thirds.
# Seen 2026-11-30 (y' = y cos t from 1 at 0 to t = 1, exact 2.319777):
#   steps   torchdiffeq   classic    3/8 rule   first times asked
#       1      2.317506  2.311615   2.317506   0.000 0.333 0.667 1.000
#       2      2.319748  2.319190   2.319748   0.000 0.167 0.333 0.500
#       4      2.319781  2.319739   2.319781   0.000 0.083 0.167 0.250
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torchdiffeq==0.2.5 torch==2.13.0 numpy==2.4.6 scipy==1.17.1
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import math

import torch
from torchdiffeq import odeint

asked = []


def velocity(t, y):
    asked.append(float(t))
    return y * torch.cos(torch.as_tensor(t, dtype=torch.float64))


def classic(t, y, h):
    k1 = velocity(t, y)
    k2 = velocity(t + h / 2, y + h / 2 * k1)
    k3 = velocity(t + h / 2, y + h / 2 * k2)
    k4 = velocity(t + h, y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def three_eighths(t, y, h):
    k1 = velocity(t, y)
    k2 = velocity(t + h / 3, y + h / 3 * k1)
    k3 = velocity(t + 2 * h / 3, y + h * (k2 - k1 / 3))
    k4 = velocity(t + h, y + h * (k1 - k2 + k3))
    return y + h / 8 * (k1 + 3 * k2 + 3 * k3 + k4)


def integrate(method, steps):
    y = torch.ones(1, dtype=torch.float64)
    for i in range(steps):
        y = method(i / steps, y, 1 / steps)
    return y.item()


print("steps   torchdiffeq   classic    3/8 rule   first times asked")
for steps in (1, 2, 4):
    asked.clear()
    start, times = torch.ones(1, dtype=torch.float64), torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    theirs = odeint(velocity, start, times, method="rk4")[-1].item()
    first = asked[:4]
    old, other = integrate(classic, steps), integrate(three_eighths, steps)
    print(f"{steps:>5} {theirs:>13.6f} {old:>9.6f} {other:>10.6f}  ", *(f"{t:.3f}" for t in first))
    assert abs(theirs - other) < 1e-12 and abs(theirs - old) > 1e-5
    assert math.isclose(first[1] * steps, 1 / 3) and math.isclose(first[2] * steps, 2 / 3)
EOF
