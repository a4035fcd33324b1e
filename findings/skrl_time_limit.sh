#!/usr/bin/env bash
# skrl's PPO credits an episode that its time limit cut off with the rewards of the next episode.
# Versions: skrl 2.1.1, torch 2.13.0, gymnasium 1.4.0
# Behaviour: time_limit_bootstrap is False by default, which reads as "a time limit ends the return". It does not: only a termination does.
#   The generalized advantage goes on over the limit, with the value of the next episode's first state and all that follows there, as if
#   the reset were a step of the task. With True the return ends at the limit, by the value of the state there.
#   skrl's SAC, TD3, DDPG and DQN have no such flag and bootstrap at a time limit.
# Seen 2026-11-30 (two episodes of four steps, each cut off; rewards 0 in the first, 1 in the second; a critic that says 0):
#   rewards                     0.00 0.00 0.00 0.00 1.00 1.00 1.00 1.00
#   time_limit_bootstrap=False  2.86 3.04 3.23 3.44 3.66 2.83 1.94 1.00
#   time_limit_bootstrap=True   0.00 0.00 0.00 0.00 3.66 2.83 1.94 1.00
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q skrl==2.1.1 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" - 2>/dev/null <<'EOF'
import gymnasium
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model

BOX = {"observation_space": gymnasium.spaces.Box(-1, 1, (1,)), "action_space": gymnasium.spaces.Box(-1, 1, (1,))}
LENGTH, EPISODES = 4, 2


class Policy(GaussianMixin, Model):
    def __init__(self):
        Model.__init__(self, **BOX, device="cpu")
        GaussianMixin.__init__(self)
        self.mean = torch.nn.Linear(1, 1)

    def compute(self, inputs, role):
        return self.mean(inputs["observations"]), {"log_std": torch.zeros(1)}


class Value(DeterministicMixin, Model):
    """Says 0, so that a return has the rewards alone."""

    def __init__(self):
        Model.__init__(self, **BOX, device="cpu")
        DeterministicMixin.__init__(self)
        self.value = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)

    def compute(self, inputs, role):
        return self.value(inputs["observations"]), {}


def returns(**flags) -> list[float]:
    """What the critic is trained on, after one update."""
    steps = LENGTH * EPISODES
    cfg = PPO_CFG(rollouts=steps, learning_epochs=1, mini_batches=1, **flags)
    memory = RandomMemory(memory_size=steps, num_envs=1, device="cpu")
    agent = PPO(models={"policy": Policy(), "value": Value()}, memory=memory, **BOX, device="cpu", cfg=cfg)
    agent.init()
    agent.enable_training_mode(True)
    for step in range(steps):
        obs = torch.tensor([[step % LENGTH / LENGTH]])
        with torch.no_grad():
            action = agent.act(obs, None, timestep=step, timesteps=steps)[0]
        limit = torch.tensor([[step % LENGTH == LENGTH - 1]])
        agent.record_transition(
            observations=obs,
            states=None,
            actions=action,
            rewards=torch.tensor([[float(step >= LENGTH)]]),
            next_observations=obs + 1 / LENGTH,
            next_states=None,
            terminated=torch.zeros_like(limit),
            truncated=limit,
            infos={},
            timestep=step,
            timesteps=steps,
        )
        agent.post_interaction(timestep=step, timesteps=steps)
    return memory.get_tensor_by_name("returns").flatten().tolist()


default, bootstrapped = returns(), returns(time_limit_bootstrap=True)
assert not PPO_CFG().time_limit_bootstrap and default == returns(time_limit_bootstrap=False)
for name, row in (
    ("rewards", [0.0] * LENGTH + [1.0] * LENGTH),
    ("time_limit_bootstrap=False", default),
    ("time_limit_bootstrap=True", bootstrapped),
):
    print(f"{name:<27}", *(f"{number:.2f}" for number in row))
assert min(default[:LENGTH]) > 2 and max(map(abs, bootstrapped[:LENGTH])) < 1e-6
assert default[LENGTH:] == bootstrapped[LENGTH:]
EOF
