#!/usr/bin/env bash
# skrl's SAC has no squashed policy, and the density of its clipped one counts 4.9 nats where no policy within the bounds has more than .69.
# Versions: skrl 2.1.1, torch 2.13.0, gymnasium 1.4.0
# Behaviour: with clip_actions the sample is clamped to the action space and its log-density is the unclipped Gaussian's at the bound.
#   No density on [-1, 1] has an entropy above log 2 = .69 nats. Minus the mean of this one grows with the deviation without end, so that
#   SAC's bonus pays for a policy that only ever acts at a bound, and the usual target of -1 nat per dimension is exceeded there.
#   Without clip_actions, the default, actions leave the space and their densities are right.
# Seen 2026-11-29 (one dimension, mean 0, 100 000 samples each):
#   deviation  0.37: minus the mean log-density 0.41 nats, at a bound  1 %; unclipped 0.42 nats
#   deviation  1.00: minus the mean log-density 1.18 nats, at a bound 32 %; unclipped 1.42 nats
#   deviation  7.39: minus the mean log-density 2.93 nats, at a bound 89 %; unclipped 3.42 nats
#   deviation 54.60: minus the mean log-density 4.92 nats, at a bound 98 %; unclipped 5.42 nats
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q skrl==2.1.1 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import gymnasium
import torch
from skrl.models.torch import GaussianMixin, Model


class Policy(GaussianMixin, Model):
    def __init__(self, log_std, clip_actions):
        box = gymnasium.spaces.Box(-1, 1, (1,))
        Model.__init__(self, observation_space=box, action_space=box, device="cpu")
        GaussianMixin.__init__(self, clip_actions=clip_actions, max_log_std=4)
        self.log_std = log_std

    def compute(self, inputs, role):
        zeros = torch.zeros(len(inputs["observations"]), 1)
        return zeros, {"log_std": zeros + self.log_std}


found = []
for log_std in (-1.0, 0.0, 2.0, 4.0):
    torch.manual_seed(0)
    inputs = {"observations": torch.zeros(100_000, 1)}
    action, outputs = Policy(log_std, True).act(inputs)
    free = Policy(log_std, False).act(inputs)[1]["log_prob"]
    clipped, share = -outputs["log_prob"].mean().item(), (action.abs() == 1).float().mean().item()
    found.append(clipped)
    print(
        f"deviation {torch.tensor(log_std).exp():5.2f}: minus the mean log-density {clipped:.2f} nats, "
        f"at a bound {share:3.0%}; unclipped {-free.mean():.2f} nats".replace("%", " %")
    )
assert found == sorted(found) and found[1] > 1 and found[3] > 4
EOF
