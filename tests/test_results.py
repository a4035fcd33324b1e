"""What results/ and the texts show comes from the committed CSV files: figures to the byte, tables to the digit."""

import csv
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

ENTRIES = ["from-scratch", "gradients", "steps", "speed", "baselines", "baselines-search"]
ENTRIES += ["ablations", "offline-to-online"]
LOCAL = "curves --csv results/sweep_local.csv --prefix sweep_local_"  # the one that is not of scripts/reproduce.sh
CUBE = "cube-single-play-singletask-task1-v0"
SCRIPTS = {"Gaussian": "sac_gaussian", "naive flow": "sac_flow_naive", "Flow-G": "sac_flow_g", "Flow-T": "sac_flow_t"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A copy of the scripts and tables alone, with the figures drawn anew, and what that printed."""
    for module in ("matplotlib", "pandas", "scipy"):
        pytest.importorskip(module, reason="figures need scripts/requirements.txt")
    folder = tmp_path_factory.mktemp("figures")
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "results").mkdir()
    for table in (ROOT / "results").glob("*.csv"):
        shutil.copy(table, folder / "results")
    command = ["bash", folder / "scripts" / "reproduce.sh", *ENTRIES, "--small", "--figures-only"]
    result = subprocess.run([*command, "--python", sys.executable], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    subprocess.run([sys.executable, "scripts/plot.py", *LOCAL.split()], cwd=folder, check=True)
    command = [sys.executable, "scripts/multigoal.py", "--figures-only"]
    goals = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    command = [sys.executable, "scripts/benchmark.py", "--table-only"]
    speed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder, result.stdout + goals.stdout + speed.stdout


def test_figures_come_from_the_tables(drawn):
    folder, _ = drawn
    committed = {path.name: path for path in (ROOT / "results" / "figures").iterdir()}
    new = {path.name: path for path in (folder / "results" / "figures").iterdir()}
    assert new.keys() == committed.keys()
    for name in committed:
        if name.endswith(".svg"):
            assert new[name].read_bytes() == committed[name].read_bytes(), name


def test_tables_of_the_results_page_are_what_the_commands_print(drawn):
    """And those of the searches, with the baselines."""
    page = (ROOT / "results" / "README.md").read_text()
    searched = (ROOT / "baselines" / "README.md").read_text().partition("\n## Settings searched\n")[2]
    for text in (page.partition("\n## Returns\n")[2], searched):
        rows = re.findall(r"^\|.*\|$", text, re.MULTILINE)
        printed = drawn[1].splitlines()
        assert len(rows) > 25 and not set(rows) - set(printed), set(rows) - set(printed)
    figures = re.findall(r"!\[.+\]\((figures/\S+)\)", page)
    assert len(figures) >= 5 and all((ROOT / "results" / figure).is_file() for figure in figures)


def test_sentences_of_the_readme(drawn):
    """Its scores and gradient norms are the tables', and what it says of the intervals holds."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    pattern = r"^\| (Naive flow|Flow-[GT]) \| (\d\S+) \[.*?\] \| \S+ \[(\S+), (\S+)\] \| .* \| (\S+) \|$"
    found = re.findall(pattern, drawn[1].partition("Undiscounted training return, IQM")[0], re.MULTILINE)
    assert [name for name, *_ in found] == ["Naive flow", "Flow-G", "Flow-T"]
    assert all(float(low) <= 0 <= float(high) for _, _, low, high, _ in found)
    naive, flow_g, flow_t = (score.removeprefix("0") for _, score, *_ in found)
    assert f"means are {naive} (naive), {flow_g} (Flow-G) and {flow_t} (Flow-T), the plain means" in readme
    naive, flow_g, flow_t = (plain.removeprefix("0") for *_, plain in found)
    assert f"the plain means {naive}, {flow_g} and {flow_t}." in readme
    pattern = r"^\| \S+-v4 \| Flow-[GT] \| .*\| (\d\S+) \[\S+, \S+\] \| (\d\S+) \[(\S+), \S+\] \|$"
    ranges = re.findall(pattern, drawn[1], re.MULTILINE)
    assert len(ranges) == 6 and all(float(low) > 0.29 for *_, low in ranges)
    inner, whole = ([float(pair[i]) for pair in ranges] for i in (0, 1))
    assert f"by {min(whole):.1f} to {max(whole):.1f}, or by {min(inner):.2f} to {max(inner):.2f} without A_K" in readme
    with open(ROOT / "results" / "small.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sampling_steps"] == "4" and row["step"] == "100000"]
    ends = [
        round(float(row["eval_return"])) for row in rows if (row["script"], row["env"][:4]) == ("sac_flow_g", "Half")
    ]
    assert f"evaluations of {min(ends)} to {max(ends)} at the end (three seeds)" in readme and len(ends) == 3


def test_gradient_norms_in_the_decisions_log(drawn):
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    table = drawn[1].partition("Gradient norm at A_k")[2].partition("\n\n")[2].partition(".svg")[0]
    rows = re.findall(r"^\| (\S+-v4) \| (Naive flow|Flow-[GT]) \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) == 9
    for env, name, values in rows:
        *norms, _, _ = (re.sub(r"^0\.", ".", value) for value in values.split(" | "))  # the last two are their range
        assert f"\n| {env}, {name.removesuffix(' flow').replace('Naive', 'naive')} | {' | '.join(norms)} |\n" in log


def test_sampling_steps_in_the_decisions_log():
    with open(ROOT / "results" / "small.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["env"], row["step"]) == ("HalfCheetah-v4", "60000")]
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    for name, script in {
        "naive": "sac_flow_naive",
        "Flow-G": "sac_flow_g",
        "Flow-G, one layer in the candidate": "sac_flow_g-candidate_1",
        "Flow-T": "sac_flow_t",
    }.items():
        cells = []
        for k in ("1", "2", "4", "7", "10"):
            mine = [row for row in rows if (row["script"], row["sampling_steps"]) == (script, k)]
            ordered = sorted(mine, key=lambda row: int(row["seed"]))
            cells.append(", ".join(f"{float(row['eval_return']):.0f}" for row in ordered) or "\u2013")
        assert f"\n| {name} | {' | '.join(cells)} |\n" in log, cells


def test_gradient_norms_at_other_k_in_the_decisions_log():
    """Mean over the evaluations from 30 000 steps on, then over seeds."""
    with open(ROOT / "results" / "small.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["env"] == "HalfCheetah-v4" and int(row["step"]) > 30000]
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    for name, script in {"naive": "sac_flow_naive", "Flow-G": "sac_flow_g", "Flow-T": "sac_flow_t"}.items():
        for k in (7, 10):
            mine = [row for row in rows if (row["script"], row["sampling_steps"]) == (script, f"{k}")]
            norms = [sum(float(row[f"gradients/step_{i}"]) for row in mine) / len(mine) for i in range(k + 1)]
            shown = [norms[i] for i in (0, 1, k // 2, k - 1, k)] + [max(norms) - min(norms)]
            cells = " | ".join(f"{value:.2g}".removeprefix("0") for value in shown)
            assert f"\n| {name}, K = {k} | {cells} |\n" in log, (name, k, cells)


def test_entropy_of_the_last_step_in_the_decisions_log():
    with open(ROOT / "results" / "last_step.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["step"]))
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    names = {"sac_flow_g-last_step": "Flow-G, one layer", "sac_flow_t-last_step": "Flow-T"}
    names |= {"naive_K1_last": "naive, K = 1", "naive_K1_zero": "naive, K = 1, A_0 = 0"}
    runs = {(row["script"], row["seed"]) for row in rows}
    assert len(runs) == 7
    for script, seed in runs:
        mine = [f"{float(row['eval_return']):.0f}" for row in rows if (row["script"], row["seed"]) == (script, seed)]
        assert f"\n| {names[script]}, seed {seed} | {' | '.join(mine)} |\n" in log, (script, seed)


def test_depth_of_the_candidate_in_the_decisions_log():
    names = ("sac_flow_g-candidate_1", "sac_flow_g")
    with open(ROOT / "results" / "small.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["script"] in names and row["sampling_steps"] == "4"]
    log = (ROOT / "results" / "DECISIONS.md").read_text()

    def cell(env, layers, tag, last):
        values = {}
        for row in sorted(rows, key=lambda row: int(row["step"])):
            if (row["env"], row["script"]) == (env, names[layers]):
                values.setdefault(row["seed"], []).append(float(row[tag]))
        assert all(len(series) == 10 for series in values.values())
        return ", ".join(f"{series[-1] if last else sum(series) / 10:.0f}" for _, series in sorted(values.items()))

    kinds = {
        "mean of the ten evaluations": ("eval_return", False),
        "mean of the training returns": ("train_return", False),
        "evaluation at the end": ("eval_return", True),
    }
    for env in ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"):
        for kind, (tag, last) in kinds.items():
            cells = [cell(env, layers, tag, last) for layers in (0, 1)]
            assert f"\n| {env}, {kind} | {' | '.join(cells)} |\n" in log, (env, kind, cells)


def test_target_networks_with_one_layer_in_the_decisions_log(tmp_path):
    """What one_layer.csv shows beside the runs of small.csv that it is to be compared with."""
    pytest.importorskip("matplotlib", reason="figures need scripts/requirements.txt")
    pd = pytest.importorskip("pandas", reason="figures need scripts/requirements.txt")
    without, changed = (pd.read_csv(ROOT / "results" / name) for name in ("small.csv", "one_layer.csv"))
    without = without.query("script == 'sac_flow_g-candidate_1' and env == 'HalfCheetah-v4' and sampling_steps == 4")
    pd.concat([without.assign(script="sac_flow_g"), changed]).to_csv(tmp_path / "runs.csv", index=False)
    command = [sys.executable, ROOT / "scripts" / "plot.py", "ablations", "--csv", tmp_path / "runs.csv"]
    printed = subprocess.run([*command, "--out", tmp_path], check=True, capture_output=True, text=True).stdout
    found = re.search(r"Flow-G \| (\d+) \(3\) \| (\d+) \(3\) \| (\S+ \[.*?\]) \| (\S+ \[.*?\]) \|", printed)
    here, before, end, whole = found.groups()
    log = " ".join((ROOT / "results" / "DECISIONS.md").read_text().split())
    shown = f"{here} with target networks against {before}, {end}, over training {whole}"
    assert f"Flow-G with one layer has {shown}" in log


@pytest.mark.parametrize("page", ["README.md", "results/README.md", "results/DECISIONS.md"])
def test_differences_in_the_pages_are_printed(drawn, page):
    text = (ROOT / page).read_text()
    if page.endswith("DECISIONS.md"):  # those of one layer with target networks have a test of their own
        text = re.sub(r"\[one_layer.csv\].*", "", text, flags=re.DOTALL)
        text += (ROOT / page).read_text().partition("## What the gradient norms show")[2]
    differences = re.findall(r"[+-]\d+ \[[+-]\d+, [+-]\d+\]", text)
    assert len(differences) >= 2, differences
    assert not [difference for difference in differences if difference not in drawn[1]]


def test_one_change_at_a_time_in_the_decisions_log():
    """Evaluations at 60 000 steps, seed by seed, with the change; and the table of the bound of sigma."""
    with open(ROOT / "results" / "small.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    log = " ".join((ROOT / "results" / "DECISIONS.md").read_text().split())

    def values(script, env, tag, step=None):
        mine = [row for row in rows if (row["script"], row["env"]) == (script, env)]
        mine = [row for row in mine if row["sampling_steps"] in ("", "4")]
        mine = [row for row in mine if (row["step"] == step if step else int(row["step"]) <= 60000)]
        series = [[float(row[tag]) for row in mine if row["seed"] == seed] for seed in "123"]
        return [f"{sum(one) / len(one):.0f}" for one in series]

    for script, env in (
        ("sac_flow_t-drift", "HalfCheetah-v4"),
        ("sac_flow_t-entropy_-d", "HalfCheetah-v4"),
        ("sac_flow_t-no_log_std", "HalfCheetah-v4"),
        ("sac_flow_t-alpha_0.2", "HalfCheetah-v4"),
        ("sac_flow_t-post_norm", "HalfCheetah-v4"),
        ("sac_flow_g-bounded_candidate", "HalfCheetah-v4"),
        ("sac_flow_t-no_normalize_obs", "HalfCheetah-v4"),
        ("sac_gaussian-no_normalize_obs", "HalfCheetah-v4"),
        ("sac_gaussian-no_normalize_obs", "Hopper-v4"),
        ("sac_gaussian-renorm", "HalfCheetah-v4"),
        ("sac_gaussian-renorm", "Hopper-v4"),
    ):
        for name in (script, script.partition("-")[0]):
            one, two, three = values(name, env, "eval_return", "60000")
            assert f" {one}, {two} and {three}" in log, (name, env)
    for script in ("sac_flow_t-starts_50k", "sac_flow_t"):
        one, two, three = values(script, "HalfCheetah-v4", "eval_return", "100000")
        assert f" {one}, {two} and {three}" in log, script
    for kind, tag, step in (
        ("training return at 40 000 steps", "train_return", "40000"),
        ("mean of the six evaluations", "eval_return", None),
        ("evaluation at 60 000 steps", "eval_return", "60000"),
    ):
        cells = [values(script, "Hopper-v4", tag, step) for script in ("sac_flow_t", "sac_flow_t-log_std_max_0")]
        assert f"| {kind} | {' | '.join(map(', '.join, cells))} |" in log, cells


def test_success_rates_in_the_readme():
    """Before and after the online phase, and of its last training episodes, seed by seed."""
    with open(ROOT / "results" / "offline_to_online_small.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    readme = (ROOT / "offline_to_online" / "README.md").read_text()

    def cell(env, script, before, after):
        mine = {(row["seed"], int(row["step"])): row for row in rows if (row["env"], row["script"]) == (env, script)}

        def values(step, tag):
            return " ".join(f"{float(mine[seed, step][tag]):.2f}".removeprefix("0") for seed in "12")

        return f"{values(before, 'eval/success')} → {values(after, 'eval/success')} ({values(after, 'charts/success')})"

    for name, script in (SCRIPTS | {"QC-FQL": "qc_fql"}).items():
        if script != "sac_gaussian":
            cells = cell("can", f"o2o_{script}", 5000, 15000), cell(CUBE, f"o2o_{script}", 10000, 30000)
            assert f"\n| {name} | {' | '.join(cells)} |\n" in readme, (name, cells)
    short = " ".join((ROOT / "README.md").read_text().split())
    (before, after), (theirs, gained) = (
        [part.split() for part in cell(CUBE, script, 10000, 30000).partition(" (")[0].split(" → ")]
        for script in ("o2o_sac_flow_g", "o2o_qc_fql")
    )
    assert f"Flow-G goes from {' and '.join(before)} to {' and '.join(after)} success on cube-single" in short
    assert f"QC-FQL from {' and '.join(theirs)} to {' and '.join(gained)}." in short


def test_success_rates_in_the_decisions_log():
    """Of what was changed one at a time on cube-single, and of the evaluations that followed the last."""
    tables = []
    for name in ("open", "late"):
        with open(ROOT / "results" / f"offline_to_online_{name}.csv", newline="") as file:
            tables.append(sorted(csv.DictReader(file), key=lambda row: int(row["step"])))
    log = (ROOT / "results" / "DECISIONS.md").read_text()

    def rates(rows, **flags):
        mine = [row for row in rows if all(row[flag] == value for flag, value in flags.items())]
        return [f"{float(row['eval/success']):.2f}".removeprefix("0") for row in mine]

    usual = {"env": CUBE, "offline_steps": "5000", "squash": "tanh", "sigma": "0.1", "autotune": "True"}
    usual["target_entropy"] = next(row["target_entropy"] for row in tables[0] if row["env"] == CUBE)
    for name, changes in {
        "defaults": {},
        "`--squash clip`": {"squash": "clip", "target_entropy": "0.0"},
        "`--sigma 0.05`": {"sigma": "0.05"},
        "`--sigma 0.2`": {"sigma": "0.2"},
        "`--target-entropy 0`": {"target_entropy": "0.0"},
        "`--no-autotune --alpha 0`": {"autotune": "False"},
    }.items():
        assert f"\n| {name} | {' | '.join(rates(tables[0], **usual | changes))} |\n" in log, name
    with open(ROOT / "results" / "offline_to_online_small.csv", newline="") as file:
        usual = sorted(csv.DictReader(file), key=lambda row: int(row["step"]))
    for name, rows in (("3e-4", usual), ("1e-4", tables[0])):
        assert f"| {name} | {' | '.join(rates(rows, script='o2o_sac_flow_t', env='can', seed='1'))} |" in log
    first, *later = rates(tables[1], script="o2o_sac_flow_g", actor_learning_rate="0.0003")
    assert f"| Flow-G, step size 3e-4 | {first}, then {', '.join(later)} |" in log
    for name, script in (("Flow-G", "o2o_sac_flow_g"), ("Flow-T", "o2o_sac_flow_t")):
        first = rates(tables[1], script=script, step="15000")[0]
        later = rates(tables[1], script=script, actor_learning_rate="3e-05")
        assert f"| {name}, step size 3e-5 | {first}, then {', '.join(later)} |" in log


def test_width_in_the_decisions_log():
    """Each row of the table, with Welch's interval and p, from the two CSV files; and what Holm's correction leaves."""
    pd, stats = pytest.importorskip("pandas"), pytest.importorskip("scipy.stats")
    narrow, usual = (pd.read_csv(ROOT / "results" / name, low_memory=False) for name in ("width.csv", "small.csv"))
    assert set(narrow["hidden_dim"].dropna()) == {256} and set(narrow["d_model"].dropna()) == {64}
    log, p = (ROOT / "results" / "DECISIONS.md").read_text(), {}
    for (env, script), rows in narrow.query("step == 60000").groupby(["env", "script"]):
        as_it_is = usual.query("env == @env and script == @script and step == 60000")
        as_it_is = as_it_is[as_it_is["sampling_steps"].fillna(4) == 4]
        if len(rows) < 3:
            continue
        one, other = (table.sort_values("seed")["eval_return"].to_numpy() for table in (rows, as_it_is))
        assert len(one) == len(other) == 3
        welch = stats.ttest_ind(one, other, equal_var=False)
        low, high = welch.confidence_interval()
        p[env, script] = welch.pvalue
        name = next(name for name, its_script in SCRIPTS.items() if its_script == script)
        cells = [
            env,
            name[0].upper() + name[1:],
            *(", ".join(f"{value:.0f}" for value in values) for values in (one, other)),
        ]
        cells += [f"{one.mean() - other.mean():+.0f} [{low:+.0f}, {high:+.0f}]", f"{welch.pvalue:.3f}"]
        assert f"| {' | '.join(cells)} |" in log, cells
    assert min(p, key=p.get) == ("Hopper-v4", "sac_flow_g") and p["Hopper-v4", "sac_flow_g"] * len(p) < 0.05


def test_speed_in_the_readme(drawn):
    """Every row of its tables is one that benchmark.py --table-only prints."""
    section = (ROOT / "README.md").read_text().partition("\n## Speed\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?:HalfCheetah|Humanoid)-v4 .*\|$", section, re.MULTILINE)
    assert len(rows) > 15 and not set(rows) - set(drawn[1].splitlines())
