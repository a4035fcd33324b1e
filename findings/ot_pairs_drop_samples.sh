#!/usr/bin/env bash
# TorchCFM's optimal-transport matcher drops more than a third of every batch: it draws its pairs from the plan with replacement.
# Versions: torchcfm 1.0.7, pot 0.9.7.post1, torch 2.13.0
# Behaviour: an exact plan between two batches of one size is a permutation, which would use each sample once. The matcher draws as
#   many pairs from it independently, so that 1 - 1/e of the samples come, and some of them several times. A flow matched to the pairs is
#   not biased; its batches say no more than smaller ones. sample_plan(..., replace=False) takes each once.
# Seen 2026-11-29 (256 samples, of 256 different data):
#   plan: 256 pairs in a permutation
#   sample_location_and_conditional_flow: 163 of 256 data, one up to 6 times
#   sample_plan(replace=False): 256 of 256 data
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 scipy==1.17.1 pot==0.9.7.post1
"$dir/venv/bin/pip" install -q --no-deps torchcfm==1.0.7
cat >"$dir/pairs.py" <<'EOF'
import sys
import types

import numpy as np
import torch

# A package of the two modules alone: its own __init__ needs torchdyn and torchvision.
package = sys.modules["torchcfm"] = types.ModuleType("torchcfm")
package.__path__ = [f"{sys.prefix}/lib/python3.11/site-packages/torchcfm"]
from torchcfm import conditional_flow_matching, optimal_transport  # noqa: E402

torch.manual_seed(0)
np.random.seed(0)
n = 256
noise, data = torch.randn(n, 3), torch.randn(n, 3)
sampler = optimal_transport.OTPlanSampler(method="exact")
plan = sampler.get_map(noise, data)
assert ((plan > 0).sum(0) == 1).all() and ((plan > 0).sum(1) == 1).all()
print(f"plan: {(plan > 0).sum()} pairs in a permutation")


def number(chosen):
    """Which of the data each row is."""
    return torch.cdist(chosen, data).argmin(1)


matcher = conditional_flow_matching.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
t, x_t, velocity = matcher.sample_location_and_conditional_flow(noise, data)
_, times = number(x_t + (1 - t[:, None]) * velocity).unique(return_counts=True)
print(f"sample_location_and_conditional_flow: {len(times)} of {n} data, one up to {times.max()} times")
assert 0.55 * n < len(times) < 0.7 * n
once = number(sampler.sample_plan(noise, data, replace=False)[1]).unique()
print(f"sample_plan(replace=False): {len(once)} of {n} data")
assert len(once) == n
EOF
"$dir/venv/bin/python" "$dir/pairs.py"
