#!/usr/bin/env bash
# ElegantRL's SAC takes the Gaussian's density at its mean, not at its sample: with 17 action dimensions it sees 8.5 nats less entropy than there is.
# Versions: elegantrl 0.3.6, torch 2.13.0
# Behaviour: get_action_logprob draws an action, but asks the Gaussian for the density of the mean, where it is largest; the correction for
#   tanh is the sample's. So in the mean each dimension counts half a nat too little, and the usual target of -17 is met by a policy whose
#   entropy is -8.5. Above the target the temperature should fall; here it rises.
# Seen 2026-12-01 (tanh of a Gaussian of sigma .1 in 17 dimensions; 100 000 samples; alpha in 1000 updates of AgentSAC, the actor held fixed):
#   entropy in nats: -15.19, by ElegantRL -23.69; target -17; alpha goes from 0.368 to 0.469
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$dir/venv/bin/pip" install -q --no-deps elegantrl==0.3.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'EOF'
import math

import torch
from elegantrl.agents import AgentSAC
from elegantrl.train.config import Config
from elegantrl.train.replay_buffer import ReplayBuffer

OBS, ACTIONS, SIGMA, UPDATES = 3, 17, 0.1, 1000
torch.set_num_threads(1)
torch.manual_seed(0)
agent = AgentSAC((64, 64), OBS, ACTIONS, gpu_id=-1, args=Config())
with torch.no_grad():  # mean 0 and deviation SIGMA in every state
    last = agent.act.net_a[-1]
    last.weight.zero_()
    last.bias[:ACTIONS] = 0
    last.bias[ACTIONS:] = math.log(SIGMA)

    action, theirs = agent.act.get_action_logprob(torch.zeros(100_000, OBS))
    action = action.double()
    density = torch.distributions.Normal(0, SIGMA).log_prob(torch.atanh(action)) - torch.log1p(-(action**2))
    entropy, entropy_theirs = -density.sum(1).mean().item(), -theirs.mean().item()

agent.act_optimizer.param_groups[0]["lr"] = 0.0
buffer = ReplayBuffer(2 * UPDATES, OBS, ACTIONS, gpu_id=-1)
rows = torch.randn(UPDATES, 1, OBS), torch.rand(UPDATES, 1, ACTIONS), torch.zeros(UPDATES, 1), torch.ones(UPDATES, 1)
buffer.update(rows)
before = agent.alpha_log.exp().item()
agent.last_state = torch.zeros(1, OBS)  # which exploring would have set
agent.update_net(buffer)
after = agent.alpha_log.exp().item()
print(
    f"entropy in nats: {entropy:.2f}, by ElegantRL {entropy_theirs:.2f}; target -17; "
    f"alpha goes from {before:.3f} to {after:.3f}"
)
assert abs(entropy - entropy_theirs - ACTIONS / 2) < 0.1
assert entropy > -ACTIONS and after > before  # above the target, and yet alpha rises
assert torch.equal(last.bias[ACTIONS:], torch.full((ACTIONS,), math.log(SIGMA)))  # the actor stood still
EOF
