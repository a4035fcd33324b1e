"""scripts/action_spread.py on policies of real, tiny trainings."""

import csv
import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

TINY = (
    "--env-id InvertedPendulum-v4 --no-compile --device cpu --total-timesteps 60 --learning-starts 40 --batch-size 16"
)
TINY = f"{TINY} --buffer-size 1000 --critic-hidden-dim 16 --eval-frequency 0 --checkpoint-frequency 0"


def spread(*words):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "action_spread.py", *words], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for script in ("sac_gaussian", "sac_flow_g"):
        command = [sys.executable, ROOT / f"{script}.py", *TINY.split(), "--run-dir", folder]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


def test_noise_that_reaches_the_actions(runs, tmp_path):
    # A policy of known noise: actions tanh(N(0, sigma^2)) at every state.
    path = next(runs.glob("*sac_gaussian*/checkpoint.pt"))
    model = torch.load(path, weights_only=True)
    last = max(key for key in model["actor"] if key.endswith("weight") and model["actor"][key].shape[0] == 2)
    model["actor"][last].zero_()
    model["actor"][last.replace("weight", "bias")].zero_()
    log_std = (2 - 5) / 2  # the middle of its bounds
    torch.save(model, path)
    table = tmp_path / "spread.csv"
    for folder in runs.iterdir():  # the second call keeps the first one's row
        result = spread(folder, "--csv", table, "--actions", "256")
        assert result.returncode == 0, result.stderr
    with open(table, newline="") as file:
        rows = {row["script"]: row for row in csv.DictReader(file)}
    x = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    expected = float((weight * torch.tanh(math.exp(log_std) * x).square()).sum().sqrt())
    assert math.isclose(float(rows["sac_gaussian"]["action_std"]), expected, rel_tol=0.05)
    assert float(rows["sac_gaussian"]["start_std"]) == 0
    assert 0 < float(rows["sac_flow_g"]["start_std"]) < float(rows["sac_flow_g"]["action_std"]) < 1
    assert all(float(row["train_return"]) > 0 for row in rows.values())


def test_bad_input(runs, tmp_path):
    result = spread(tmp_path, "--csv", tmp_path / "spread.csv")
    assert result.returncode == 2 and "checkpoint.pt" in result.stderr
    result = spread(runs, "--script", ROOT / "sac_flow_t.py", "--csv", tmp_path / "spread.csv")
    assert (
        result.returncode == 2
        and "name the script that trained it by --script" in result.stderr
        and not (tmp_path / "spread.csv").exists()
    )
