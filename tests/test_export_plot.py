"""scripts/export.py and scripts/plot.py on runs with known numbers."""

import csv
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from torch.utils.tensorboard import SummaryWriter

sys.path.insert(0, str(ROOT / "scripts"))
import export  # noqa: E402

FLAGS = {
    "total_timesteps": 300,
    "eval_frequency": 100,
    "log_frequency": 50,
    "alpha": 0.01,
    "target_entropy": None,
    "run_dir": "x",
}


def write_run(root, script="sac_flow_g", env="Toy-v0", seed=1, until=300, time=1000, offset=0.0, **flags):
    """A run as the training scripts write it: an episode every 20 steps with the step as its return."""
    path = root / f"{env}__{script}__{seed}__{time}"
    writer = SummaryWriter(str(path))
    flags = {"env_id": env, "exp_name": script, "seed": seed} | FLAGS | flags
    for title, table in (("hyperparameters", flags), ("versions", {"torch": "9.9", "git": "a" * 40, "device": "cpu"})):
        writer.add_text(title, "|name|value|\n|-|-|\n" + "\n".join(f"|{key}|{value}|" for key, value in table.items()))
    write_scalars(writer, range(1, until + 1), seed, offset, flags["total_timesteps"])
    return path


def write_scalars(writer, steps, seed=1, offset=0.0, total=300):
    for step in steps:
        if step % 20 == 0:
            writer.add_scalar("charts/episodic_return", step + offset, step)
        if step % 50 == 0 or step == total:
            writer.add_scalar("losses/qf_loss", step, step)
            writer.add_scalar("charts/SPS", 100 if step % 100 else 300, step)
            for k in range(11):
                writer.add_scalar(f"gradients/step_{k}", 10.0**-k, step)
        if step % 100 == 0:
            writer.add_scalar("eval/episodic_return", 10 * step + seed + offset, step)
            writer.add_scalar("eval/episodic_return_std", 0.5, step)
    writer.close()


def run_export(*roots, table, capsys=None):
    code = export.main(export.Args(roots=list(roots), csv=table, progress=False))
    with open(table, newline="") as file:
        return code, list(csv.DictReader(file))


def test_export_means_over_the_time_between_evaluations(tmp_path):
    write_run(tmp_path / "runs")
    code, rows = run_export(tmp_path / "runs", table=tmp_path / "results" / "runs.csv")
    assert code == 0
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert rows[1]["train_return"] == "160" and rows[1]["train_episodes"] == "5"  # 120, 140, 160, 180, 200
    assert rows[1]["eval_return"] == "2001" and rows[1]["eval_return_std"] == "0.5"
    assert rows[1]["steps_per_second"] == "150"  # 50 steps at 100/s and 50 at 300/s
    assert rows[1]["losses/qf_loss"] == "175"
    assert rows[0]["script"] == "sac_flow_g" and rows[0]["env"] == "Toy-v0" and rows[0]["seed"] == "1"
    assert rows[0]["alpha"] == "0.01" and rows[0]["versions/torch"] == "9.9" and rows[0]["finished"] == "1"
    names = list(rows[0])
    assert names.index("gradients/step_10") == names.index("gradients/step_9") + 1
    assert "run_dir" not in names


def test_export_takes_a_killed_run_as_far_as_it_came(tmp_path):
    write_run(tmp_path, until=250)
    write_run(tmp_path, seed=2, until=30)  # before its first evaluation
    code, rows = run_export(tmp_path, table=tmp_path / "runs.csv")
    assert code == 0 and [(row["step"], row["finished"]) for row in rows] == [("100", "0"), ("200", "0")]


def test_export_has_rows_without_evaluation_and_a_last_one_at_the_end(tmp_path):
    write_run(tmp_path, total_timesteps=330, until=330)
    _, rows = run_export(tmp_path, table=tmp_path / "runs.csv")
    assert rows[-1]["step"] == "330" and rows[-1]["eval_return"] == "" and rows[-1]["train_return"] == "320"
    assert rows[-1]["finished"] == "1"
    _, rows = run_export(write_run(tmp_path / "short", total_timesteps=330, until=310), table=tmp_path / "short.csv")
    assert [(row["step"], row["finished"]) for row in rows] == [("100", "0"), ("200", "0"), ("300", "0")]
    write_run(tmp_path / "silent", seed=2, eval_frequency=0)
    _, rows = run_export(tmp_path / "silent", table=tmp_path / "silent.csv")
    assert [row["step"] for row in rows] == ["300"] and rows[0]["finished"] == "1"


def test_export_reads_only_what_grew_and_keeps_what_is_gone(tmp_path, capsys):
    first, table = write_run(tmp_path / "a", until=150), tmp_path / "runs.csv"
    write_run(tmp_path / "a", seed=2)
    run_export(tmp_path / "a", table=table)
    before = table.read_bytes()
    run_export(tmp_path / "a", table=table)
    assert "0 read now" in capsys.readouterr().out.splitlines()[-1] and table.read_bytes() == before
    # Resumed from step 60: what the first part wrote beyond that does not count twice.
    write_scalars(SummaryWriter(str(first)), range(61, 301), seed=1)
    _, rows = run_export(tmp_path / "a", table=table)
    assert "1 read now" in capsys.readouterr().out.splitlines()[-1]
    assert [row["train_episodes"] for row in rows] == ["5"] * 6
    write_run(tmp_path / "b", seed=3)
    _, rows = run_export(tmp_path / "b", table=table)
    assert {row["seed"] for row in rows} == {"1", "2", "3"}


def test_export_takes_the_last_evaluation_of_a_prolonged_run(tmp_path):
    """With --total-timesteps 150 it was evaluated at its end; going on to 300 it has two between 100 and 200."""
    run = write_run(tmp_path, until=150)
    writer = SummaryWriter(str(run))
    writer.add_scalar("eval/episodic_return", 7.0, 150)
    write_scalars(writer, range(151, 301))
    _, rows = run_export(tmp_path, table=tmp_path / "runs.csv")
    assert [(row["step"], row["eval_return"]) for row in rows] == [("100", "1001"), ("200", "2001"), ("300", "3001")]


def test_export_of_a_long_run_takes_seconds(tmp_path):
    """200 000 episodes and 1000 rows; it took minutes when every row scanned all points."""
    run = write_run(tmp_path, until=0, total_timesteps=1_000_000, eval_frequency=1000)
    writer = SummaryWriter(str(run), max_queue=10_000)
    for step in range(5, 1_000_001, 5):
        writer.add_scalar("charts/episodic_return", step, step)
    writer.add_scalar("charts/SPS", 100, 1_000_000)
    writer.close()
    start = time.process_time()
    rows = export.read_run(run)
    assert time.process_time() - start < 10
    assert len(rows) == 1000 and {row["train_episodes"] for row in rows} == {"200"}
    assert rows[0]["train_return"] == "502.5" and rows[-1]["train_return"] == "999502"


def test_export_passes_over_a_run_that_has_just_begun(tmp_path):
    """As beside a sweep; and an empty flag is a flag."""
    run = write_run(tmp_path, until=10, wandb_entity="")
    assert run_export(tmp_path, table=tmp_path / "runs.csv") == (0, [])
    write_scalars(SummaryWriter(str(run)), range(11, 301))
    code, rows = run_export(tmp_path, table=tmp_path / "runs.csv")
    assert code == 0 and len(rows) == 3 and rows[0]["versions/git"] == "a" * 12


def test_export_names_what_it_cannot_read_and_goes_on(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b" / "aborted", seed=2)  # passed over
    write_run(tmp_path / "b", seed=1)  # the same name again
    for name, content in (("noise", bytes(range(256)) * 20), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.out.tfevents.1.x").write_bytes(content)
    SummaryWriter(str(tmp_path / "foreign")).add_scalar("x", 1.0, 1)
    code, rows = run_export(tmp_path, table=tmp_path / "runs.csv")
    errors = capsys.readouterr().err
    assert code == 1 and len(rows) == 3
    assert sorted(line.split(": ")[1].split("/")[-1] for line in errors.splitlines()) == [
        "Toy-v0__sac_flow_g__1__1000",
        "empty",
        "foreign",
        "noise",
    ]


@pytest.mark.parametrize("name", ["export.py", "plot.py"])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, name):
    if name == "plot.py":
        for module in ("matplotlib", "pandas", "scipy"):
            pytest.importorskip(module)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    first = [str(tmp_path)] if name == "export.py" else ["curves"]
    command = [sys.executable, str(ROOT / "scripts" / name), *first, "--csv", str(tmp_path / "other.csv")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: --csv") and result.stderr.count("\n") == 1
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    flag = ["--out", str(tmp_path / "other.csv")] if name == "plot.py" else ["--csv", str(tmp_path)]
    result = subprocess.run(command[:3] + flag, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2 and result.stderr.startswith(f"error: {flag[0]} {flag[1]}: ")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def plot():
    for module in ("matplotlib", "pandas", "scipy"):
        pytest.importorskip(module, reason="figures need scripts/requirements.txt")
    import plot

    return plot


@pytest.fixture
def table(tmp_path):
    """Three scripts, two environments, three seeds; the flow scripts with K = 4."""
    for script, offset in (("sac_gaussian", 0.0), ("sac_flow_g", 300.0), ("sac_flow_t", 600.0)):
        for env in ("Toy-v0", "Toy-v1"):
            for seed in (1, 2, 3):
                flags = {} if script == "sac_gaussian" else {"sampling_steps": 4}
                write_run(tmp_path / "runs", script, env, seed, offset=offset, **flags)
    run_export(tmp_path / "runs", table=tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


ALL = ["curves", "aggregate", "gradients", "steps", "speed"]


def test_figures_come_out_the_same_bytes_each_time(plot, table, tmp_path):
    for out in ("one", "two"):
        plot.main(plot.Args(figures=ALL, csv=table, out=tmp_path / out, returns="both"))
    for figure in ALL:
        for ending in ("svg", "png"):
            one, two = ((tmp_path / out / f"{figure}.{ending}").read_bytes() for out in ("one", "two"))
            assert one == two and len(one) > 10_000, figure


def test_table_shows_the_returns_at_the_end(plot, table, capsys):
    plot.main(plot.Args(figures=["table"], csv=table))
    assert "| Flow-G | 3302 \u00b1 1 (3) | 3302 \u00b1 1 (3) |" in capsys.readouterr().out


def test_a_line_of_another_length_is_shown_at_its_own_end(plot, table, tmp_path, capsys):
    for seed in (1, 2):
        write_run(tmp_path / "runs", "ppo", seed=seed, until=600, total_timesteps=600)
    run_export(tmp_path / "runs", table=table)
    plot.main(plot.Args(figures=["table"], csv=table))
    out = capsys.readouterr().out
    assert "| | Toy-v0 at 300 | Toy-v1 at 300 |" in out and "| Flow-G | 3302 \u00b1 1 (3) | 3302 \u00b1 1 (3) |" in out
    assert "| PPO | 6002 \u00b1 1 (2) at 600 | \u2013 |" in out
    assert "| PPO | -0 [-2, +1] | -0 [-2, +1] | \u2013 | \u2013 |" in out, "minus the Gaussian, at 300 and up to there"
    assert "| Flow-T | +600 [+599, +601] | +600 [+599, +601] | +600 " in out and "| Gaussian | +" not in out


def test_a_row_without_an_evaluation_is_not_the_end(plot, table, tmp_path, capsys):
    """As behind the last of --eval-frequency where that does not divide the run's length."""
    data = plot.pd.read_csv(table)
    data.loc[data.step == 300, "eval_return"] = np.nan
    data.to_csv(tmp_path / "short.csv", index=False)
    plot.main(plot.Args(figures=["table"], csv=tmp_path / "short.csv"))
    out = capsys.readouterr().out
    assert "| | Toy-v0 at 200 | Toy-v1 at 200 |" in out and "| Flow-G | 2302 \u00b1 1 (3) |" in out


def test_aggregate_compares_the_same_seeds(plot, table, tmp_path, capsys):
    """A line that lacks runs of the harder task would gain by it."""
    both = plot.Args(figures=["aggregate"], csv=table, out=tmp_path)
    data = plot.pd.read_csv(table)
    data[data.seed == 1].to_csv(tmp_path / "one.csv", index=False)
    plot.main(plot.Args(figures=["aggregate"], csv=tmp_path / "one.csv", out=tmp_path))
    expected = capsys.readouterr()
    assert "same seeds" not in expected.err
    data[(data.script != "sac_flow_t") | (data.seed == 1)].to_csv(table, index=False)
    plot.main(both)
    made = capsys.readouterr()
    assert made.out == expected.out and "8 runs without rivals left out" in made.err
    data[(data.script != "sac_flow_t") ^ (data.seed == 1)].to_csv(table, index=False)
    with pytest.raises(SystemExit):
        plot.main(both)
    assert "no seed that every line has" in capsys.readouterr().err


def test_differences_and_their_intervals(plot, table, tmp_path, capsys):
    """Of scores from the Gaussian's, of gradient norms over the rollout, and of returns from the smallest K's."""
    for seed in (1, 2, 3):
        write_run(
            tmp_path / "runs", seed=seed, time=2000, until=200, total_timesteps=200, offset=350.0, sampling_steps=7
        )
    run_export(tmp_path / "runs", table=table)
    plot.main(plot.Args(figures=["steps"], csv=table, out=tmp_path))
    out = capsys.readouterr().out
    assert "| Toy-v0 | Flow-G | 7 | 200 | 2352 (3) | +50 [+49, +51] |" in out
    assert "| Toy-v0 | Flow-G | 4 | 300 | 3302 (3) |  |" in out
    plot.main(plot.Args(figures=["aggregate", "gradients"], csv=table, out=tmp_path, where="sampling_steps != 7"))
    out = capsys.readouterr().out
    assert "| Gaussian | 1.00 [1.00, 1.00] |  | 0.67 [0.67, 0.67] |  |" in out
    assert (
        "| Flow-G | 1.10 [1.10, 1.10] | +0.10 [+0.10, +0.10] | 0.77 [0.77, 0.77] | +0.10 [+0.10, +0.10] | 1.10 |" in out
    )
    assert "| Flow-T minus Flow-G | +0.10 [+0.10, +0.10] | +0.10 [+0.10, +0.10] |" in out
    assert re.search(r"^\| Toy-v1 \| Flow-T \| 1 \| 0\.1 \| .* \| 1 \[1, 1\] \|$", out, re.MULTILINE)


def test_success_rates_of_offline_to_online_runs(plot, table, tmp_path, capsys):
    """Steps count offline updates and environment steps; a table without success rates is refused."""
    for script, success in (("o2o_sac_flow_g", 0.25), ("o2o_qc_fql", 0.75)):
        for seed in (1, 2):
            path = write_run(tmp_path / "o2o", script, seed=seed, until=400, offline_steps=100)
            writer = SummaryWriter(str(path))
            for step in (100, 200, 300, 400):
                writer.add_scalar("eval/success", success * (step == 400) + 0.01 * seed, step)
            writer.add_scalar("charts/SPS", 100, 400)
            writer.close()
    _, rows = run_export(tmp_path / "o2o", table=tmp_path / "o2o.csv")
    assert {row["finished"] for row in rows} == {"1"} and {row["step"] for row in rows} == {"100", "200", "300", "400"}
    flags = {"csv": tmp_path / "o2o.csv", "out": tmp_path, "returns": "success"}
    plot.main(plot.Args(figures=["curves", "table"], **flags))
    out = capsys.readouterr().out
    assert "| Flow-G | 0.27 \u00b1 0.01 (2) |" in out and "| QC-FQL | 0.77 \u00b1 0.01 (2) |" in out
    drawn = (tmp_path / "curves.svg").read_text()
    assert "success rate of evaluation" in drawn and "offline updates : environment steps" in drawn
    for wrong in ({"csv": table}, {"figures": ["aggregate"]}):
        with pytest.raises(SystemExit) as stop:
            plot.main(plot.Args(**{"figures": ["curves"]} | flags | wrong))
        assert stop.value.code == 2 and "error: --returns success: " in capsys.readouterr().err


def test_ablations_set_a_variant_beside_its_script(plot, table, tmp_path, capsys):
    """The difference at the variant's end, which may be before the script's, and over training up to there."""
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs", "sac_flow_g-drift", "Toy-v0", seed, 200, total_timesteps=200, sampling_steps=4)
        flags = {"offset": 700.0, "total_timesteps": 200, "sampling_steps": 4}
        path = write_run(tmp_path / "runs", "sac_flow_t-post_norm", "Toy-v1", seed, until=100, **flags)
        write_scalars(SummaryWriter(str(path)), range(101, 201), seed, 500.0, 200)  # better than without it, then worse
    run_export(tmp_path / "runs", table=table)
    flags = {"figures": ["ablations"], "csv": table, "out": tmp_path}
    plot.main(plot.Args(**flags))
    out = capsys.readouterr().out
    both = "-300 [-301, -299]"
    assert f"| Toy-v0 | drift correction (14) | Flow-G | 2002 (3) | 2302 (3) | {both} | {both} |" in out
    assert "| Toy-v1 | post-norm | Flow-T | 2502 (3) | 2602 (3) | -100 [-101, -99] | +0 [-1, +1] |" in out
    drawn = (tmp_path / "ablations.svg").read_text()
    assert "Toy-v0, drift correction (14)" in drawn and "Toy-v1, post-norm" in drawn
    plot.main(plot.Args(figures=["table"], csv=table))
    assert "\n| Flow-G, drift correction (14) | 2002 " in capsys.readouterr().out
    for where in ("script != 'sac_flow_g'", "not script.str.contains('-')"):
        with pytest.raises(SystemExit) as stop:
            plot.main(plot.Args(**flags, where=where))
        assert stop.value.code == 2 and "error: ablations: " in capsys.readouterr().err


def test_runs_that_differ_in_a_flag_are_not_pooled(plot, table, tmp_path, capsys):
    write_run(tmp_path / "runs", seed=4, sampling_steps=7)
    run_export(tmp_path / "runs", table=table)
    with pytest.raises(SystemExit) as stop:
        plot.main(plot.Args(figures=["curves"], csv=table, out=tmp_path))
    assert stop.value.code == 2 and "sampling_steps is 4, 7" in capsys.readouterr().err
    plot.main(plot.Args(figures=["table"], csv=table, by=["sampling_steps"]))
    assert "Flow-G, K = 7" in capsys.readouterr().out
    plot.main(plot.Args(figures=["steps"], csv=table, out=tmp_path))
    plot.main(plot.Args(figures=["table"], csv=table, where="sampling_steps != 7"))
    assert "| Flow-G | 3302 \u00b1 1 (3)" in capsys.readouterr().out


def test_an_older_version_without_a_feature_ran_without_it(plot, tmp_path, capsys):
    for seed, flags in enumerate(({}, {"bf16": False}, {"bf16": True})):
        write_run(tmp_path / "runs", seed=seed, **flags)
    write_run(tmp_path / "runs", "sac_gaussian")
    run_export(tmp_path / "runs", table=tmp_path / "runs.csv")
    plot.main(plot.Args(figures=["table"], csv=tmp_path / "runs.csv", by=["bf16"]))
    output = capsys.readouterr().out
    assert re.search(r"Flow-G, bf16 = False .*\(2\)", output) and re.search(r"Flow-G, bf16 = True .*\(1\)", output)
    assert "| Gaussian |" in output  # no version of it had the flag


def test_a_seed_counts_once_and_unfinished_runs_are_left_out(plot, table, tmp_path, capsys):
    write_run(tmp_path / "runs", seed=1, time=2000, offset=700.0, sampling_steps=4)  # again, later, with other returns
    write_run(tmp_path / "runs", seed=5, until=250, sampling_steps=4)
    run_export(tmp_path / "runs", table=table)
    plot.main(plot.Args(figures=["table"], csv=table, where="env == 'Toy-v0'"))
    output = capsys.readouterr()
    assert "| Flow-G | 3435 \u00b1 230 (3) |" in output.out  # 3701, 3302, 3303
    assert "Toy-v0__sac_flow_g__1__1000" in output.err and "Toy-v0__sac_flow_g__5__1000" in output.err


def test_interquartile_mean_and_bootstrap(plot):
    scores = np.arange(16.0).reshape(8, 2)
    assert plot.interquartile_mean(*scores.T) == pytest.approx(np.arange(4, 12).mean())
    low, high = plot.interval([np.array([[1.0, 10.0], [3.0, 30.0]])], plot.mean)
    assert low.tolist() == [1, 10] and high.tolist() == [3, 30]  # of two seeds no resample can leave their range
    assert plot.interval([np.array([1.0])], plot.mean) is None
    # Strata are resampled by themselves: without spread inside them there is none in the aggregate.
    low, high = plot.interval([np.full(5, 1.0), np.full(5, 3.0)], plot.mean)
    assert low == high == 2
    rng = np.random.default_rng(0)
    low, high = plot.interval([rng.normal(size=400)], plot.mean)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)  # the normal theory's interval


def test_normalised_scores(plot, table, tmp_path):
    args = plot.Args(figures=["aggregate"], csv=table)
    scores = plot.scores(args, plot.with_lines(plot.load(args), []), "eval_return")
    ends = scores[scores.step == 300].groupby("script").score.mean()
    assert ends["sac_gaussian"] == pytest.approx(1) and ends["sac_flow_g"] == pytest.approx(3302 / 3002)
