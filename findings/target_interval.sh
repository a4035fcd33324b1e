#!/usr/bin/env bash
# target_update_interval=1000 of Stable-Baselines3's SAC updates the target networks at every gradient step, as 1 does.
# Versions: stable-baselines3 2.9.2, torch 2.13.0, gymnasium 1.4.0
# Behaviour: the interval is compared with the number of the step within one call of train(), which begins again at 0. With the usual
#   one gradient step per call every step counts as the first; with four it is every fourth, whatever is asked for beyond four. DQN's
#   argument of the same name counts environment steps over the whole training, and holds.
# Seen 2026-11-29 (gradient steps, and how many of them moved the target networks):
#   SAC, interval    1, 1 gradient step a call  200 steps, 200 moved
#   SAC, interval 1000, 1 gradient step a call  200 steps, 200 moved
#   SAC, interval 1000, 4 gradient steps a call 200 steps, 50 moved
#   DQN, interval  100, 1 gradient step a call  200 steps, 2 moved
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q stable-baselines3==2.9.2 torch==2.13.0 gymnasium==1.4.0
cd "$dir"
"$dir/venv/bin/python" - <<'EOF'
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback


class Moves(BaseCallback):
    """Counts the calls of train() behind which the target network is another."""

    moved, before = 0, None

    def look(self):
        target = self.model.critic_target if hasattr(self.model, "critic_target") else self.model.q_net_target
        now = torch.cat([weight.detach().flatten() for weight in target.parameters()])
        self.moved += self.before is not None and not torch.equal(now, self.before)
        self.before = now

    def _on_rollout_start(self):
        self.look()

    def _on_step(self):
        return True


found = []
for kind, task, interval, steps in (
    (SAC, "Pendulum-v1", 1, 1),
    (SAC, "Pendulum-v1", 1000, 1),
    (SAC, "Pendulum-v1", 1000, 4),
    (DQN, "CartPole-v1", 100, 1),
):
    flags = {"learning_starts": 100, "target_update_interval": interval, "train_freq": steps, "gradient_steps": steps}
    model, moves = kind("MlpPolicy", task, seed=0, device="cpu", **flags), Moves()
    model.learn(300, callback=moves)
    moves.look()  # behind the last one
    found.append((model._n_updates, moves.moved))
    calls = f"{steps} gradient step{'s' * (steps > 1)} a call"
    print(f"{kind.__name__}, interval {interval:4}, {calls:23} {model._n_updates} steps, {moves.moved} moved")
assert found == [(200, 200), (200, 200), (200, 50), (200, 2)]
EOF
