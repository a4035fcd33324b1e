"""scripts/export.py and scripts/plot.py on runs with known numbers."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
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
    """One whose last evaluation is missing was stopped in it."""
    run = write_run(tmp_path / "long", total_timesteps=330, until=330)
    _, rows = run_export(tmp_path / "long", table=tmp_path / "stopped.csv")
    assert [(row["step"], row["finished"]) for row in rows] == [("100", "0"), ("200", "0"), ("300", "0")]
    writer = SummaryWriter(str(run))
    writer.add_scalar("eval/episodic_return", 7, 330)
    writer.close()
    _, rows = run_export(tmp_path / "long", table=tmp_path / "runs.csv")
    assert rows[-1]["step"] == "330" and rows[-1]["eval_return"] == "7" and rows[-1]["train_return"] == "320"
    assert rows[-1]["finished"] == "1"
    _, rows = run_export(write_run(tmp_path / "short", total_timesteps=330, until=310), table=tmp_path / "short.csv")
    assert [(row["step"], row["finished"]) for row in rows] == [("100", "0"), ("200", "0"), ("300", "0")]
    write_run(tmp_path / "silent", seed=2, eval_frequency=0)
    _, rows = run_export(tmp_path / "silent", table=tmp_path / "silent.csv")
    assert [row["step"] for row in rows] == ["300"] and rows[0]["finished"] == "1"
    write_run(tmp_path / "offline", offline_steps=150, until=400, total_timesteps=250)
    _, rows = run_export(tmp_path / "offline", table=tmp_path / "offline.csv")
    assert [row["step"] for row in rows] == ["100", "150", "200", "300", "400"], "the end of pretraining too"


def test_export_has_rows_where_evaluations_came_late(tmp_path):
    """As ReinFlow's, at the end of the iteration that passes a multiple of --eval-frequency."""
    run = write_run(tmp_path, eval_frequency=150, total_timesteps=280, until=80)
    with SummaryWriter(str(run)) as writer:
        for step in (80, 160, 200, 240, 280):
            writer.add_scalar("losses/value_loss", step, step)
        for step in (160, 280):
            writer.add_scalar("eval/episodic_return", 10 * step, step)
    _, rows = run_export(tmp_path, table=tmp_path / "runs.csv")
    assert [(row["step"], row["eval_return"]) for row in rows] == [("160", "1600"), ("280", "2800")]
    assert [row["losses/value_loss"] for row in rows] == ["120", "240"] and rows[0]["finished"] == "1"


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


class CountedPoints(list):
    """Counts the points that are read."""

    read = 0

    def __getitem__(self, where):
        CountedPoints.read += len(range(len(self))[where]) if isinstance(where, slice) else 1
        return super().__getitem__(where)

    def __iter__(self):
        CountedPoints.read += len(self)
        return super().__iter__()


def test_export_reads_each_point_a_few_times(tmp_path, monkeypatch):
    """Not once per row, which took minutes for a long run. Reads are counted, as times depend on the machine's load."""
    read_scalars = export.read_scalars
    monkeypatch.setattr(export, "read_scalars", lambda *args: CountedPoints(read_scalars(*args)))
    run = write_run(tmp_path, until=0, total_timesteps=50_000, eval_frequency=100)
    writer = SummaryWriter(str(run), max_queue=10_000)
    for step in range(5, 50_001, 5):
        writer.add_scalar("charts/episodic_return", step, step)
    writer.close()
    rows = export.read_run(run)
    assert len(rows) == 500 and {row["train_episodes"] for row in rows} == {"20"}
    assert rows[0]["train_return"] == "52.5" and rows[-1]["train_return"] == "49952.5"
    assert 10_000 <= CountedPoints.read < 4 * 10_000  # a scan for each row: five million


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
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: --csv") and result.stderr.count("\n") == 1
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"], "no folder of figures is made"
    flags = ["--csv", str(tmp_path)]
    if name == "plot.py":
        flags = ["--out", str(tmp_path / "other.csv"), "--csv", str(ROOT / "results" / "small.csv")]
    result = subprocess.run(command[:3] + flags, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith(f"error: {flags[0]} {flags[1]}: ")
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


ALL = ["curves", "aggregate", "gradients", "steps", "speed", "forest"]


def test_figures_come_out_the_same_bytes_each_time(plot, table, tmp_path):
    for out in ("one", "two"):
        plot.main(plot.Args(figures=ALL[:3], csv=table, out=tmp_path / out, returns="both"))
        plot.main(plot.Args(figures=ALL[3:], csv=table, out=tmp_path / out))
    for figure in ALL:
        for ending in ("svg", "png"):
            one, two = ((tmp_path / out / f"{figure}.{ending}").read_bytes() for out in ("one", "two"))
            assert one == two and len(one) > 10_000, figure


def test_table_shows_the_returns_at_the_end(plot, table, capsys):
    plot.main(plot.Args(figures=["table"], csv=table))
    assert "| Flow-G | 3302 \u00b1 1 (3) | 3302 \u00b1 1 (3) |" in capsys.readouterr().out


def test_tables_of_several_files_are_pooled(plot, table, tmp_path, capsys):
    """As if they were one; a file that is none is named with its own flag."""
    data = plot.pd.read_csv(table)
    data[data.env == "Toy-v0"].to_csv(tmp_path / "one.csv", index=False)
    data[data.env == "Toy-v1"].dropna(axis=1, how="all").to_csv(tmp_path / "two.csv", index=False)
    args = {"figures": ["aggregate", "table"], "out": tmp_path}
    plot.main(plot.Args(**args, csv=table))
    whole = capsys.readouterr().out
    plot.main(plot.Args(**args, csv=tmp_path / "one.csv", also=[tmp_path / "two.csv"]))
    assert capsys.readouterr().out == whole and "Toy-v0, Toy-v1" in whole
    with pytest.raises(SystemExit):
        plot.main(plot.Args(**args, csv=table, also=[tmp_path / "none.csv"]))
    assert re.fullmatch(r"error: --also \S+none.csv: no such file; .*\n", capsys.readouterr().err)


def test_a_line_of_another_length_is_shown_at_its_own_end(plot, table, tmp_path, capsys):
    for seed in (1, 2):
        write_run(tmp_path / "runs", "ppo", seed=seed, until=600, total_timesteps=600)
    run_export(tmp_path / "runs", table=table)
    plot.main(plot.Args(figures=["table"], csv=table))
    out = capsys.readouterr().out
    assert "| | Toy-v0 at 300 | Toy-v1 at 300 |" in out and "| Flow-G | 3302 \u00b1 1 (3) | 3302 \u00b1 1 (3) |" in out
    assert "| PPO | 6002 \u00b1 1 (2) at 600 | \u2013 |" in out
    welch = stats.ttest_ind([3001, 3002], [3001, 3002, 3003], equal_var=False).confidence_interval()
    cell = f"-0 [{welch.low:+.0f}, {welch.high:+.0f}]"
    assert f"| PPO | {cell} | {cell} | \u2013 | \u2013 |" in out, "minus the Gaussian, at 300 and up to there"
    assert "| Flow-T | +600 [+598, +602] | +600 [+598, +602] | +600 " in out and "| Gaussian | +" not in out
    assert "Holm's correction over these 10: 8 differ from 0 at 5 %" in out, "Flow-G and Flow-T, but not PPO"


def test_a_row_without_an_evaluation_is_not_the_end(plot, table, tmp_path, capsys):
    """As behind the last of --eval-frequency where that does not divide the run's length."""
    data = plot.pd.read_csv(table)
    data.loc[data.step == 300, "eval_return"] = np.nan
    data.to_csv(tmp_path / "short.csv", index=False)
    plot.main(plot.Args(figures=["table"], csv=tmp_path / "short.csv"))
    out = capsys.readouterr().out
    assert "| | Toy-v0 at 200 | Toy-v1 at 200 |" in out and "| Flow-G | 2302 \u00b1 1 (3) |" in out


def test_aggregate_weighs_environments_alike(plot, table, tmp_path, capsys):
    """A line that lacks runs of the harder task does not gain by it."""
    data = plot.pd.read_csv(table).astype({"eval_return": float})
    data.loc[data.env == "Toy-v1", "eval_return"] /= 2  # in scores the same
    data.loc[(data.env == "Toy-v1") & (data.script == "sac_flow_t"), "eval_return"] /= 2
    ends = []
    for seeds in ((1, 2, 3), (1, 2)):
        few = data[(data.script != "sac_flow_t") | (data.env == "Toy-v0") | data.seed.isin(seeds)]
        few.to_csv(tmp_path / "few.csv", index=False)
        plot.main(plot.Args(figures=["aggregate"], csv=tmp_path / "few.csv", out=tmp_path))
        ends.append(re.search(r"^\| Flow-T \| (\S+) \|", capsys.readouterr().out, re.MULTILINE).group(1))
    assert ends == ["0.90", "0.90"]  # of 1.2 and .6


SCORES = "run,script,env,seed,step,finished,train_return,eval_return,steps_per_second\n"


def write_scores(path, env, **ends):
    rows = [
        f"{env}_{script}_{seed},{script},{env},{seed},10000,1,0,{end + seed},10"
        for script, end in ends.items()
        for seed in (1, 2, 3)
    ]
    path.write_text(SCORES + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("env", "gaussian", "flow", "reason"),
    [
        ("Mine-v0", -40, -25, "-38, is not above 0, in place of a random policy's return, which is not known"),
        ("Hopper-v4", 4, 300, "6, is not above 17.6688, a random policy's return"),
        ("Pusher-v5", -40, -25, None),  # above a random policy's -149
        ("Pendulum-v1", -900, -150, None),
        ("Mine-v0", 40, 60, None),
        ("Reacher-v4", -60, -5, "-58, is not above -43.3534, a random policy's return"),
        ("HalfCheetah-v4", -400, 300, "-398, is not above -264.717, a random policy's return"),
        ("Swimmer-v5", 20, 40, None),
        ("Pendulum-v1", -1400, -200, "-1398, is not above -1207.56, a random policy's return"),
    ],
)
def test_scores_never_reverse_the_ranking(plot, tmp_path, capsys, env, gaussian, flow, reason):
    """Where the baseline is not above the score's zero there is no score, and the task is named with the reason."""
    table = write_scores(tmp_path / "runs.csv", env, sac_gaussian=gaussian, sac_flow_g=flow)
    plot.main(plot.Args(figures=["aggregate", "table"], csv=table, out=tmp_path / "out"))
    made = capsys.readouterr()
    assert f"| Flow-G | {flow - gaussian:+d} [" in made.out
    better = re.search(r"^\| Flow-G \| \d\.\d\d \| \+\d\.\d+ \[", made.out, re.MULTILINE)
    if reason:
        assert not better and f"{env} left out" in made.err and reason in made.err
        assert not (tmp_path / "out" / "aggregate.svg").exists()
    else:
        assert better and "left out" not in made.err


def test_speed_is_the_median(plot, tmp_path):
    """One run that shared its core does not count as a mean's part."""
    text = write_scores(tmp_path / "runs.csv", "Hopper-v4", sac_flow_naive=100).read_text()
    header, *lines = text.splitlines()
    rows = [line.rpartition(",")[0] + f",{speed},cpu" for line, speed in zip(lines, (29, 77, 78), strict=True)]
    (tmp_path / "runs.csv").write_text("\n".join([header + ",versions/device", *rows]) + "\n")
    plot.main(plot.Args(figures=["speed"], csv=tmp_path / "runs.csv", out=tmp_path))
    drawn = (tmp_path / "speed.svg").read_text()
    assert "<!-- 77 -->" in drawn and "<!-- 61 -->" not in drawn


def test_output_stays_out_of_tracked_folders(plot):
    ignored = (ROOT / ".gitignore").read_text().split()
    for path in (export.Args().csv, plot.Args(figures=[]).csv, plot.Args(figures=[]).out):
        assert f"{path.parts[0]}/" in ignored, path
    assert plot.Args(figures=[]).csv == export.Args().csv


def test_reference_returns_of_ones_own(plot, tmp_path, capsys):
    table = write_scores(tmp_path / "runs.csv", "Mine-v0", sac_gaussian=-42, sac_flow_g=-22)
    (tmp_path / "own.csv").write_text("env,random,one\nMine-v0,-100,0\n")
    args = {"figures": ["aggregate"], "csv": table, "out": tmp_path}
    plot.main(plot.Args(**args, references=tmp_path / "own.csv"))
    made = capsys.readouterr()
    assert "1: the return in own.csv, where it has none" in " ".join((tmp_path / "aggregate.svg").read_text().split())
    assert "| Gaussian | 0.60 |" in made.out and "| Flow-G | 0.80 | +0.20 [" in made.out and not made.err
    for text, problem in (("a,b\n1,2\n", "no columns env, random"), (None, "no such file")):
        (tmp_path / "own.csv").unlink()
        if text:
            (tmp_path / "own.csv").write_text(text)
        with pytest.raises(SystemExit) as stop:
            plot.main(plot.Args(**args, references=tmp_path / "own.csv"))
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: --references ") and problem in error
        (tmp_path / "own.csv").touch()


def test_random_returns(tmp_path):
    """The command measures again what is committed, and the committed table has every task that runs."""
    with open(ROOT / "results" / "random_policy.csv", newline="") as file:
        known = {row["env"]: row for row in csv.DictReader(file)}
    names = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum")
    names += ("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d")
    wanted = {f"{name}-{version}" for name in names for version in ("v4", "v5")} - {"Pusher-v4"} | {"Pendulum-v1"}
    assert set(known) == wanted and {row["episodes"] for row in known.values()} == {"100"}
    command = [sys.executable, ROOT / "scripts" / "random_returns.py", "--env-ids", "Pendulum-v1", "Nothing-v0"]
    result = subprocess.run([*command, "--csv", tmp_path / "new.csv"], capture_output=True, text=True)
    assert result.returncode == 1 and "left out: Nothing-v0: " in result.stderr
    with open(tmp_path / "new.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["env"] == "Pendulum-v1" and float(row["random"]) == pytest.approx(-1207.56, rel=1e-3)


def test_differences_and_their_intervals(plot, table, tmp_path, capsys):
    """Of scores and of gradient norms over the rollout; and returns at the last step that all K have."""
    for seed in (1, 2, 3):
        write_run(
            tmp_path / "runs", seed=seed, time=2000, until=200, total_timesteps=200, offset=350.0, sampling_steps=7
        )
    run_export(tmp_path / "runs", table=table)
    plot.main(plot.Args(figures=["steps"], csv=table, out=tmp_path))
    out = capsys.readouterr().out
    assert "| | | step | K = 4 | K = 7 |" in out
    assert "| Toy-v0 | Flow-G | 200 | 2302 \u00b1 1 (3) | 2352 \u00b1 1 (3) |" in out
    assert "| Toy-v1 | Flow-G | 300 | 3302 \u00b1 1 (3) | \u2013 |" in out
    plot.main(plot.Args(figures=["aggregate", "gradients"], csv=table, out=tmp_path, where="sampling_steps != 7"))
    out = capsys.readouterr().out
    assert "| Gaussian | 1.00 |  | 0.67 |  |" in out
    assert "| Flow-G | 1.10 | +0.10 [+0.10, +0.10] | 0.77 | +0.10 [+0.10, +0.10] |" in out
    assert "| Flow-T minus Flow-G | +0.10 [+0.10, +0.10] | +0.10 [+0.10, +0.10] |" in out
    assert re.search(r"^\| Toy-v1 \| Flow-T \| 1 \| 0\.1 \| .* \| 1 \u00b1 0 \|$", out, re.MULTILINE)


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


def write_online(folder, script, task, seed, before, after, until=400, **flags):
    """A run of 100 offline updates and 300 environment steps, as far as `until`."""
    path = write_run(folder, script, task, seed, until, **{"offline_steps": 100, "total_timesteps": 300} | flags)
    writer = SummaryWriter(str(path))
    for step in range(100, until + 1, 100):
        writer.add_scalar("eval/success", before if step == 100 else after, step)
    writer.close()


def test_what_the_online_phase_is_worth(plot, tmp_path, capsys):
    """Before and after it, and beside as many updates on the dataset alone; differences are within seeds."""
    lead = {1: 0.01, 2: 0.02, 3: 0.06}
    for task, low, high in (("can", 0.2, 0.8), ("lift", 0.5, 0.7)):
        for seed in lead:
            write_online(tmp_path / "o2o", "o2o_sac_flow_g", task, seed, low, high + lead[seed])
            write_online(tmp_path / "o2o", "o2o_sac_flow_g-no_experience", task, seed, low, 0.6 - lead[seed])
    write_online(tmp_path / "o2o", "o2o_qc_fql", "can", 1, 0.9, 1.0)
    write_online(tmp_path / "o2o", "o2o_qc_fql", "can", 2, 0.9, 1.0, until=300)
    write_online(tmp_path / "o2o", "o2o_qc_fql", "can", 3, 0.9, 1.0)
    run_export(tmp_path / "o2o", table=tmp_path / "o2o.csv")
    flags = {"figures": ["online"], "out": tmp_path, "csv": tmp_path / "o2o.csv"}
    plot.main(plot.Args(**flags, unfinished=True))
    out, err = capsys.readouterr()
    assert "| can | QC-FQL | 0.90 0.90 | 1.00 1.00 |  | \u2013 | \u2013 |" in out, "no spread, no interval"
    assert "QC-FQL on can, seed 2: no evaluation at step 100 or 400, left out" in err
    row = "| can | Flow-G | 0.20 0.20 0.20 | 0.81 0.82 0.86 | 0.59 0.58 0.54 | "
    row += "**+0.63 [+0.56, +0.70]** | **+0.26 [+0.13, +0.39]** |"
    assert row in out and "over these 4" in out and "mean of" not in out
    assert "dataset alone" in (tmp_path / "online.svg").read_text()
    plot.main(plot.Args(**flags, where="script != 'o2o_qc_fql' and not script.str.contains('-')"))
    assert "| mean of can, lift | Flow-G | 0.35 | 0.78 |  | **+0.43 [" in capsys.readouterr().out
    assert "dataset alone" not in (tmp_path / "online.svg").read_text()


def test_what_online_cannot_draw(plot, table, tmp_path, capsys):
    """One line each; what has nothing to do with it in the same table is passed over."""
    for seed in (1, 2):
        write_online(tmp_path / "o2o", "o2o_sac_flow_g", "can", seed, 0.2, 0.3 * seed)
        write_online(
            tmp_path / "o2o", "o2o_sac_flow_g-no_experience", "can", seed, 0.2, 0.6, total_timesteps=200, until=300
        )
        write_online(tmp_path / "o2o", "o2o_sac_flow_t-no_experience", "can", seed, 0.2, 0.6)
        write_online(tmp_path / "o2o", "o2o_qc_fql-mine", "can", seed, 0.2, 0.6)
        write_run(tmp_path / "o2o", "sac_flow_g", "Hopper-v4", seed)
    run_export(tmp_path / "o2o", table=tmp_path / "o2o.csv")
    plot.main(plot.Args(figures=["online"], out=tmp_path, csv=tmp_path / "o2o.csv"))
    out, err = capsys.readouterr()
    assert (
        "| can | Flow-G | 0.20 0.20 | 0.30 0.60 |  | +0.25 [-1.66, +2.16] | \u2013 |" in out
        and out.count("\n| can |") == 1
    )
    for line in (
        "has other steps than Flow-G",
        "a run without experience and none with it",
        "o2o_qc_fql-mine on can is in no",
    ):
        assert line in err
    for wrong in (
        {"csv": table},
        {"where": "step > 100"},
        {"where": "script.str.contains('-')"},
        {"by": ["total_timesteps"]},
    ):
        with pytest.raises(SystemExit) as stop:
            plot.main(plot.Args(**{"figures": ["online"], "out": tmp_path, "csv": tmp_path / "o2o.csv"} | wrong))
        last = capsys.readouterr().err.splitlines()[-1]
        assert stop.value.code == 2 and last.startswith("error: online: "), last


def test_an_evaluation_before_the_first_step_is_a_row(plot, tmp_path, capsys):
    """As of a pretrained policy that goes online at once."""
    for seed in (1, 2):
        path = write_run(tmp_path / "o2o", "o2o_sac_flow_g", "can", seed, 200, offline_steps=0, total_timesteps=200)
        writer = SummaryWriter(str(path))
        for step in (0, 100, 200):
            writer.add_scalar("eval/success", 0.3 * seed + 0.001 * step, step)
        writer.close()
    _, rows = run_export(tmp_path / "o2o", table=tmp_path / "o2o.csv")
    assert [row["step"] for row in rows] == ["0", "100", "200"] * 2 and float(rows[0]["eval/success"]) == 0.3
    plot.main(plot.Args(figures=["online"], out=tmp_path, csv=tmp_path / "o2o.csv"))
    assert "| can | Flow-G | 0.30 0.60 | 0.50 0.80 |" in capsys.readouterr().out


def test_forest_has_every_difference(plot, table, tmp_path, capsys):
    """Of scripts, of K, of variants at their end, which may be before the script's, and of two critics."""
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs", "sac_flow_g-drift", "Toy-v0", seed, 200, total_timesteps=200, sampling_steps=4)
        write_run(tmp_path / "runs", seed=seed, time=2000, offset=350.0, sampling_steps=7)
        flags = {"offset": 700.0, "total_timesteps": 200, "sampling_steps": 4}
        path = write_run(tmp_path / "runs", "sac_flow_t-post_norm", "Toy-v1", seed, until=100, **flags)
        write_scalars(SummaryWriter(str(path)), range(101, 201), seed, 500.0, 200)  # better than without it, then worse
        for script, offset in (("sac_gaussian", -500.0), ("sac_flow_g", 100.0)):
            flags = {} if script == "sac_gaussian" else {"sampling_steps": 4}
            write_run(tmp_path / "runs", f"{script}-no_crossq", "Toy-v0", seed, offset=offset, **flags)
    run_export(tmp_path / "runs", table=table)
    flags = {"figures": ["forest"], "csv": table, "out": tmp_path}
    plot.main(plot.Args(**flags))
    out = capsys.readouterr().out

    def row(what, env, step, end, training):
        found = re.search(
            rf"^\| {re.escape(what)} \| {env} \| 3 \| {step} \| (\S+) \[.* \| (\S+) \[", out, re.MULTILINE
        )
        assert found and found.groups() == (end, training), what

    row("Flow-G", "Toy-v0", 300, "+300", "+300")
    row("Flow-T", "all tasks", 300, "+0.20", "+0.20")
    row("Flow-G, K = 7", "Toy-v0", 300, "+50", "+50")
    row("Flow-G, drift correction (14)", "Toy-v0", 200, "-300", "-300")
    row("Flow-T, post-norm", "Toy-v1", 200, "-100", "+0")
    # Gaussian 0 and -500, Flow-G 300 and 100.
    row("CrossQ\u2019s critic minus target networks, Gaussian and Flow-G", "Toy-v0", 300, "+350", "+350")
    row("Flow-G minus Gaussian, both critics", "Toy-v0", 300, "+450", "+450")
    assert "p after Holm's correction over these 26" in out and re.search(
        r"^\| Toy-v0 \| 1 \| 3 \| \d+ \| 2 \| ", out, re.MULTILINE
    )
    drawn = (tmp_path / "forest.svg").read_text()
    assert "Flow-G, drift correction (14), Toy-v0 (3)" in drawn and "Flow-T, post-norm, Toy-v1 (3)" in drawn
    plot.main(plot.Args(figures=["table"], csv=table, where="sampling_steps != 7"))
    assert "\n| Flow-G, drift correction (14) | 2002 " in capsys.readouterr().out
    for where in ("script != 'sac_flow_g'", "script == 'sac_gaussian'"):
        with pytest.raises(SystemExit) as stop:
            plot.main(plot.Args(**flags, where=where))
        assert stop.value.code == 2 and "error: forest: " in capsys.readouterr().err


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


def test_flags_that_print_alike_are_pooled(plot, tmp_path, capsys):
    """As the entropies of demonstrations that were made on two processors."""
    for seed, entropy in enumerate((-39.196486, -39.196508)):
        write_run(tmp_path / "runs", seed=seed, target_entropy=entropy)
    run_export(tmp_path / "runs", table=tmp_path / "runs.csv")
    plot.main(plot.Args(figures=["table"], csv=tmp_path / "runs.csv"))
    assert re.search(r"\| Flow-G \|.*\(2\)", capsys.readouterr().out)


def test_runs_of_before_a_flag_had_one_update_per_step(plot, tmp_path, capsys):
    """And are not pooled with those of two; other scripts are not said to have the flag."""
    for seed, flags in enumerate(({}, {"updates_per_step": 1}, {"updates_per_step": 2})):
        write_run(tmp_path / "runs", seed=seed, **flags)
    write_run(tmp_path / "runs", "ppo")
    run_export(tmp_path / "runs", table=tmp_path / "runs.csv")
    flags = {"figures": ["table"], "csv": tmp_path / "runs.csv"}
    with pytest.raises(SystemExit):
        plot.main(plot.Args(**flags))
    assert "updates_per_step is 1, 2; choose one by --where" in capsys.readouterr().err
    plot.main(plot.Args(**flags, by=["updates_per_step"]))
    output = capsys.readouterr().out
    assert re.search(r"Flow-G, updates_per_step = 1 .*\(2\)", output) and "| PPO |" in output
    plot.main(plot.Args(**flags, where="updates_per_step != 2 and script != 'ppo'"))
    assert re.search(r"\| Flow-G \|.*\(2\)", capsys.readouterr().out)


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


def welch(plot, one, other):
    return plot.combination([one, other], [1, -1])


def test_intervals_are_students_and_welchs(plot):
    """And with more groups those of the contrast that they can be written as."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(1, 2, 3), rng.normal(0, 1, 5)
    mine, theirs = plot.combination([one], [1]), stats.ttest_1samp(one, 0)
    assert (mine.low, mine.high) == pytest.approx(tuple(theirs.confidence_interval())) and mine.p == pytest.approx(
        theirs.pvalue
    )
    mine, theirs = welch(plot, one, other), stats.ttest_ind(one, other, equal_var=False)
    assert (mine.low, mine.high) == pytest.approx(tuple(theirs.confidence_interval())) and mine.p == pytest.approx(
        theirs.pvalue
    )
    twice = plot.combination([one, one, other, other], [0.5, 0.5, -0.5, -0.5])
    assert twice.value == pytest.approx(mine.value) and twice.high - twice.low < mine.high - mine.low
    assert plot.combination([np.array([1.0])], [1]) is None
    assert welch(plot, np.full(3, 2.0), np.full(3, 1.0)) is None, "nothing varies: no interval, and no certainty"


def test_intervals_cover_what_they_say(plot):
    """The function that the pages use, simulated: 95 % of means, 5 % false differences. A bootstrap of three: 75 %."""
    rng = np.random.default_rng(0)
    draws = 3000
    noise = 3 * (0.95 * 0.05 / draws) ** 0.5
    for seeds in (3, 5):
        means = [plot.combination([rng.normal(7, 3, seeds)], [1]) for _ in range(draws)]
        assert np.mean([mean.low < 7 < mean.high for mean in means]) == pytest.approx(0.95, abs=noise)
        for deviation in (1, 3):
            pairs = [welch(plot, rng.normal(7, 3, seeds), rng.normal(7, 3 * deviation, seeds)) for _ in range(draws)]
            false = np.mean([pair.low > 0 or pair.high < 0 for pair in pairs])
            assert 0.02 < false < 0.05 + 2 * noise, (seeds, deviation, false)
            assert false == np.mean([pair.p < 0.05 for pair in pairs])
    four = [plot.combination(list(rng.normal(7, 3, (4, 3))), [0.5, -0.5, 0.5, -0.5]) for _ in range(draws)]
    assert 0.02 < np.mean([pair.p < 0.05 for pair in four]) < 0.05 + noise
    # Scores over tasks, in units of the baseline's mean, which is an estimate itself.
    pooled = []
    for _ in range(draws):
        tasks = [(rng.normal(mean, 0.3 * mean, 3), rng.normal(mean, 0.3 * mean, 3)) for mean in (6600, 3000, 3300)]
        scores = [values / other.mean() for one, other in tasks for values in (one, other)]
        pooled.append(plot.combination(scores, [1 / 3, -1 / 3] * 3).p < 0.05)
    assert 0.02 < np.mean(pooled) < 0.05 + noise
    drawn = rng.normal(7, 3, (draws, 3))
    assert np.mean((drawn.min(1) < 7) & (drawn.max(1) > 7)) == pytest.approx(0.75, abs=0.03)


def test_holms_correction(plot):
    assert plot.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert plot.holm([0.9, 0.001]).tolist() == pytest.approx([0.9, 0.002])
    # Where nothing differs, at least one of twenty holds in 5 % of cases.
    rng = np.random.default_rng(0)
    assert np.mean([plot.holm(rng.uniform(size=20)).min() < 0.05 for _ in range(4000)]) == pytest.approx(
        0.05, abs=0.012
    )


def test_power(plot):
    """The difference that is said to be found in 80 % of cases is, but for what Welch's costs."""
    assert plot.detectable(64) == pytest.approx(0.5, abs=0.005)  # Cohen's textbook number
    rng = np.random.default_rng(0)
    for seeds in (3, 5):
        shift = plot.detectable(seeds)
        pairs = [welch(plot, rng.normal(shift, 1, seeds), rng.normal(0, 1, seeds)) for _ in range(2000)]
        assert 0.7 < np.mean([pair.p < 0.05 for pair in pairs]) < 0.83


def test_normalised_scores(plot, table, tmp_path):
    args = plot.Args(figures=["aggregate"], csv=table)
    scores = plot.scores(args, plot.with_lines(plot.load(args), []), "eval_return")
    ends = scores[scores.step == 300].groupby("script").score.mean()
    assert ends["sac_gaussian"] == pytest.approx(1) and ends["sac_flow_g"] == pytest.approx(3302 / 3002)


def made_up(tmp_path, rows, name="made_up.csv"):
    """A table with these columns and what else plot.py needs."""
    pd = pytest.importorskip("pandas")
    plain = {"env": "A-v0", "script": "sac_gaussian", "seed": 1, "step": 1000, "finished": 1, "train_return": 0.0}
    rows = [plain | row for row in rows]
    for row in rows:
        row.setdefault("run", f"{row['env']}__{row['script']}__{row['seed']}__1")
    pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
    return tmp_path / name


def plotted(table, *words):
    command = [sys.executable, ROOT / "scripts" / "plot.py", *words, "--csv", table, "--out", table.parent / "out"]
    return subprocess.run(command, capture_output=True, text=True)


def grid_of(scripts, seeds=3, steps=(500, 1000), **more):
    """Returns that tell script, seed and step apart."""
    return [
        {"script": script, "seed": seed, "step": step, "eval_return": 100 * i + 10 * seed + step / 100} | more
        for i, script in enumerate(scripts)
        for seed in range(1, seeds + 1)
        for step in steps
    ]


@pytest.mark.parametrize("where", ["seed = 1", "seed", "1"])
def test_an_assignment_is_no_condition(tmp_path, where):
    """pandas reads x = 1 as one, and would blank cells instead of choosing rows."""
    result = plotted(made_up(tmp_path, grid_of(["sac_gaussian"])), "table", "--where", where)
    assert result.returncode == 2 and result.stderr.startswith(f"error: --where {where}: not a condition; write ==")


def test_the_power_table_has_the_baseline_and_every_seed_once(tmp_path):
    rows = grid_of(["sac_gaussian", "sac_flow_g"])
    for row in rows:
        row["eval_return"] *= 5 if row["script"] == "sac_gaussian" else 1
    older = [
        row | {"run": "A-v0__sac_flow_g__1__0", "eval_return": 9999} for row in rows if row["script"] != "sac_gaussian"
    ]
    result = plotted(made_up(tmp_path, rows + [row for row in older if row["seed"] == 1]), "forest")
    assert result.returncode == 0 and "ran more than once" in result.stderr
    deviation = ((50**2 + 10**2) / 2) ** 0.5
    assert f"\n| A-v0 | {deviation:.0f} |" in result.stdout


def test_forest_has_every_script_or_says_which_it_leaves_out(tmp_path):
    rows = grid_of(["sac_gaussian", "my_flow", "my-flow"]) + grid_of(["sac_flow_t-odd"], env="B-v0")
    result = plotted(made_up(tmp_path, rows), "forest")
    assert result.returncode == 2 and "sac_flow_t with odd on B-v0, no run without" in result.stderr
    rows = [row for row in rows if "env" not in row]
    rows += grid_of(["sac_flow_g"], sampling_steps=7) + grid_of(["sac_flow_t"], 1, sampling_steps=7)
    result = plotted(made_up(tmp_path, rows), "forest")
    assert result.returncode == 0, result.stderr
    for name in ("my_flow", "my-flow", "Flow-G, K = 7"):
        assert f"| {name} | A-v0 |" in result.stdout
    assert "sac_flow_t, K = 7, on A-v0 is in no row" in result.stderr


def test_seeds_that_end_earlier_are_named_and_so_is_the_step(tmp_path):
    rows = [row for row in grid_of(["sac_gaussian", "sac_flow_g"]) if (row["seed"], row["step"]) != (3, 1000)]
    result = plotted(made_up(tmp_path, rows), "table", "aggregate")
    assert result.returncode == 0, result.stderr
    assert "table: Gaussian on A-v0: 1 of 3 seeds end earlier and are not in the mean" in result.stderr
    assert re.search(r"^\| Flow-G \| \+100 \[.*\] at 500 \| \+100 ", result.stdout, re.MULTILINE)
    assert "aggregate: on A-v0 the end is step 500" in result.stderr


def test_aggregate_needs_one_line_of_the_baseline(tmp_path):
    rows = grid_of(["sac_gaussian", "sac_flow_g"], alpha=0.1) + grid_of(["sac_gaussian"], alpha=0.2)
    for row in rows:
        row["run"] = f"A-v0__{row['script']}__{row['seed']}__{row['alpha']}"
    table = made_up(tmp_path, rows)
    result = plotted(table, "aggregate", "--by", "alpha")
    assert (
        result.returncode == 2 and "the baseline has the lines Gaussian, alpha = 0.1; Gaussian, alpha" in result.stderr
    )
    result = plotted(table, "aggregate", "--by", "alpha", "--where", "alpha == 0.1")
    assert result.returncode == 0 and re.search(r"^\| Flow-G, alpha = 0.1 \| \S+ \| \+", result.stdout, re.MULTILINE)
    result = plotted(table, "table", "--by", "alpha", "--where", "alpha == 0.1")
    assert re.search(r"^\| Flow-G, alpha = 0.1 \| \+100 \[", result.stdout, re.MULTILINE)
    result = plotted(table, "table", "--by", "alpha")
    assert "note: table: no differences: --baseline sac_gaussian has the lines Gaussian, alpha" in result.stderr
    result = plotted(table, "table", "--where", "alpha == 0.1", "--baseline", "sac_gausian")
    assert "table: no differences: --baseline sac_gausian has no run here" in result.stderr
    result = plotted(table, "steps", "forest", "--returns", "both")
    assert result.returncode == 2 and "--returns both: forest and steps draw one of them" in result.stderr


def test_what_is_not_there_takes_no_seed_away(tmp_path):
    """A run without evaluations, rows that are there twice, a new start of a run that had finished."""
    whole = grid_of(["sac_gaussian", "sac_flow_g"])
    expected = plotted(made_up(tmp_path, whole), "table").stdout
    assert "| Gaussian | 30 ± 10 (3) |" in expected and "+100 [" in expected
    blind = [row | {"seed": 4, "eval_return": None} for row in grid_of(["sac_gaussian"], 1)]
    assert plotted(made_up(tmp_path, whole + blind), "table").stdout == expected
    result = plotted(made_up(tmp_path, whole + whole[:3]), "table", "curves")
    assert result.stdout.startswith(expected) and "3 rows are there twice" in result.stderr
    begun = whole[0] | {"run": "A-v0__sac_gaussian__1__2", "finished": 0, "eval_return": -999}
    assert plotted(made_up(tmp_path, [*whole, begun]), "table", "--unfinished").stdout == expected


def test_speed_says_what_it_pools(tmp_path):
    rows = [row | {"versions/device": "cpu", "compile": row["seed"] == 1} for row in grid_of(["sac_gaussian"])]
    rows = [row | {"steps_per_second": 10.0 * row["seed"]} for row in rows]
    result = plotted(made_up(tmp_path, rows), "speed")
    assert result.returncode == 0
    assert "speed: Gaussian on A-v0: compile is True, False in one bar; --by compile" in result.stderr


def test_tasks_of_unequal_length_are_pooled_at_the_step_they_share(tmp_path):
    """Flow-G has one and a half times the Gaussian's return at every step: half of the unit more, on both tasks."""
    rows = []
    for env, ends in (("A-v0", {"sac_gaussian": 4000, "sac_flow_g": 1000}), ("B-v0", {"sac_gaussian": 1000})):
        for script, factor in (("sac_gaussian", 1.0), ("sac_flow_g", 1.5)):
            steps = range(500, ends.get(script, 1000) + 1, 500)
            own = grid_of([script], steps=steps, env=env)
            rows += [row | {"eval_return": factor * row["step"] * (1 + 0.01 * row["seed"])} for row in own]
    result = plotted(made_up(tmp_path, rows), "forest")
    assert result.returncode == 0 and "| Flow-G | all tasks | 3 | 1k | +0.50 [" in result.stdout, result.stdout
    result = plotted(made_up(tmp_path, rows), "forest", "--by", "seed")
    assert result.returncode == 2 and "forest: has no line for seed; choose one value by --where" in result.stderr


def test_aggregate_leaves_out_a_task_that_a_line_was_not_evaluated_on(tmp_path):
    rows = grid_of(["sac_gaussian", "sac_flow_g"]) + grid_of(["sac_gaussian", "sac_flow_g"], env="B-v0")
    for row in rows:
        if row["script"] == "sac_flow_g" and row.get("env") == "B-v0":
            row["eval_return"] = None
    result = plotted(made_up(tmp_path, rows), "aggregate")
    assert result.returncode == 0 and "not every line has B-v0, left out" in result.stderr
    assert "score on A-v0, and" in result.stdout


def test_a_flag_stays_a_number_beside_a_run_that_has_none(tmp_path):
    first = grid_of(["sac_flow_g"], target_entropy=0.0) + grid_of(["sac_gaussian"], target_entropy="None")
    made_up(tmp_path, grid_of(["sac_flow_g"], target_entropy=0.0, env="B-v0"), "other.csv")
    table = made_up(tmp_path, first)
    words = "table", "--also", tmp_path / "other.csv", "--where", "target_entropy == 0"
    result = plotted(table, *words)
    assert result.returncode == 0 and "A-v0" in result.stdout and "B-v0" in result.stdout, result.stdout


def test_seeds_that_are_all_alike_have_no_interval(tmp_path):
    rows = [
        row | {"eval/success": 1.0 if i < 6 else 0.98} for i, row in enumerate(grid_of(["sac_gaussian", "sac_flow_g"]))
    ]
    result = plotted(made_up(tmp_path, rows), "table", "--returns", "success")
    assert result.returncode == 0 and "| Flow-G | \u2013 | \u2013 |" in result.stdout, result.stdout


def test_only_rollouts_have_gradients(tmp_path):
    """QSM and DIME have sampling steps as well."""
    flow = grid_of(["sac_flow_g"], sampling_steps=4, **{"gradients/step_0": 0.1, "gradients/step_1": 1.0})
    other = grid_of(["qsm"], sampling_steps=5)
    result = plotted(made_up(tmp_path, flow + other), "gradients", "steps")
    assert result.returncode == 0 and "QSM" not in result.stdout and "K = 5" not in result.stdout
    result = plotted(made_up(tmp_path, other), "gradients")
    assert result.returncode == 2 and "gradients: no run has a rollout" in result.stderr


def test_tasks_without_a_common_step_are_refused_together(tmp_path):
    rows = [
        row
        for env, steps in (("A-v0", (400, 800)), ("B-v0", (1000, 2000)))
        for row in grid_of(["sac_gaussian", "sac_flow_g"], steps=steps, env=env)
    ]
    result = plotted(made_up(tmp_path, rows), "aggregate")
    assert result.returncode == 2 and "\nerror: aggregate: its tasks share no step; " in result.stderr
    result = plotted(made_up(tmp_path, rows), "forest")
    assert result.returncode == 0 and "its tasks share no step, and have no row together" in result.stderr
