#!/usr/bin/env bash
# A resumed SAC run of rl_games starts again at the first temperature: its checkpoint has the temperature's optimizer, but not the temperature.
# Versions: rl_games 1.6.5, torch 2.13.0, gymnasium 1.4.0
# Behaviour: restore() puts back networks, the three optimizers' states, epoch and frame, without a word of what is missing. The networks were
#   trained with one temperature and go on with init_alpha, while Adam's moments are those of the old one. (The replay buffer is not saved.)
# Seen 2026-12-01 (Pendulum-v1, 2000 frames, init_alpha 1):
#   saved at frame 2000 alpha 0.3; restored at frame 2000 alpha 1.0, the actor's and critics' weights equal: True
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 "gymnasium[classic-control]==1.4.0" tensorboard==2.21.0 \
    tensorboardX==2.6.5 setproctitle==1.3.8 watchdog==7.1.0 psutil==7.2.2 pyyaml==6.0.4
"$dir/venv/bin/pip" install -q --no-deps rl-games==1.6.5
cd "$dir"
OMP_NUM_THREADS=1 "$dir/venv/bin/python" -W ignore - <<'EOF'
import contextlib
import glob
import io

import gymnasium
import torch
from rl_games.common import env_configurations, vecenv
from rl_games.common.ivecenv import IVecEnv
from rl_games.torch_runner import Runner

torch.set_num_threads(1)


class Pendulum(IVecEnv):
    def __init__(self, _, num_actors):
        self.envs = gymnasium.make_vec("Pendulum-v1", num_actors)

    def reset(self):
        return self.envs.reset(seed=0)[0]

    def step(self, actions):
        obs, reward, terminated, truncated, _ = self.envs.step(actions)
        return obs, reward, terminated | truncated, {"time_outs": truncated}

    def get_env_info(self):
        return {
            "observation_space": self.envs.single_observation_space,
            "action_space": self.envs.single_action_space,
        }

    def set_env_state(self, state):
        pass


vecenv.register("PENDULUM", Pendulum)
env_configurations.register("pendulum", {"env_creator": None, "vecenv_type": "PENDULUM"})
NETWORK = {
    "name": "soft_actor_critic",
    "separate": True,
    "space": {"continuous": None},
    "mlp": {"units": [64, 64], "activation": "relu", "initializer": {"name": "default"}},
    "log_std_bounds": [-5, 2],
}
CONFIG = {
    "name": "pendulum",
    "env_name": "pendulum",
    "reward_shaper": {"scale_value": 1.0},
    "max_frames": 2000,
    "num_actors": 2,
    "num_warmup_steps": 100,
    "replay_buffer_size": 10_000,
    "batch_size": 64,
    "gamma": 0.99,
    "critic_tau": 5e-3,
    "actor_lr": 3e-4,
    "critic_lr": 1e-3,
    "alpha_lr": 3e-3,
    "init_alpha": 1.0,
    "learnable_temperature": True,
    "device": "cpu",
    "print_stats": False,
}
PARAMS = {"seed": 0, "algo": {"name": "sac"}, "model": {"name": "soft_actor_critic"}, "network": NETWORK, "config": CONFIG}


def make_agent():
    runner = Runner()
    runner.load({"params": PARAMS})
    return runner.algo_factory.create(runner.algo_name, base_name="pendulum", params=runner.params)


with contextlib.redirect_stdout(io.StringIO()):
    saved = make_agent()
    saved.train()
    (path,) = glob.glob("runs/*/nn/last_*.pth")
    restored = make_agent()
    restored.restore(path)
equal = all(torch.equal(a, b) for a, b in zip(saved.model.parameters(), restored.model.parameters()))
before, after = saved.alpha.item(), restored.alpha.item()
print(
    f"saved at frame {saved.frame} alpha {before:.1f}; restored at frame {restored.frame} alpha {after:.1f}, "
    f"the actor's and critics' weights equal: {equal}"
)
assert equal and restored.frame == saved.frame == 2000 and before < 0.7 and after == 1.0
assert "log_alpha_optimizer" in torch.load(path) and "log_alpha" not in torch.load(path)
EOF
