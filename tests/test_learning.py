"""Each script learns InvertedPendulum-v4 (at most 1000 per episode) in 2500 steps, the Gaussian as the yardstick, and
compiled or with bfloat16 products as it does without."""

import importlib
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from conftest import FLOWS, SCRIPTS, scalars

SEEDS = (1, 2, 3)
SETTING = {"env_id": "InvertedPendulum-v4", "total_timesteps": 2500, "learning_starts": 500, "buffer_size": 2500}
SETTING |= {"batch_size": 64, "critic_hidden_dim": 64, "policy_lr": 1e-3, "policy_frequency": 1}
SETTING |= {"eval_frequency": 500, "eval_episodes": 5, "log_frequency": 500, "device": "cpu", "compile": False}
FASTER = [("sac_flow_g", "compile"), *((name, "bf16") for name in FLOWS)]
WIDTH = dict.fromkeys(SCRIPTS, {"hidden_dim": 64}) | {"sac_flow_t": {"d_model": 32}}


def train(job):
    """Mean return of each evaluation: at steps 500 (untrained), 1000, .., 2500."""
    name, seed, *switches = job
    module = importlib.import_module(name)
    flags = SETTING | WIDTH[name] | dict.fromkeys(switches, True)
    with tempfile.TemporaryDirectory() as folder:
        path = module.main(module.Args(seed=seed, run_dir=folder, **flags))
        return [value for _, value in scalars(path)["eval/episodic_return"]]


@pytest.fixture(scope="module")
def returns():
    """(script, seed, flags that are on) -> evaluations, trained in one process per core, each of one thread."""
    jobs = [(name, seed) for name in SCRIPTS for seed in SEEDS]
    jobs += [(name, seed, switch) for name, switch in FASTER for seed in SEEDS[:2]]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return dict(zip(jobs, pool.map(train, jobs), strict=True))


@pytest.mark.parametrize("name", SCRIPTS)
def test_learns_the_pendulum(returns, name):
    """Every seed starts below 50 and holds the pole for 900 of 1000 steps in an evaluation, and two of three do so in
    one of their last two: rounding, which differs from processor to processor, decides whether a seed drops it again.
    """
    curves = [returns[name, seed] for seed in SEEDS]
    assert all(curve[0] < 50 and max(curve) > 900 for curve in curves), curves
    assert sum(max(curve[-2:]) > 900 for curve in curves) >= 2, curves


@pytest.mark.parametrize("name", FLOWS)
def test_learns_as_fast_as_the_gaussian(returns, name):
    """The mean over seeds and evaluations, thus the area under the curve, is at least 0.7 of the Gaussian's."""
    area, yardstick = (np.mean([returns[which, seed] for seed in SEEDS]) for which in (name, "sac_gaussian"))
    assert area > 0.7 * yardstick, (area, yardstick)


@pytest.mark.parametrize(("name", "switch"), FASTER)
def test_learns_as_well_when_it_is_faster(returns, name, switch):
    """The area under the curve is within the spread of the seeds, or at least 0.8 of the plain one."""
    faster, plain = ([np.mean(returns[name, seed, *more]) for seed in SEEDS[:2]] for more in ([switch], []))
    assert np.mean(faster) > min(0.8 * np.mean(plain), min(plain)), (faster, plain)
    for seed in SEEDS[:2]:
        assert max(returns[name, seed, switch]) > 900, returns[name, seed, switch]
