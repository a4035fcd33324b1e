"""scripts/forks.py and renorm_parts.py: the forks train, and differ from their scripts in what they say and in nothing
else."""

import csv
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, make_actor, scalars, small

sys.path.insert(0, str(ROOT / "scripts"))
import forks  # noqa: E402
import renorm_parts  # noqa: E402


@pytest.fixture(params=[name for name in forks.FORKS if not name.endswith("no_experience")])
def fork(request, tmp_path):
    path = tmp_path / f"{request.param}.py"
    path.write_text(forks.fork(request.param))
    spec = importlib.util.spec_from_file_location(request.param, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[request.param] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[request.param]


def test_a_fork_trains_alone_under_its_own_name(fork, tmp_path):
    run = fork.main(fork.Args(**small(run_dir=str(tmp_path / "runs"))))
    assert f"__{fork.__name__}__" in str(run) and scalars(run)["eval/episodic_return"]


def test_what_a_fork_changes(fork, tmp_path):
    original = importlib.import_module(forks.FORKS[fork.__name__][0].removesuffix(".py"))
    mine, theirs = make_actor(fork), make_actor(original)
    if fork.__name__.endswith("renorm"):  # training sees the observation as acting does; the script's, by its batch
        obs = 0.5 + 2 * torch.randn(64, 3).double()
        acting, training, theirs = mine.norm.eval()(obs), mine.norm.train()(obs), theirs.norm.train()(obs)
        torch.testing.assert_close(training, acting)
        torch.testing.assert_close(theirs.mean(0), torch.zeros(3).double())
        return
    mine.load_state_dict(theirs.state_dict(), strict=False)
    obs, noise = torch.randn(5, 3).double(), mine.draw_noise(5, torch.Generator().manual_seed(0)).double()
    (path, log_stds), (their_path, their_log_stds) = (actor.rollout(obs, noise) for actor in (mine, theirs))
    if fork.__name__.endswith("gaussian"):
        assert not path[0].any()
    elif fork.__name__.endswith("no_log_std"):
        assert all(torch.equal(a, b) for a, b in zip(path, their_path, strict=True))
        scale = sum(their_log_stds).sum(-1) - 0.5 * mine.K * mine.action_dim * torch.tensor(mine.K).log()
        difference = mine.log_prob(path, log_stds, noise) - theirs.log_prob(their_path, their_log_stds, noise)
        torch.testing.assert_close(difference, scale, check_dtype=False)
    elif fork.__name__.endswith("last_step"):
        std = log_stds[-1].exp() / mine.K**0.5
        last = torch.distributions.Normal(path[-1] - std * noise[-1], std).log_prob(path[-1]).sum(-1)
        log_prob = mine.log_prob(path, log_stds, noise)
        torch.testing.assert_close(log_prob, last - mine.log_det(path[-1]), check_dtype=False)
    else:  # the token that the head reads is of mean 0 and variance 1, as post-norm leaves it
        tokens = []
        mine.velocity.head.register_forward_hook(lambda module, inputs, output: tokens.append(inputs[0]))
        mine.velocity(obs, path[1], torch.zeros(1, 1).double())
        torch.testing.assert_close(tokens[0].mean(-1), torch.zeros(5).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(tokens[0].var(-1, unbiased=False), torch.ones(5).double(), atol=1e-3, rtol=0)
        assert not torch.allclose(path[-1], their_path[-1])


@pytest.mark.parametrize("fork", ["sac_flow_naive_gaussian"], indirect=True)
def test_one_step_from_zero_is_the_gaussian_script(fork):
    """With the same weights: the same actions and the same log-density, whatever A_0's noise."""
    mine = make_actor(fork, sampling_steps=1)
    gaussian = make_actor(importlib.import_module("sac_gaussian"))
    gaussian.norm.load_state_dict(mine.norm.state_dict())
    layers = mine.velocity.from_obs, mine.velocity.hidden, mine.velocity.head
    for layer, theirs in zip(layers, gaussian.net[::2], strict=True):
        theirs.load_state_dict(layer.state_dict())
    obs, noise = torch.randn(5, 3).double(), mine.draw_noise(5, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(mine(obs, noise), gaussian(obs, noise[1:]))


def test_a_line_that_is_gone_is_named(monkeypatch):
    monkeypatch.setitem(forks.FORKS, "gone", ("sac_flow_g.py", [("no such line", "")]))
    with pytest.raises(ValueError, match="sac_flow_g.py has 0 times: no such line"):
        forks.fork("gone")


def test_renorm_parts_goes_on_in_four_ways(tmp_path):
    """Tiny: up to the fork they are one run, and then the norms that correct make the difference."""
    table = tmp_path / "parts.csv"
    words = ["--csv", table, "--env-id", "InvertedPendulum-v4", "--run-dir", tmp_path / "runs", "--fork", "200"]
    flags = "--device cpu --learning-starts 100 --batch-size 16 --critic-hidden-dim 16 --buffer-size 1000"
    flags = f"--flags=--size small --eval-frequency 0 {flags}"
    command = [sys.executable, ROOT / "scripts" / "renorm_parts.py", *words, "--total-timesteps", "350", flags]
    subprocess.run(command, check=True, capture_output=True)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {row["corrected"]: {int(r["step"]) for r in rows if r["corrected"] == row["corrected"]} for row in rows}
    assert parts.keys() == renorm_parts.NEVER.keys()
    assert all(200 < step <= 350 for steps in parts.values() for step in steps)
    for part, never in renorm_parts.NEVER.items():
        path = tmp_path / "runs" / part.replace(" ", "_") / "sac_gaussian.py"
        spec = importlib.util.spec_from_file_location("sac_gaussian_part", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["sac_gaussian_part"] = module
        spec.loader.exec_module(module)
        for norms in module.Critic(3, 1, 8, True, 10**9).norms:
            assert [norm.warmup for norm in norms] == [10**9 if i in never else 100_000 for i in range(3)]


@pytest.mark.parametrize("name", [name for name in forks.FORKS if name.endswith("no_experience")])
def test_a_fork_without_experience_draws_from_the_dataset_alone(name, tmp_path):
    """Until the first online step as its script does, with the same numbers."""
    drawn = []
    for text in (forks.fork(name), (ROOT / forks.FORKS[name][0]).read_text()):
        path = tmp_path / "script.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("script", path)
        module = sys.modules["script"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        buffer = module.ReplayBuffer(30, 1, 1, torch.device("cpu"))
        column = np.arange(20, dtype=np.float32)
        zeros = np.zeros(20, np.float32)
        names = ("action", "reward", "mask", "terminal", "next_obs")
        buffer.load({"obs": column[:, None]} | {key: zeros for key in names})
        before = buffer.sample(256, 2, 0.9, torch.Generator().manual_seed(0))["obs"]
        for _ in range(25):  # which overwrites half of the dataset
            buffer.add(obs=[99], action=[0], reward=0, next_obs=[99], mask=1, terminal=False)
        after = buffer.sample(256, 2, 0.9, torch.Generator().manual_seed(0))["obs"]
        drawn.append((before, after))
        del sys.modules["script"]
    (before, after), (their_before, their_after) = drawn
    assert torch.equal(before, their_before) and torch.equal(before, after) and before.max() < 20
    assert (their_after == 99).any()
