"""Each script learns Reach-v0, a task of delayed rewards, in 2000 steps; with bfloat16 products too.

What --compile computes is compared in test_training.py, to the last loss and gradient."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
import tasks
from conftest import SCRIPTS, scalars

SETTING = {"env_id": "Reach-v0", "total_timesteps": 2000, "learning_starts": 400, "buffer_size": 2000, "gamma": 0.9}
SETTING |= {"batch_size": 64, "critic_hidden_dim": 64, "policy_lr": 1e-3, "policy_frequency": 1, "device": "cpu"}
SETTING |= {"eval_frequency": 400, "eval_episodes": 20, "log_frequency": 400, "compile": False}
# At 1e-3 Flow-T's first updates drive the actions to their bounds, where some seeds stay for a thousand steps.
OWN = dict.fromkeys(SCRIPTS, {"hidden_dim": 64}) | {"sac_flow_t": {"d_model": 32, "policy_lr": 3e-4}}


@pytest.fixture(scope="module")
def yardsticks() -> tuple[float, float]:
    """Mean returns of standing still and of the best controller."""
    env, returns = gym.make("Reach-v0"), []
    for controller in (np.zeros_like, tasks.Reach.best):
        for seed in range(100):
            obs, _ = env.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                obs, reward, _, over, _ = env.step(controller(obs)[:2])
                total += reward
            returns.append(total)
    return np.mean(returns[:100]), np.mean(returns[100:])


def learn(name, yardsticks, folder, **flags):
    """Of the way from standing still to the best controller: below 0 untrained, and more than half of it at the end."""
    module = importlib.import_module(name)
    path = module.main(module.Args(run_dir=str(folder), **SETTING | OWN[name] | flags))
    still, best = yardsticks
    way = [(value - still) / (best - still) for _, value in scalars(path)["eval/episodic_return"]]
    assert way[0] < 0 and max(way[-2:]) > 0.5, way


@pytest.mark.parametrize("name", SCRIPTS)
def test_learns(name, yardsticks, tmp_path):
    learn(name, yardsticks, tmp_path)


def test_learns_with_bf16(yardsticks, tmp_path):
    learn("sac_flow_g", yardsticks, tmp_path, bf16=True)
