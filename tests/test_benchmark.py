"""scripts/benchmark.py on two real trainings of a few steps: what it counts, times and writes."""

import csv
import math
import subprocess
import sys

from conftest import ROOT

FLAGS = "--small --env-ids InvertedPendulum-v4 --variants eager --no-yardstick --windows 1 --window 4"


def test_every_row_is_written_at_once(tmp_path):
    table = tmp_path / "speed.csv"
    command = [sys.executable, ROOT / "scripts" / "benchmark.py", *FLAGS.split(), "--csv", table, "--scripts"]
    for scripts in (["sac_gaussian", "baselines/ppo"], ["sac_flow_t"]):  # the second call appends
        result = subprocess.run([*command, *scripts], capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
    assert result.stdout.count("| InvertedPendulum-v4 | sac_flow_t | eager | 1 |") == 1
    written = table.read_text()
    result = subprocess.run([*command[:2], "--table-only", "--csv", table], capture_output=True, text=True)
    assert result.stdout.count("| InvertedPendulum-v4 |") == 3 and table.read_text() == written
    with open(table, newline="") as file:
        gaussian, ppo, flow = csv.DictReader(file)
    assert [row["script"] for row in (gaussian, ppo, flow)] == ["sac_gaussian", "baselines/ppo", "sac_flow_t"]
    for row in (gaussian, flow):
        figures = {
            name: float(row[name]) for name in ("ms_per_step", "gflop", "gemm_gflops", "floor_ms", "share", "act_ms")
        }
        assert all(value > 0 and math.isfinite(value) for value in figures.values()), figures
        assert math.isclose(figures["floor_ms"], 1e3 * figures["gflop"] / figures["gemm_gflops"], rel_tol=2e-3)
        assert math.isclose(figures["share"], figures["floor_ms"] / figures["ms_per_step"], rel_tol=2e-3)
        assert figures["share"] < 1
    assert float(flow["gflop"]) > float(gaussian["gflop"])  # the rollout
    assert float(ppo["ms_per_step"]) > 0 and ppo["gflop"] == "nan"


def test_flops_of_the_critics_agree_with_a_count_by_hand():
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    import benchmark
    import tyro

    import sac_gaussian

    flags = f"--env-id InvertedPendulum-v4 --device cpu --hidden-dim 1 {benchmark.SMALL}"
    args = tyro.cli(sac_gaussian.Args, args=flags.split())
    counted = benchmark.flops_per_step(sac_gaussian, args, "InvertedPendulum-v4")
    products = 5 * 256 + 256 * 256 + 256  # weights of one critic: 4 observations and an action
    # Two critics on both halves of the joint pass: forward and by the weights; by their input from layer two on.
    update = 2 * 2 * 512 * (2 * products + (products - 5 * 256))
    # Every third step an actor update: forward and back to the action through frozen critics.
    update += 2 * 2 * 256 * 2 * products / args.policy_frequency
    assert math.isclose(counted, update, rel_tol=0.02), (counted, update)


def test_bad_input(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "benchmark.py", "--csv", tmp_path / "speed.csv"]
    for words, flag in (
        (["--variants", "graph"], "--variants"),
        (["--table-only"], "--csv"),
        (["--processes", "0"], "--processes"),
    ):
        result = subprocess.run([*command, *words], capture_output=True, text=True)
        assert result.returncode == 2 and flag in result.stderr and len(result.stderr.splitlines()) == 1
