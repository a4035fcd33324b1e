"""scripts/benchmark.py on real trainings of a few steps, and what the committed measurements say."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
import tyro
from conftest import FLOWS, ROOT, make_actor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(ROOT / "scripts"))
import benchmark  # noqa: E402

COMMAND = [sys.executable, ROOT / "scripts" / "benchmark.py"]


def read(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_take_turns_and_are_written(tmp_path):
    """A script behind its older self, here one of more steps: a row each, with a start, a time, a peak, and the ratio
    to the first."""
    table, picture = tmp_path / "benchmark.csv", tmp_path / "benchmark.svg"
    flags = f"--env-id InvertedPendulum-v4 --no-compiled --against {ROOT} --windows 3 --window 4 --csv {table}"
    flags += " --scripts sac_flow_t --flags=--critic-hidden-dim=16"
    flags = [*flags.split(), "--against-flags=--size small --sampling-steps 16"]
    result = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    measured = read(table)
    assert [row["script"] for row in measured] == ["sac_flow_t"] * 2
    assert float(measured[0]["ratio"]) == 1
    for row in measured:
        figures = [float(row[name]) for name in ("cold_start_s", "warm_start_s", "ms_per_step", "ratio", "peak_gib")]
        assert all(0 < figure < 1000 for figure in figures), row
        assert row["instructions"] and row["processor"] and row["commit"]
    before = table.read_text()
    shown = subprocess.run(
        [*COMMAND, "--table-only", "--csv", table, "--figure", picture], capture_output=True, text=True
    )
    assert shown.stdout.count("| InvertedPendulum-v4 |") == 2 and table.read_text() == before and picture.exists()


def test_a_trainer_that_fails_is_named_with_its_message(tmp_path):
    flags = f"--scripts sac_gaussian --env-id Nowhere-v0 --csv {tmp_path / 'benchmark.csv'}".split()
    result = subprocess.run([*COMMAND, *flags], capture_output=True, text=True)
    assert result.returncode and "sac_gaussian.py" in result.stderr and "--env-id Nowhere-v0" in result.stderr
    assert not (tmp_path / "benchmark.csv").exists()


def test_bad_input(tmp_path, capsys):
    for words, flag in (
        (["--table-only"], "--csv"),
        (["--windows", "1"], "--windows"),
        (["--scripts", "nothing"], "--scripts"),
        (["--against", str(tmp_path)], "--scripts"),
        (["--peers-python", sys.executable], "--peers-python"),
        (["--peers-python", str(tmp_path)], "--peers-python"),
    ):
        words = ["--csv", str(tmp_path / "benchmark.csv"), *words]
        with pytest.raises(SystemExit) as stop:
            benchmark.main(tyro.cli(benchmark.Args, args=words))
        said = capsys.readouterr().err
        assert stop.value.code == 2 and flag in said and len(said.splitlines()) == 1


class Operations(TorchDispatchMode):
    """Counts what PyTorch is asked to compute."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FLOWS)
def test_operations_are_linear_in_the_number_of_steps(name):
    """Forward and backward: every step after the first adds the same, and what does not depend on A is done once."""
    module, counts = __import__(name), []
    for k in (1, 2, 4, 8):
        actor = make_actor(module, sampling_steps=k).float().train()
        with Operations() as operations:
            actions, log_prob = actor(torch.randn(8, 3), torch.randn(k + 1, 8, 2))
            (actions.sum() + log_prob.sum()).backward()
        counts.append(operations.count)
    slopes = np.diff(counts) / (1, 2, 4)
    assert np.ptp(slopes) <= 0.1 * slopes[0], counts


@pytest.mark.parametrize("name", FLOWS)
def test_measured_time_is_linear_in_the_number_of_steps(name):
    """The committed rows of --growth: within 10 % of a line over K."""
    measured = [row for row in read(ROOT / "results" / "benchmark.csv") if row["script"] == name]
    measured = [row for row in measured if "--sampling-steps" in row["flags"]]
    k = np.array([int(row["flags"].split()[-1]) for row in measured])
    ms = np.array([float(row["ms_per_step"]) for row in measured])
    assert sorted(k) == [1, 2, 4, 8, 16]
    line = np.polyval(np.polyfit(k, ms, 1), k)
    assert (abs(ms / line - 1) < 0.1).all(), dict(zip(k, ms / line, strict=True))
