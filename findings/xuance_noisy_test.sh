#!/usr/bin/env bash
# XuanCe's SAC is tested with its exploration noise: test_mode, "True for testing without noises", changes nothing in it. TD3's works.
# Versions: xuance 1.4.4, torch 2.13.0, gymnasium 1.2.3
# Behaviour: test(), which says that it selects actions "in deterministic (test) mode", passes test_mode=True, and SAC's agent draws from its
#   policy all the same. So the curves of tests are those of the noisy policy, lower than others' where noise costs return.
# Seen 2026-12-01 (Pendulum-v1, untrained; mean distance of an action in test() from what the policy gives without noise, in units of the bound):
#   SAC 0.552
#   TD3 0.000
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3.11 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==1.26.4 gymnasium==1.2.3 pyyaml==6.0.4 scipy==1.17.1 tqdm==4.70.1 \
    tensorboard==2.21.0 pettingzoo==1.27.0 imageio==2.38.1 pyglet==1.5.15 wandb==0.31.0
"$dir/venv/bin/pip" install -q --no-deps xuance==1.4.4
cd "$dir"
OMP_NUM_THREADS=1 "$dir/venv/bin/python" -W ignore - <<'EOF'
import contextlib
import os
from argparse import Namespace

import numpy as np
import torch

with contextlib.redirect_stdout(None):  # it says that OpenCV is missing, which is for other environments
    import xuance
    from xuance.common import BaseCallback, load_yaml
    from xuance.environment import make_envs
    from xuance.torch.agents import SAC_Agent, TD3_Agent

torch.set_num_threads(1)
CONFIGS = os.path.join(os.path.dirname(xuance.__file__), "configs")
OURS = dict(device="cpu", parallels=2, render=False, logger="tensorboard", log_dir="logs/", model_dir="models/")


def sac_mean(policy, obs):
    gaussian = policy.actor(policy.actor_representation(obs)["state"])
    return torch.tanh(gaussian.get_param()[0])


def td3_mean(policy, obs):
    return policy(obs)[1]


class Distances(BaseCallback):
    """Of each action that a test takes from the policy's action without noise."""

    def __init__(self, mean):
        self.mean, self.seen = mean, []

    def on_test_step(self, *_, policy, obs, policy_out, **__):
        with torch.no_grad():
            self.seen.append(np.abs(policy_out["actions"] - self.mean(policy, obs).numpy()).mean())


distance = {}
for name, agent_class, mean in (("SAC", SAC_Agent, sac_mean), ("TD3", TD3_Agent, td3_mean)):
    path = f"{CONFIGS}/{name.lower()}/classic_control/Pendulum-v1.yaml"
    config = Namespace(**(load_yaml(f"{CONFIGS}/basic.yaml") | load_yaml(path) | OURS))
    callback = Distances(mean)
    torch.manual_seed(0)
    agent = agent_class(config, make_envs(config), callback=callback)
    agent.test(test_episodes=4, test_envs=make_envs(config))
    distance[name] = np.mean(callback.seen)
    print(f"{name} {distance[name]:.3f}")
assert distance["SAC"] > 0.3 and distance["TD3"] < 1e-6
EOF
