"""What results/ and the texts show comes from the committed CSV files: figures to the byte, tables to the digit."""

import csv
import itertools
import re
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT

ENTRIES = ["from-scratch", "gradients", "steps", "speed", "baselines", "baselines-search"]
ENTRIES += ["ablations", "humanoid", "ant", "standup", "tasks", "offline-to-online"]
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
    command = [sys.executable, "scripts/multigoal.py", "--figures-only"]
    goals = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    command = [sys.executable, "scripts/benchmark.py", "--table-only"]
    speed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder, result.stdout + goals.stdout + speed.stdout


def test_figures_come_from_the_tables(drawn):
    folder, _ = drawn
    committed, new = (
        {path.name: path.read_bytes() for path in (root / "results" / "figures").glob("*.svg")}
        for root in (ROOT, folder)
    )
    assert new.keys() == committed.keys() and new
    for name in committed:
        assert new[name] == committed[name], name


def test_tables_of_the_pages_are_what_the_commands_print(drawn):
    """Of the results page, the searches, with the baselines, and the first sections of the decisions log."""
    page = (ROOT / "results" / "README.md").read_text().partition("\n## Returns\n")[2]  # behind the paper's claims
    page = page.replace(re.search(r"^\| \| \|\n.*?\n\n", page, re.MULTILINE | re.DOTALL).group(0), "")  # the setting
    searched = (ROOT / "baselines" / "README.md").read_text().partition("\n## Settings searched\n")[2]
    sections = re.split(r"^## ", (ROOT / "results" / "DECISIONS.md").read_text(), flags=re.MULTILINE)
    names = "Every difference", "Returns in other units", "Several equal goals", "What the gradient norms show"
    names += ("Offline to online: differences within seeds",)
    chosen = [section for section in sections if section.startswith(names)]
    # Two tables of the section on gradients have a test of their own.
    chosen = [re.sub(r"^\| (sigma|Humanoid-v4 \| naive) \|.*?\n\n", "", part, flags=re.M | re.S) for part in chosen]
    assert len(chosen) == len(names)
    for text in (page, searched, *chosen):
        rows = re.findall(r"^\|.*\|$", text, re.MULTILINE)
        printed = drawn[1].splitlines()
        assert len(rows) > 10 and not set(rows) - set(printed), set(rows) - set(printed)
    figures = re.findall(r"!\[.+\]\((figures/\S+)\)", page)
    assert len(figures) >= 5 and all((ROOT / "results" / figure).is_file() for figure in figures)


def test_pages_are_short():
    assert len((ROOT / "results" / "README.md").read_text().split()) <= 2500
    assert len((ROOT / "README.md").read_text().split()) <= 1600


STEPS = range(10_000, 100_001, 10_000)
ESTIMATE = r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]"


@pytest.fixture(scope="module")
def differences(drawn):
    """Of the forest plot: (difference, task) -> ((value, low, high, p) at the end, the same over training)."""
    table = drawn[1].partition("p after Holm's correction over these")[2].partition("Difference at the end that")[0]
    pattern = rf"^\| (.*?) \| (\S+-v4|all tasks) \| .*? \| {ESTIMATE} \| (\S+) \| {ESTIMATE} \| (\S+) \|$"
    found = {}
    for name, env, *numbers in re.findall(pattern, table, re.MULTILINE):
        numbers = [float(number.strip("*")) for number in numbers]
        found[name, env] = tuple(numbers[:4]), tuple(numbers[4:])
    assert len(found) > 40 and f"over these {2 * len(found)}\n" in drawn[1]
    return found


def test_what_the_pages_say_of_the_differences(differences, drawn):
    """How many there are, how many exclude 0 by themselves, and which is left."""
    page = " ".join((ROOT / "results" / "README.md").read_text().split())
    both = [(key, part) for key, pair in differences.items() for part in pair]
    excluding = [key for key, (_, low, high, _) in both if low > 0 or high < 0]
    left = [(key, part[:3]) for key, part in both if part[3] < 0.05]
    number = len(both)
    assert f"Of the {number} differences {len(excluding)} have an interval that excludes 0" in page
    assert f"where chance alone gives {0.05 * number:.0f}. After Holm's correction one is left: the critic's" in page
    (((name, env), (value, low, high)),) = left
    assert name.startswith("CrossQ\u2019s critic minus target networks") and env == "HalfCheetah-v4"
    assert differences[name, env][1][:3] == (value, low, high), "over training"
    shown = f"cost {value:.0f} [{low:.0f}, {high:.0f}] over the first 60 000 steps"
    assert shown in page
    told = "Of the other nine, four are the critic's again. "
    told += "The remaining five, all on HalfCheetah-v4, would need more seeds:"
    critic = [key for key in excluding if "target networks" in key[0]]
    assert told in page and len(excluding) == 1 + 9 and len(critic) == 1 + 4
    assert {env for _, env in excluding} == {"HalfCheetah-v4"}
    for name, wanted in (("raw observations", 1), ("renormalisation", 2), ("tanh", 1), ("50k", 1)):
        assert sum(name in key[0] for key in excluding) == wanted, name
    # Flows and K: nothing.
    flow = re.compile(r"(Naive flow|Flow-[GT])($|, K)")
    quiet = [part for (name, _), pair in differences.items() if flow.match(name) for part in pair]
    assert len(quiet) > 30 and all(low <= 0 <= high for _, low, high, _ in quiet)
    for kind in ("raw observations", "renormalisation"):
        ((cheetah, _), (hopper, _)) = (
            next(pair for key, pair in differences.items() if key[1] == env and "Gaussian" in key[0] and kind in key[0])
            for env in ("HalfCheetah-v4", "Hopper-v4")
        )
        assert cheetah[0] > 0 > hopper[0], "a gain on one task alone"
    # A tenth of the score would not show.
    whole = [part for (_, env), pair in differences.items() if env == "all tasks" for part in pair]
    assert len(whole) == 6 and all(high - low > 0.2 for _, low, high, _ in whole)


def test_what_the_page_says_of_power(drawn):
    """Three seeds see half of the return on HalfCheetah-v4 and all of it on Walker2d-v4."""
    table = drawn[1].partition("that is found in 80 %")[2].partition(".svg")[0]
    rows = re.findall(r"^\| (\S+-v4) \| (\d+) \| (\d+) \| (\d+) \|", table, re.MULTILINE)
    returns = drawn[1].partition("Undiscounted evaluation return at the end")[2].partition("Minus Gaussian")[0]
    means = [list(map(int, re.findall(r"(\d+) \u00b1", line))) for line in returns.splitlines() if "\u00b1" in line]
    means = [row for row in means if len(row) == 3]
    assert len(rows) == 3 and len(means) == 4
    for (env, deviation, three, one_of_all), column in zip(rows, zip(*means, strict=True), strict=True):
        share = float(three) / (sum(column) / 4)
        assert env != "HalfCheetah-v4" or 0.4 < share < 0.6
        assert env != "Walker2d-v4" or share > 1
        assert float(three) == pytest.approx(3.07 * float(deviation), rel=0.01) and float(one_of_all) > max(column)


def read(name, **conditions):
    with open(ROOT / "results" / name, newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in conditions.items())]


def ends(script, env, step, k="4"):
    """Evaluations of each seed."""
    rows = read("small.csv", script=script, env=env, step=step)
    return [float(row["eval_return"]) for row in rows if row["sampling_steps"] in ("", k) or "flow_" not in script]


def test_sentences_of_the_results_page(drawn):
    """Those that say which runs lie above which."""
    page = " ".join((ROOT / "results" / "README.md").read_text().split())
    assert "each of naive's three runs with K = 10 ends below each of its runs with K = 4" in page
    ten, four = (ends("sac_flow_naive", "HalfCheetah-v4", "60000", k) for k in ("10", "4"))
    assert len(ten) == len(four) == 3 and max(ten) < min(four)
    assert "its means are the highest of each row" in page
    rows = re.findall(r"^\| HalfCheetah-v4 \| [\w -]+ \| 60000 \| (.*) \|$", drawn[1], re.MULTILINE)
    for row in rows:
        means = [float(cell.split(" ")[0]) for cell in row.split(" | ") if cell != "\u2013"]
        assert means[0] == max(means) and len(means) >= 4
    assert len(rows) == 3
    assert "each of its three runs ends below each of the default's" in page
    assert "though on Walker2d-v4 the Gaussian's training mean is the highest" in page
    last = {
        script: [runs[max(runs)] for runs in curve(script, "Walker2d-v4", "train_return").values()]
        for script in SCRIPTS.values()
    }
    assert max(last, key=lambda script: np.mean(last[script])) == "sac_gaussian" and {*map(len, last.values())} == {3}
    bounded, default = (ends(f"sac_flow_g{end}", "HalfCheetah-v4", "60000") for end in ("-bounded_candidate", ""))
    assert len(bounded) == len(default) == 3 and max(bounded) < min(default)
    assert "**DIME** has the highest mean on HalfCheetah-v4" in page
    assert "**QSM** and **FlowRL** have lower means than the four scripts on every task" in page
    for env in ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"):
        four = [ends(script, env, "100000") for script in SCRIPTS.values()]
        others = [ends(script, env, "100000") for script in ("sac", "ppo", "qsm", "flowrl")]
        for runs in others[2:]:
            assert len(runs) == 2 and sum(runs) / 2 < min(sum(values) / 3 for values in four), env
        if env == "HalfCheetah-v4":
            runs = ends("dime", env, "100000")
            assert min(runs) > max(map(max, four + others))
            later = {(row["script"], float(row["eval_return"])) for row in read("fresh_seeds.csv", step="100000")}
            between = sorted(script for script, value in later if min(runs) < value < max(runs))
            assert between == ["sac_flow_t", "sac_gaussian"] and max(value for _, value in later) < max(runs)
            assert "each of the Gaussian and of Flow-T ends between its two" in page
    assert "all three flows' *fall* towards A_0, on each task" in page
    table = drawn[1].partition("Gradient norm at A_k")[2].partition(".svg")[0]
    norms = re.findall(r"^\| \S+-v4 \| (?:Naive flow|Flow-[GT]) \| ([\d. |]+) \| \S+ \u00b1", table, re.MULTILINE)
    for row in norms:
        values = [float(cell) for cell in row.split(" | ")[:5]]
        assert values == sorted(values)
    assert len(norms) == 9


def test_every_policy_goes_to_one_goal():
    """Also the rows without noise, and with a high temperature."""
    rows = read("multigoal.csv")
    reached = [[float(row[name]) > 0 for name in ("east", "north", "west", "south")] for row in rows]
    assert "Every policy goes to one goal" in " ".join((ROOT / "results" / "README.md").read_text().split())
    assert len(rows) == 24 and all(sum(goals) == 1 for goals in reached)


def test_returns_in_the_readme():
    """Its table of returns is the results page's, and so are the runs' numbers in it."""
    page, readme = ((ROOT / name).read_text() for name in ("results/README.md", "README.md"))
    for name in SCRIPTS:
        pattern = rf"^\| {name[0].upper()}{name[1:]} \| \d+ \u00b1 .*$"
        (row,) = re.findall(pattern, readme, re.MULTILINE)
        (full,) = re.findall(pattern, page.partition("## Returns")[2].partition("\n## ")[0], re.MULTILINE)
        assert row == full.replace(" (3)", ""), name
    first, last = (sorted(ends("sac_flow_g", "HalfCheetah-v4", step)) for step in ("10000", "100000"))
    told = f"Three seeds had {first[0]:.0f} to {first[2]:.0f} there, and {last[0]:.0f} to {last[2]:.0f} at the end."
    assert len(first) == len(last) == 3 and told in " ".join(readme.split())


def test_what_training_again_costs():
    """The README's runs and hours, evaluations not counted."""
    hours, runs = 0, 0
    for script in SCRIPTS.values():
        for row in read("small.csv", script=script, total_timesteps="100000"):
            if row["sampling_steps"] in ("", "4") and row["step"] == "100000":
                mine = sorted(read("small.csv", run=row["run"]), key=lambda row: int(row["step"]))
                before = [0, *(int(other["step"]) for other in mine)]
                paces = [(float(other["steps_per_second"] or 0), int(other["step"])) for other in mine]
                spans = [(step - last) / pace for (pace, step), last in zip(paces, before, strict=False) if pace]
                hours, runs = hours + sum(spans) / 3600, runs + 1
    assert f"# train them again: {runs} runs, {hours:.0f} core hours\n" in (ROOT / "README.md").read_text()


def curve(script, env, tag="eval_return", name="small.csv"):
    """seed -> {step: value}, of four sampling steps or none."""
    runs = {}
    for row in read(name, script=script, env=env):
        if row[tag] and (name != "small.csv" or row["sampling_steps"] in ("", "4") or "flow_" not in script):
            runs.setdefault(row["seed"], {})[int(row["step"])] = float(row[tag])
    return dict(sorted(runs.items()))


def test_single_runs_in_the_decisions_log():
    """What it says of Hopper-v4, of one evaluation on Walker2d-v4, of the critic and of plain SAC."""
    log = " ".join((ROOT / "results" / "DECISIONS.md").read_text().split())
    hopper = {script: curve(script, "Hopper-v4") for script in (*SCRIPTS.values(), "sac_flow_g-candidate_1")}
    first = {}  # the step at which each run is above 2000 for the first time
    for script, runs in hopper.items():
        above = [[step for step, value in run.items() if value > 2000] for run in runs.values()]
        first[script] = sorted(min(steps, default=10**9) for steps in above)
    assert "Two of three seeds of the Gaussian and of Flow-G are above 2000 by 40 000 steps" in log
    assert all(first[script][1] <= 40000 < first[script][2] for script in ("sac_gaussian", "sac_flow_g"))
    assert "none of naive and Flow-T before 50 000" in log
    assert min(first["sac_flow_naive"] + first["sac_flow_t"]) == 50000
    assert "none of its three seeds is above 2000 before 90 000" in log
    assert first["sac_flow_g-candidate_1"][0] == 90000 and len(first["sac_flow_g-candidate_1"]) == 3
    naive = curve("naive_K1_zero", "Hopper-v4", "train_return", "last_step.csv")
    trained = {"naive, K = 1, A_0 = 0": naive} | {
        name: curve(script, "Hopper-v4", "train_return")
        for name, script in (SCRIPTS | {"Flow-G, one layer": "sac_flow_g-candidate_1"}).items()
    }
    trained = {name: [run[40000] for run in runs.values()] for name, runs in trained.items()}
    for name, values in trained.items():
        row = f"| {name.removesuffix(' flow').replace('Naive', 'naive')} | {', '.join(f'{v:.0f}' for v in values)} |"
        assert row in log, row
    one, other, _ = (trained.pop(name) for name in ("naive, K = 1, A_0 = 0", "Gaussian", "Flow-G"))
    assert max(one) < min(other), "one method in two programs, three seeds each"
    assert sorted(one + other)[1] > max(itertools.chain(*trained.values())), "but for the lowest"
    begun = {
        "Gaussian, from .01": [run[40000] for run in curve("gaussian_a.01", "Hopper-v4", name="alpha.csv").values()]
    }
    names = {"Gaussian, from .2": "sac_gaussian", "Flow-G, one layer": "sac_flow_g-candidate_1", "Flow-G": "sac_flow_g"}
    names |= {"naive": "sac_flow_naive", "Flow-T": "sac_flow_t"}
    begun |= {name: [run[40000] for run in hopper[script].values()] for name, script in names.items()}
    for name, values in begun.items():
        assert f"| {name} | {', '.join(f'{value:.0f}' for value in values)} |" in log, name
    values, training = (curve("sac_gaussian", "Walker2d-v4", tag) for tag in ("eval_return", "train_return"))
    seed = min(values, key=lambda seed: values[seed][100000])
    shown = f"ends at {values[seed][100000]:.0f} on Walker2d-v4, one evaluation after {values[seed][90000]:.0f}"
    assert f"{shown} and with a training return of {training[seed][100000]:.0f} at that step" in log

    def middle(script, step):
        runs = curve(script, "HalfCheetah-v4")
        return sum(run[step] for run in runs.values()) / len(runs)

    steps = range(10000, 60001, 10000)
    gain = {
        script: [middle(script, step) - middle(f"{script}-no_crossq", step) for step in steps]
        for script in ("sac_gaussian", "sac_flow_g")
    }
    assert "The difference is largest at 10 000 steps; the Gaussian's shrinks from there to the end" in log
    assert all(max(values) == values[0] for values in gain.values())
    assert min(gain["sac_gaussian"]) == gain["sac_gaussian"][-1]
    low, high = (edge(gain["sac_flow_g"][1:]) for edge in (min, max))
    assert f"Flow-G's is {low:.0f} to {high:.0f} from 20 000 steps on" in log
    lead = {}
    for step in range(10000, 100001, 10000):
        lead[step] = [middle(script, step) - middle("sac", step) for script in SCRIPTS.values()]
    assert "below the mean of all four scripts at every evaluation" in log and min(map(min, lead.values())) > 0
    early = [round(edge(lead[10000]), -2) for edge in (min, max)]
    late = [round(edge(lead[100000]), -1) for edge in (min, max)]
    assert "by {:.0f} to {:.0f} at 10 000 steps and by {:.0f} to {:.0f} at the end".format(*early, *late) in log


def test_run_by_run_in_the_readme_of_the_baselines():
    page = (ROOT / "baselines" / "README.md").read_text()
    names = {"SAC": "sac", "DIME": "dime", "FlowRL": "flowrl", "QSM": "qsm", "Gaussian": "sac_gaussian"}
    for name, script in names.items():
        cells = []
        for env in ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"):
            rows = sorted(read("small.csv", script=script, env=env, step="100000"), key=lambda row: row["seed"])
            cells.append(", ".join(f"{float(row['eval_return']):.0f}" for row in rows))
        assert f"\n| {name} | {' | '.join(cells)} |\n" in page, cells
    middle = {
        script: np.mean([run[60000] for run in curve(script, "HalfCheetah-v4").values()])
        for script in ("sac", "sac_gaussian")
    }
    assert f"{middle['sac']:.0f} against {middle['sac_gaussian']:.0f} in the mean" in page
    flowrl, sac = (curve(script, "Walker2d-v4") for script in ("flowrl", "sac"))
    lead = [
        np.mean([run[step] for run in flowrl.values()]) - np.mean([run[step] for run in sac.values()]) for step in STEPS
    ]
    (one, before), (other, last) = ((run[100_000], run[90_000]) for run in flowrl.values())
    told = f"but the last, where both its runs fall, to {one:.0f} from {before:.0f} and to {other:.0f} from {last:.0f}"
    assert min(lead[:-1]) > 0 > lead[-1] and told in page


def test_two_updates_per_step_in_the_decisions_log():
    stats = pytest.importorskip("scipy.stats")
    page = (ROOT / "results" / "DECISIONS.md").read_text()
    log = page.partition("\n## Two critic updates per step\n")[2].partition("\n## ")[0]
    runs = {
        "Gaussian, `--updates-per-step 2`": curve("sac_gaussian", "HalfCheetah-v4", name="two_updates.csv"),
        "Gaussian": curve("sac_gaussian", "HalfCheetah-v4")
        | curve("sac_gaussian", "HalfCheetah-v4", name="fresh_seeds.csv"),
        "DIME": curve("dime", "HalfCheetah-v4"),
    }
    steps = list(STEPS)[:6]
    assert [len(of) for of in runs.values()] == [3, 5, 2] and len(re.findall(r"\n\| .*, seed \d \|", log)) == 10
    for name, of in runs.items():
        for seed, run in of.items():
            assert f"\n| {name}, seed {seed} | {' | '.join(f'{run[step]:.0f}' for step in steps)} |\n" in log
    values = [np.array([[run[step] for step in steps] for run in of.values()]) for of in runs.values()]
    for name, one, other in (
        ("two updates minus one", 0, 1),
        ("DIME minus two updates", 2, 0),
        ("DIME minus one", 2, 1),
    ):
        cells = []
        for pick in (lambda table: table[:, -1], lambda table: table.mean(axis=1)):
            pair = pick(values[one]), pick(values[other])
            low, high = stats.ttest_ind(*pair, equal_var=False).confidence_interval()
            cells.append(f"{pair[0].mean() - pair[1].mean():+.0f} [{low:+.0f}, {high:+.0f}]")
            assert low < 0 < high
        assert f"\n| {name} | {' | '.join(cells)} |\n" in log, cells
    assert (values[0][0] > values[1][:3]).all(), "what the first seeds alone would have said"
    assert all(row["updates_per_step"] == "2" for row in read("two_updates.csv"))
    flags = read("two_updates.csv")[0]
    corrects = int(flags["learning_starts"]) + int(flags["renorm_warmup"]) // 2
    assert f"BatchRenorm corrects from {corrects // 1000} 000 steps on, after 100 000 updates" in log


def test_start_at_full_size_in_the_decisions_log():
    log = " ".join((ROOT / "results" / "DECISIONS.md").read_text().split())
    rows = read("full_start.csv")

    def pair(env, script):
        mine = [row for row in rows if row["env"] == env and row["script"] == script]
        return [float(row["eval_return"]) for row in sorted(mine, key=lambda row: int(row["step"]))]

    for name, script in SCRIPTS.items():
        walk, stand = pair("Humanoid-v4", script), pair("HumanoidStandup-v4", script)
        cells = ", ".join(f"{value:.0f}" for value in walk), ", ".join(f"{value / 1000:.0f} 000" for value in stand)
        assert f"| {name.removesuffix(' flow').replace('N', 'n')} | {' | '.join(cells)} |" in log, cells


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


def test_sigma_and_ten_steps_in_the_decisions_log():
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    names = {"naive": "sac_flow_naive", "Flow-T": "sac_flow_t", "Flow-G": "sac_flow_g"}
    for name, script in names.items():
        ends = read("small.csv", script=script, env="HalfCheetah-v4", step="100000", sampling_steps="4")
        sigma = [np.mean([float(row[f"policy/std_step_{k}"] or row["policy/std"]) for row in ends]) for k in range(4)]
        cells = " | ".join(f"{value:.2g}".removeprefix("0") for value in sigma)
        assert len(ends) == 3 and f"\n| {name} | {cells} |\n" in log, cells
    naive = read("small.csv", script="sac_flow_naive", env="HalfCheetah-v4", step="60000", sampling_steps="10")
    naive.sort(key=lambda row: row["seed"])
    cells = " | ".join(f"{float(row['policy/std']):.1f}" for row in naive)
    assert f"\n| mean sigma | {cells} |\n" in log, cells
    cells = " | ".join(f"{-float(row['policy/log_prob']):.0f}" for row in naive)
    assert f"\n| path entropy minus its target, nats | {cells} |\n" in log, cells
    for k in (4, 10):
        cells = []
        for script in ("sac_flow_naive", "sac_flow_g", "sac_flow_t"):
            rows = read("humanoid.csv", script=script, step="60000")
            returns = [float(row["train_return"]) for row in rows if float(row["sampling_steps"]) == k]
            cells.append(f"{np.mean(returns):.0f}")
        assert f"\n| training return at 60 000 steps, K = {k} | {' | '.join(cells)} |\n" in log, cells


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

    def cell(env, script, tag, last):
        values = {}
        for row in sorted(rows, key=lambda row: int(row["step"])):
            if (row["env"], row["script"]) == (env, script):
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
            cells = [cell(env, name, tag, last) for name in names]
            assert f"\n| {env}, {kind} | {' | '.join(cells)} |\n" in log, (env, kind, cells)
    # Later seeds, on which nothing was chosen: one is no better than those of one layer.
    shallow = [cell("HalfCheetah-v4", names[0], *kind).split(", ") for kind in kinds.values()]
    rows = read("fresh_seeds.csv")
    later = "sac_flow_g", "sac_flow_t", "sac_gaussian"
    assert {(row["script"], row["seed"]) for row in rows} == set(itertools.product(later, "45"))
    for (kind, (tag, last)), older in zip(kinds.items(), shallow, strict=True):
        cells = [cell("HalfCheetah-v4", name, tag, last) for name in later]
        assert f"\n| {kind} | {' | '.join(cells)} |\n" in log, (kind, cells)
        assert int(cells[0].split(", ")[1]) < (min if last else max)(map(int, older)), kind
    names = {"sac_flow_g.py": "Flow-G", "sac_flow_t.py": "Flow-T", "sac_gaussian.py": "Gaussian"}
    policies = read("policies.csv", env="HalfCheetah-v4")
    assert {row["script"] for row in policies} == set(names)
    for row in policies:
        assert f"\n| {names[row['script']]} | {float(row['mean']):.0f} \u00b1 {float(row['std']):.0f} |\n" in log


def test_five_seeds_on_half_cheetah(monkeypatch):
    pd = pytest.importorskip("pandas", reason="figures need scripts/requirements.txt")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import plot

    tables = [pd.read_csv(ROOT / "results" / name) for name in ("small.csv", "fresh_seeds.csv")]
    ends = pd.concat(tables).query("env == 'HalfCheetah-v4' and step == 100000 and total_timesteps == 100000")
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    names = {"Gaussian": "sac_gaussian", "Flow-G": "sac_flow_g", "Flow-T": "sac_flow_t"}
    runs = {name: ends[ends.script == script].eval_return.dropna().to_numpy() for name, script in names.items()}
    for name, values in runs.items():
        assert len(values) == 5
        difference = plot.combination([values, runs["Gaussian"]], [1, -1])
        shown = "" if name == "Gaussian" else difference.text("+.0f")
        assert f"\n| {name} | {values.mean():.0f} | {shown} |\n" in log
        assert name == "Gaussian" or difference.p > 0.05


def test_target_networks_with_one_layer_in_the_decisions_log(drawn, monkeypatch):
    """What one_layer.csv shows beside the runs of small.csv that it is to be compared with."""
    pd = pytest.importorskip("pandas", reason="figures need scripts/requirements.txt")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import plot

    without, changed = (pd.read_csv(ROOT / "results" / name) for name in ("small.csv", "one_layer.csv"))
    without = without.query("script == 'sac_flow_g-candidate_1' and env == 'HalfCheetah-v4' and sampling_steps == 4")
    tables = [plot.by_seed(rows, "eval_return").dropna() for rows in (changed, without)]
    assert [table.shape[1] for table in tables] == [3, 3]
    end, training, step = plot.pair(tables, [1, -1])
    here, before = (table.loc[step].mean() for table in tables)
    log = " ".join((ROOT / "results" / "DECISIONS.md").read_text().split())
    differences = f"{end.text('+.0f')}, over training {training.text('+.0f')}"
    shown = f"{here:.0f} with target networks against {before:.0f}, {differences}"
    assert step == 60000 and f"Flow-G with one layer has {shown}" in log
    assert "which is not significant after Holm's correction over 90" in log
    assert min(end.p, training.p) * 90 > 0.05 and "p after Holm's correction over these 88" in drawn[1]


@pytest.mark.parametrize("page", ["results/README.md", "results/DECISIONS.md"])
def test_differences_in_the_pages_are_printed(drawn, page):
    text = (ROOT / page).read_text()
    if page.endswith("DECISIONS.md"):  # these have tests of their own
        start = text.index("in [one_layer.csv](one_layer.csv): at")
        text = text[:start] + text[text.index("## Compilation") :]
        start = text.index("| two updates minus one |")
        text = text[:start] + text[text.index("## Against published numbers") :]
        start = text.index("| HalfCheetah-v4, five seeds |")
        text = text[:start] + text[text.index("Seed 4's policies") :]
    shown = re.findall(r"[+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]", text)
    assert len(shown) >= 2, shown
    assert not [difference for difference in shown if difference not in drawn[1]]


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

    for title, script, env in (
        ("Flow-T, drift (14): `--drift-correction`", "sac_flow_t-drift", "HalfCheetah-v4"),
        ("Flow-T, `--target-entropy -6`", "sac_flow_t-entropy_-d", "HalfCheetah-v4"),
        (
            "Flow-T, density without -log(sigma sqrt(dt)): fork `sac_flow_t_no_log_std`",
            "sac_flow_t-no_log_std",
            "HalfCheetah-v4",
        ),
        ("Flow-T, post-norm: fork `sac_flow_t_post_norm`", "sac_flow_t-post_norm", "HalfCheetah-v4"),
        ("Flow-G, `--bounded-candidate`", "sac_flow_g-bounded_candidate", "HalfCheetah-v4"),
        ("Flow-T, `--no-normalize-obs`", "sac_flow_t-no_normalize_obs", "HalfCheetah-v4"),
        ("Gaussian, `--no-normalize-obs`", "sac_gaussian-no_normalize_obs", "HalfCheetah-v4"),
        ("Gaussian, `--no-normalize-obs`", "sac_gaussian-no_normalize_obs", "Hopper-v4"),
        (
            "Gaussian, correction from the first call: fork `sac_gaussian_renorm`",
            "sac_gaussian-renorm",
            "HalfCheetah-v4",
        ),
        ("Gaussian, correction from the first call: fork `sac_gaussian_renorm`", "sac_gaussian-renorm", "Hopper-v4"),
    ):
        cells = [", ".join(values(name, env, "eval_return", "60000")) for name in (script, script.partition("-")[0])]
        assert f"| {title} | {env} | {' | '.join(cells)} |" in log, cells
    for step, title in (("10000", "evaluation at 10 000 steps"), ("60000", "evaluation at 60 000 steps")):
        cells = [
            ", ".join(values(name, "HalfCheetah-v4", "eval_return", step))
            for name in ("sac_flow_t", "sac_flow_t-alpha_0.2")
        ]
        assert f"| {title} | {' | '.join(cells)} |" in log, cells
    cells = [", ".join(values("sac_flow_t", "HalfCheetah-v4", "eval_return", step)) for step in ("60000", "100000")]
    assert f"| 5 000 random steps | {' | '.join(cells)} |" in log
    late = ", ".join(values("sac_flow_t-starts_50k", "HalfCheetah-v4", "eval_return", "100000"))
    assert f"| 50 000: `--learning-starts 50000` | – | {late} |" in log
    for title, script in (
        ("Gaussian, `--target-entropy -8.5`", "sac_gaussian-entropy_-8.5"),
        ("Gaussian", "sac_gaussian"),
    ):
        assert f"| {title} | {', '.join(values(script, 'HalfCheetah-v4', 'eval_return', '60000'))} |" in log
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
    lift = {(row["script"], row["step"], row["seed"]): row for row in rows if row["env"] == "lift"}
    names, ends = SCRIPTS | {"Flow-G, on the data alone": "sac_flow_g-no_experience", "QC-FQL": "qc_fql"}, {}
    for name, script in list(names.items())[1:]:  # without the Gaussian
        seeds = sorted({seed for run, _, seed in lift if run == f"o2o_{script}"})
        phases = [[lift[f"o2o_{script}", step, seed] for seed in seeds] for step in ("5000", "15000")]
        rates = np.array([[float(row["eval/success"]) for row in phase] for phase in phases])
        lengths = np.array([[float(row["eval/episodic_length"]) for row in phase] for phase in phases])
        steps = (lengths - 300 * (1 - rates)) / rates
        cells = [" ".join(f"{rate:.2f}".removeprefix("0") for rate in phase) for phase in rates]
        cells += [" ".join(f"{number:.0f}" for number in phase) for phase in steps]
        row = "| {} | {} → {} | {} → {} |".format(name, *cells)
        assert f"\n{row}\n" in readme, row
        assert script not in SCRIPTS.values() or (steps[1] < steps[0]).all()
        ends[name] = steps[1]
    flows = np.concatenate([ends[name] for name in SCRIPTS if name in ends])
    words = f"Every flow becomes faster in every seed, and ends at {flows.min():.0f} to {flows.max():.0f} steps, "
    words += f"QC-FQL at {ends['QC-FQL'].min():.0f} to {ends['QC-FQL'].max():.0f}."
    assert words in " ".join(readme.split())
    gain = ends["Flow-G, on the data alone"] - ends["Flow-G"]
    stats = pytest.importorskip("scipy.stats")
    low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
    assert gain.min() > 0 and low < 0
    assert f"faster in each seed, by {gain.mean():.1f} [{low:.1f}, {high:+.1f}] steps" in " ".join(readme.split())
    square, ends = [row for row in rows if row["env"] == "square"], {}
    for name, script in list((SCRIPTS | {"QC-FQL": "qc_fql"}).items())[1:]:  # without the Gaussian
        cells = []
        for run, step in ((script, "5000"), (script, "15000"), (f"{script}-no_experience", "15000")):
            mine = [row for row in square if (row["script"], row["step"]) == (f"o2o_{run}", step)]
            rates = [float(row["eval/success"]) for row in sorted(mine, key=lambda row: row["seed"])]
            cells.append(" ".join(f"{rate:.2f}".removeprefix("0") for rate in rates))
            ends[run] = np.array(rates)  # of the last step, which comes last
        assert f"\n| {name} | {' | '.join(cells)} |\n" in readme.partition("### Square")[2]
    loss = ends["qc_fql-no_experience"] - ends["qc_fql"]
    low, high = stats.t.interval(0.95, len(loss) - 1, loss.mean(), stats.sem(loss))
    numbers = f"{loss.mean():.2f} [{low:.2f}, {high:.2f}]".replace("0.", ".")
    assert loss.min() > 0 and f"lower with it in each seed, by {numbers}." in readme
    assert ends["sac_flow_g-no_experience"][2] == 0
    (before,) = (
        row["eval/success"]
        for row in square
        if (row["script"], row["seed"], row["step"]) == ("o2o_sac_flow_g-no_experience", "3", "12500")
    )
    assert f"is at 0 in one seed, where the evaluation before has {before.removeprefix('0')}:" in readme
    episodes = sum(int(row["train_episodes"]) for row in square) / len({row["run"] for row in square})
    assert f"some {episodes:.0f} episodes" in readme
    reinflow = [f"{float(row['eval/success']):.2f}"[1:] for row in rows if row["script"] == "o2o_reinflow"]
    assert f"{reinflow[0]} before, {reinflow[-1]} after ten times the others' steps" in " ".join(readme.split())


def test_minutes_of_the_offline_runs():
    """Without their evaluations, as the README of offline to online has them."""
    minutes, longest = [], []
    for run in {row["run"] for row in read("offline_to_online_small.csv")}:
        rows = sorted(read("offline_to_online_small.csv", run=run), key=lambda row: int(row["step"]))
        steps, paces = ([float(row[name]) for row in rows] for name in ("step", "steps_per_second"))
        taken = sum(np.diff([0, *steps]) / paces) / 60
        (longest if rows[0]["script"] == "o2o_reinflow" else minutes).append(taken)
    told = f"A run takes a core {min(minutes):.0f} to {max(minutes):.0f} minutes without its evaluations, ReinFlow's "
    assert len(longest) == 1 and f"{told}{longest[0]:.0f} " in " ".join(
        (ROOT / "offline_to_online" / "README.md").read_text().split()
    )


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
    least = p["Hopper-v4", "sac_flow_g"]
    assert "holds after Holm's correction over these four, and not over all of this page" in log
    assert least == min(p.values()) and least * len(p) < 0.05 < least * 88


def test_humanoid_in_the_decisions_log():
    """Training returns with and without BatchRenorm's correction, SBX's too; weights and their averages; policies."""
    pd, stats = pytest.importorskip("pandas"), pytest.importorskip("scipy.stats")
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    files = (f"{name}.csv" for name in ("humanoid", "actor_average", "sbx_renorm", "renorm_parts"))
    runs, averages, sbx, parts = (pd.read_csv(ROOT / "results" / name, low_memory=False) for name in files)
    runs = runs[runs["sampling_steps"] != 10]  # those have a test of their own, below
    ends = runs[(runs["step"] == 250_000) & (runs["renorm_warmup"] > 10**6)].groupby("script")["eval_return"]
    assert ends.min()[["sac_flow_g", "sac_flow_t", "sac_gaussian"]].min() > 4000, "all walk"
    stretches = [(60_000, 100_000), (110_000, 150_000), (160_000, 200_000), (210_000, 250_000)]
    for low, high in stretches:
        middle = runs[runs["step"].between(low, high)].groupby("script")["train_return"].mean()
        assert middle["sac_flow_g"] < middle["sac_gaussian"] < middle["sac_flow_t"]
    for name, script in (
        ("Gaussian", "sac_gaussian"),
        ("Gaussian, target entropy \u221232.6", "sac_gaussian-entropy_-32.6"),
        ("Flow-G", "sac_flow_g"),
        ("Flow-T", "sac_flow_t"),
    ):
        mine, ends, means = runs[runs["script"] == script], [], []
        for step in range(50_000, 250_001, 50_000):
            values = mine[mine["step"] == step]["eval_return"]
            deviation = f" \u00b1 {values.std():.0f}" if len(values) > 1 else ""
            ends.append(f"{values.mean():.0f}{deviation} ({len(values)})" if len(values) else "\u2013")
        for low, high in ((60_000, 100_000), (110_000, 150_000), (160_000, 200_000), (210_000, 250_000)):
            seeds = [rows.set_index("step")["train_return"] for _, rows in mine.groupby("seed")]
            each = [f"{rows.loc[low:high].mean():.0f}" if rows.index.max() >= high else "\u2013" for rows in seeds]
            means.append(", ".join(each))
        for cells in (ends, means):
            assert f"| {name} | {' | '.join(cells)} |" in log, cells
    nine = runs[runs["finished"] == 1]
    assert nine.query("script in ('sac_flow_g', 'sac_flow_t', 'sac_gaussian')")["run"].nunique() == 9
    for title, column, first in (
        ("evaluation at 250k", "eval_return", 250_000),
        ("all evaluations", "eval_return", 0),
        ("all training returns", "train_return", 0),
    ):
        means = nine[nine["step"] >= first].groupby(["script", "seed"])[column].mean()
        cells = []
        for script in ("sac_flow_g", "sac_flow_t"):
            interval = stats.ttest_ind(means[script], means["sac_gaussian"], equal_var=False).confidence_interval()
            assert interval.low < 0 < interval.high
            difference = means[script].mean() - means["sac_gaussian"].mean()
            cells.append(f"{difference:+.0f} [{interval.low:+.0f}, {interval.high:+.0f}]")
        assert f"\n| {title} | {' | '.join(cells)} |\n" in log, cells
    flow = runs[runs["script"] == "sac_flow_g"].pivot(index="seed", columns="step", values="eval_return")
    for seed, row in flow[[110_000, 120_000, 140_000, 150_000, 180_000]].iterrows():
        assert f"\n| seed {seed} | {' | '.join(f'{value:.0f}' for value in row)} |\n" in log
    walking = runs[runs["script"].isin(("sac_flow_t", "sac_flow_g", "sac_gaussian")) & (runs["finished"] == 1)]
    walking = walking.groupby("run")["steps_per_second"]
    hours = 250_000 / walking.apply(stats.hmean) / 3600
    assert f"{hours.min():.1f} to {hours.max():.1f} hours on a CPU core" in (ROOT / "README.md").read_text()
    names = {"Flow-T": "sac_flow_t", "Gaussian": "sac_gaussian"}
    for name, script in names.items():
        for shown, own in ((name, script), (f"{name}, corrected", f"{script}-corrected")):
            steps = runs[(runs["script"] == own) & (runs["seed"] == 1)].set_index("step")["train_return"]
            spans = (60_000, 100_000), (120_000, 150_000), (160_000, 250_000)
            cells = [f"{steps.loc[low:high].mean():.0f}" if steps.index.max() >= high else "–" for low, high in spans]
            assert f"| {shown} | {' | '.join(cells)} |" in log, cells
    one, other = (
        runs[runs["script"] == name].query("step <= 100000 and seed == 1")
        for name in ("sac_gaussian", "sac_gaussian-corrected")
    )
    assert one["eval_return"].tolist() == other["eval_return"].tolist(), "the same run up to there"
    pairs = [rows.query("step <= 105000").drop(columns="renorm_warmup") for _, rows in sbx.groupby("renorm_warmup")]
    assert pairs[0].reset_index(drop=True).equals(pairs[1].reset_index(drop=True)), "SBX's two are one run as well"
    for name, warmup in (("SBX CrossQ", 10**5), ("SBX CrossQ, never correcting", 10**9)):
        episodes = sbx[(sbx["renorm_warmup"] == warmup) & (sbx["kind"] == "train")].set_index("step")["return"]
        cells = [f"{episodes.loc[low + 1 : low + 10_000].mean():.0f}" for low in range(85_000, 125_000, 10_000)]
        assert f"| {name} | {' | '.join(cells)} |" in log, cells
    for name, rows in parts.query("step <= 205000").groupby("corrected")["episodic_return"]:
        assert f"| {name} | {rows.mean():.0f} | {len(rows)} |" in log
    names |= {"Flow-T, a third of the actor's step size": "sac_flow_t"}
    for name in ("Flow-T", "Flow-T, a third of the actor's step size", "Gaussian"):
        rate, cells = (1e-4 if "third" in name else 3e-4), []
        for decay in (0, 0.99, 0.998):
            rows = averages[(averages["script"] == names[name]) & (averages["policy_lr"] == rate)]
            returns = rows[rows["actor_ema"] == decay]["eval_return"]
            assert len(returns) == 15
            cells.append(f"{returns.mean():.0f} [{returns.min():.0f}, {returns.max():.0f}]")
        assert f"| {name} | {' | '.join(cells)} |" in log, cells
    names["Flow-G"] = "sac_flow_g"
    policies = pd.read_csv(ROOT / "results" / "policies.csv").query("env == 'Humanoid-v4'")
    shown = (
        "Flow-T, corrected",
        "Gaussian, corrected",
        "Flow-T",
        "Gaussian",
        "Gaussian, seed 2",
        "Flow-T, seed 3",
        "Flow-G",
        "Flow-G, seed 3",
    )
    for name, (_, row) in zip(shown, policies.iterrows(), strict=True):
        assert (row["script"], row["episodes"]) == (f"{names[name.partition(',')[0]]}.py", 20)
        step = f"{row['step']:,}".replace(",", " ")
        assert f"| {name} | {step} | {row['mean']:.0f} ± {row['std']:.0f} |" in log


@pytest.mark.parametrize(
    ("env_id", "store", "flows", "steps", "still"),
    [
        ("Ant-v4", "ant", {"Flow-G": 3, "Flow-T": 3}, range(20_000, 100_001, 20_000), "1000"),
        (
            "HumanoidStandup-v4",
            "standup",
            {"Naive flow": 3, "Flow-G": 3, "Flow-T": 3},
            range(10_000, 50_001, 10_000),
            "29 800",
        ),
    ],
)
def test_a_task_in_the_decisions_log(env_id, store, flows, steps, still, drawn):
    """Evaluations, training returns between them, gradient norms, policies, and what no action returns."""
    pd = pytest.importorskip("pandas")
    log = (ROOT / "results" / "DECISIONS.md").read_text().partition(f"\n## {env_id}\n")[2].partition("\n## ")[0]
    runs = pd.read_csv(ROOT / "results" / f"{store}.csv", low_memory=False)
    policies = pd.read_csv(ROOT / "results" / "policies.csv").query("env == @env_id")
    assert set(policies["script"]) == {f"{script}.py" for script in runs["script"]}
    counts, training, scripts = {"Gaussian": 3, **flows}, {}, {**SCRIPTS, "Naive flow": "sac_flow_naive"}
    ends = runs[runs["step"] == steps[-1]].groupby("script").size()
    assert ends.to_dict() == {scripts[name]: count for name, count in counts.items()}
    for name, seed in [(name, seed) for name, count in counts.items() for seed in range(1, count + 1)]:
        rows = runs[(runs["script"] == scripts[name]) & (runs["seed"] == seed)].set_index("step")
        since = steps.step - 10_000  # an evaluation every 10 000 steps
        training[name, seed] = [rows.loc[step - since : step, "train_return"].mean() for step in steps]
        for values in (rows.loc[list(steps), "eval_return"], training[name, seed]):
            cells = " | ".join(f"{value:.0f}" for value in values)
            assert f"\n| {name}, seed {seed} | {cells} |\n" in log, cells
    for name, count in counts.items():
        row = policies[policies["script"] == f"{scripts[name]}.py"].iloc[0]
        best = max(range(1, count + 1), key=lambda seed: training[name, seed][-1])
        assert row["seed"] == best and row["episodes"] == 20
        assert f"{name}'s {best}".lower() in log.lower()
        step = f"{steps[-1]:,}".replace(",", " ")
        assert f"\n| {name} | {step} | {row['mean']:.0f} ± {row['std']:.0f} |\n" in log
    printed = drawn[1].partition(f"results/{store}.csv")[2].partition(f"gradients --csv results/{store}.csv")[0]
    for flow in flows:
        (norms,) = re.findall(rf"^\| {env_id} \| {flow} \|.*\|$", drawn[1], re.MULTILINE)
        first, last = (float(norms.split(" | ")[k]) for k in (2, 6))
        assert f"\n{norms}\n" in log and re.search(rf"(?i){flow}'s (gradient norms fall )?by {last / first:.0f}\b", log)
        found = re.findall(rf"^\| {flow} \| {ESTIMATE} \| {ESTIMATE} \|$", printed, re.MULTILINE)
        evaluation, learning = (f"{value} [{low}, {high}]" for value, low, high, *_ in found)
        assert f"\n| {flow} | {evaluation} | {learning} |\n" in log
        assert all(low[0] == "-" and high[0] == "+" for _, low, high, *_ in found) and "None can be told from 0" in log
    env = gym.make(env_id)
    env.reset(seed=0)
    idle = sum(env.step(np.zeros(env.action_space.shape, np.float32))[1] for _ in range(1000))
    assert abs(idle / float(still.replace(" ", "")) - 1) < 0.01 and f"of zero actions returns about {still}" in log


def test_the_robots_that_stand_up_sit():
    """A step pays the torso's height over the timestep of 3 ms, and 1; control and impact cost little of it."""
    pd = pytest.importorskip("pandas")
    log = (ROOT / "results" / "DECISIONS.md").read_text().partition("\n## HumanoidStandup-v4\n")[2]
    runs = pd.read_csv(ROOT / "results" / "standup.csv", low_memory=False)
    highest = runs["eval_return"].max() / 1000
    height = round(100 * (highest - 1) * 0.003)
    assert f"the highest evaluation, {highest:.0f} a step, is a torso {height} cm high" in " ".join(log.split())
    best = runs.loc[runs["eval_return"].idxmax()]
    assert (best["script"], best["seed"]) == ("sac_flow_naive", 2)
    others = runs[~runs["script"].isin(["sac_flow_g", "sac_flow_naive"]) | (runs["seed"] != 2)]
    assert (others["eval_return"].max() / 1000 - 1) * 0.003 < 0.5
    assert "No evaluation of the other ten is above 50 cm" in " ".join(log.split())
    gaussian = runs.query("script == 'sac_gaussian' and seed == 2").set_index("step")["eval_return_std"]
    assert gaussian[40_000].round(-3) == 30_000 and "one of 30 000 at 40 000 steps" in " ".join(log.split())
    ends = runs.query("step == 50_000").set_index(["script", "seed"])["eval_return_std"].round(-3)
    gaussian, flow_g = ends.loc["sac_gaussian"], ends.loc["sac_flow_g"]
    assert gaussian.max() < 500 and (flow_g.min(), flow_g.max()) == (8_000, 32_000)
    assert "a deviation of 8 000 to 32 000 between their episodes" in " ".join(log.split())
    assert ends["sac_flow_t", 2] == 27_000 and "a deviation of 27 000 between its" in log


def test_what_six_tasks_leave_open(drawn):
    """The upper ends of the intervals over training."""
    printed = drawn[1].partition("tasks_aggregate.svg")[0].rpartition("plot.py aggregate")[2]
    rows = re.findall(rf"^\| Flow-[GT] \| \S+ \| {ESTIMATE} \| \S+ \| {ESTIMATE} \|$", printed, re.MULTILINE)
    assert len(rows) == 4 and printed.count("over these 6: 0 differ from 0") == 2
    evaluation, training = (max((row[5].lstrip("+") for row in two), key=float) for two in (rows[:2], rows[2:]))
    told = f"leave room for a gain of at most {evaluation} in evaluations and {training} in training episodes"
    assert told in " ".join((ROOT / "results" / "README.md").read_text().split())


def test_seeds_of_a_script_differ_by_more_than_scripts_on_ant():
    pd = pytest.importorskip("pandas")
    log = (ROOT / "results" / "DECISIONS.md").read_text().partition("\n## Ant-v4\n")[2].partition("\n## ")[0]
    runs = pd.read_csv(ROOT / "results" / "ant.csv", low_memory=False).query("step > 80_000")
    ends = runs.groupby(["script", "seed"])["train_return"].mean().groupby("script")
    assert ends.apply(np.ptp).min() > np.ptp(ends.mean()) and ends.min().min() > 1500
    assert "All nine learn to walk, and seeds of a script differ by more than the scripts." in log


def test_contacts_in_the_decisions_log():
    pd, stats = pytest.importorskip("pandas"), pytest.importorskip("scipy.stats")
    table, log = pd.read_csv(ROOT / "results" / "contact_margin.csv"), (ROOT / "results" / "DECISIONS.md").read_text()
    difference = table["before"] - table["today"]
    told = 2 * stats.t.sf((difference / table["standard_error"]).abs(), table["episodes"] - 1) * len(table) < 0.05
    shown = table["policy"].isin(("Humanoid-v4__sac_flow_t", "Hopper-v4__sac_flow_t__narrow_2"))
    for name, (_, row) in zip(
        ("Humanoid-v4, Flow-T, corrected", "Hopper-v4, Flow-T, seed 2"), table[shown].iterrows(), strict=True
    ):
        cells = f"{row.today:.0f} | {row.before:.0f} | {row.before - row.today:+.0f} ± {row.standard_error:.0f}"
        assert f"| {name} | {cells} |" in log, cells
    assert len(table) == 11 and told.sum() == 1 and told[shown].any()
    assert (difference[~shown].abs() < 90).all() and (difference / table["today"])[~shown].abs().max() < 0.15


def test_a_sweep_by_slurm_has_the_rows_of_one_that_was_interrupted():
    pd = pytest.importorskip("pandas")
    tables = [pd.read_csv(ROOT / "results" / f"sweep_{kind}.csv") for kind in ("local", "slurm")]
    own = ["run", "steps_per_second", "bytes"]
    keys = ["script", "env", "seed", "step"]
    local, slurm = (table.drop(columns=own).sort_values(keys, ignore_index=True) for table in tables)
    assert len(local) == 80 and local.equals(slurm)


def test_speed_in_the_pages(drawn):
    """Every row of the log is one that benchmark.py --table-only prints, and the README has parts of some."""
    printed = drawn[1].splitlines()
    section = (ROOT / "results" / "DECISIONS.md").read_text().partition("\n## Speed\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?:HalfCheetah|Humanoid)-v4 .*\|$", section, re.MULTILINE)
    assert len(rows) > 15 and not set(rows) - set(printed)
    cells = [row.split("|") for row in rows if row.startswith("| HalfCheetah-v4 ")]
    small = {row[2].strip(): row for row in cells if row[3].strip() in ("--size small", "")}
    readme = (ROOT / "README.md").read_text()
    for name in SCRIPTS.values():
        assert re.search(rf"^\| `{name}.py` \| .* \| {small[name][7].strip()} \|$", readme, re.MULTILINE), name
    assert f"SBX's CrossQ, with half as wide an actor, takes {small['SBX CrossQ'][7].strip()} ms" in readme


def test_when_compiling_pays_at_small_size():
    """The pages' and the scripts' sentences, by the rows of the four scripts with and without --compile."""
    pd = pytest.importorskip("pandas")
    rows = pd.read_csv(ROOT / "results" / "benchmark.csv")[:15].set_index(["flags", "script"])
    eager, compiled = rows.loc["--size small"], rows.loc["--size small --compile"]
    assert len(eager) == len(compiled) == 4
    cost, saved = compiled.cold_start_s - eager.cold_start_s, eager.ms_per_step - compiled.ms_per_step
    warm = 1000 * (compiled.warm_start_s - eager.warm_start_s) / saved
    first, last = (1000 * cost / saved).min(), (1000 * cost / saved).max()
    words = f"{first // 1000:.0f} 000 to {last // 1000 + 1:.0f} 000"
    for page in ("README.md", "results/DECISIONS.md", *(f"{script}.py" for script in eager.index)):
        assert f"after {words} " in (ROOT / page).read_text(), page
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    assert f"torch.compile costs {cost.min():.0f} to {cost.max():.0f} seconds at the first start" in log
    assert "saves a tenth to a sixth of the time" in log and "two to three thousand once its cache is warm" in log
    before = rows.loc["--critic-hidden-dim 256 --batch-size 256"].ratio
    assert ((compiled.ratio / before - 1).abs() < 0.05).all() and "compiled ones within 5 % of `d752a74`" in log
    share = saved / eager.ms_per_step
    assert share.min() > 0.095 and share.max() < 0.175 and warm.min() > 1500 and warm.max() < 3500


def test_speed_at_equal_widths():
    """In the decisions log: steps per second over those of SBX's CrossQ, by the ratios to one first row."""
    pd = pytest.importorskip("pandas")
    rows = pd.read_csv(ROOT / "results" / "equal_width.csv", keep_default_na=False)
    ratio = {(row["script"], "--compile" in row["flags"]): row["ratio"] for _, row in rows.iterrows()}
    compiled, eager = (ratio["sac_gaussian", on] / ratio["SBX CrossQ", False] for on in (True, False))
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    assert (
        f"takes {compiled:.2f} times as many steps per second as SBX's CrossQ, the eager one {eager:.2f} times" in log
    )
    assert rows["flags"][:2].str.contains("--hidden-dim 256").all()


def test_no_eager_step_became_slower_by_the_rewriting():
    """As the decisions log says: by the ratios to one first row, at most 2 %."""
    pd = pytest.importorskip("pandas")
    rows = pd.read_csv(ROOT / "results" / "rewritten_speed.csv").set_index(["script", "commit"]).ratio
    assert len(rows) == 8
    for script in rows.index.unique("script"):
        before, after = rows[script]["51aff9450521"], rows[script].drop("51aff9450521").item()
        assert after / before > 0.98


def test_speed_against_the_authors_code():
    """The decisions log's table: the median over the counted turns of the authors' time by ours."""
    pd = pytest.importorskip("pandas")
    turns = pd.read_csv(ROOT / "results" / "authors_speed.csv").query("turn > 0")
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    for policy, name in (("sac_flow_g", "Flow-G"), ("sac_flow_t", "Flow-T")):
        times = {key: part.set_index("turn").ms_per_step for key, part in turns[turns.policy == policy].groupby("with")}
        theirs = times["jax 0.6.2, flax 0.10.7"], times["jax 0.10.2, flax 0.12.8"]
        for label, key in ((name, "torch 2.13.0+cpu"), (f"{name}, `--compile`", "torch 2.13.0+cpu, --compile")):
            old, new = ((time / times[key]).median() for time in theirs)
            assert f"\n| {label} | {old:.2f} | {new:.2f} |\n" in log


def test_ten_steps_on_humanoid(drawn):
    """In the decisions log: the printed table of gradient norms, by how much they fall, returns and naive's sigma."""
    pd = pytest.importorskip("pandas")
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    table = drawn[1][drawn[1].index("| Humanoid-v4 | Naive flow, K = 4") :].split("\n\n")[0].splitlines()[:6]
    assert all(f"\n{row}\n" in log for row in table)
    runs = pd.read_csv(ROOT / "results" / "humanoid.csv", low_memory=False).query("step <= 60000 and finished == 1")
    falls, falls_of_four, returns = [], [], []
    for script in ("sac_flow_naive", "sac_flow_g", "sac_flow_t"):
        ten = runs[(runs["script"] == script) & (runs["sampling_steps"] == 10)]
        norms = ten[ten["step"] > 30_000][[f"gradients/step_{k}" for k in range(11)]].mean()
        assert norms.is_monotonic_increasing
        falls.append(f"{norms.iloc[-1] / norms.iloc[0]:.0f}")
        four = runs[(runs["script"] == script) & (runs["sampling_steps"] == 4) & (runs["step"] > 30_000)]
        four = four.groupby("seed")[["gradients/step_0", "gradients/step_4"]].mean().mean()
        falls_of_four.append(f"{four.iloc[1] / four.iloc[0]:.0f}")
        returns.append(ten["train_return"].iloc[-1])
    usual = runs[(runs["sampling_steps"] == 4) & (runs["step"] == 60_000)].groupby("script")["train_return"].mean()
    usual = [usual[f"sac_flow_{name}"] for name in ("naive", "g", "t")]
    norm, training = "norm at A_K over that at A_0, K =", "training return at 60 000 steps, K ="
    labels = f"{norm} 4", f"{norm} 10", f"{training} 4", f"{training} 10"
    cells = (falls_of_four, falls, [f"{value:.0f}" for value in usual], [f"{value:.0f}" for value in returns])
    table = "".join(f"| {label} | {' | '.join(row)} |\n" for label, row in zip(labels, cells, strict=True))
    assert f"\n{table}\n" in log
    sigma = runs[runs["script"] == "sac_flow_naive"].filter(regex="std_step")
    assert sigma.max().max() < 5.5  # its bound is e^2


def test_a_gaussian_with_the_target_of_one_step():
    """In the decisions log: its evaluations at the end; one step of naive and of Flow-G is above the plain one."""
    pd = pytest.importorskip("pandas")
    runs = pd.read_csv(ROOT / "results" / "small.csv", low_memory=False)
    runs = runs.query("env == 'HalfCheetah-v4' and step == 60000")
    log = (ROOT / "results" / "DECISIONS.md").read_text()
    ends = runs[runs["script"] == "sac_gaussian-entropy_-8.5"].sort_values("seed")["eval_return"]
    plain = runs[runs["script"] == "sac_gaussian"].sort_values("seed")["eval_return"]
    for name, values in (("Gaussian, `--target-entropy -8.5`", ends), ("Gaussian", plain)):
        cells = ", ".join(f"{value:.0f}" for value in values)
        assert len(values) == 3 and f"\n| {name} | {cells} |\n" in log
    one = runs[(runs["sampling_steps"] == 1) & runs["script"].isin(["sac_flow_naive", "sac_flow_g"])]["eval_return"]
    assert len(one) == 6 and one.min() > plain.max()  # "The six runs .. are above the Gaussian's three"


def late_ranges(runs, log):
    """Largest - smallest late evaluation of each seed, by policy; each policy's row is in the log."""
    ranges = {}
    for (script, weights), rows in runs.groupby(["script", "weights"]):
        name = {"sac_flow_g": "Flow-G", "sac_flow_t": "Flow-T"}[script] + ", average" * (weights == "average")
        seeds = [seed.success for _, seed in rows.groupby("seed")]
        cells = [", ".join(f"{value:.2f}".removeprefix("0") for value in seed) for seed in seeds]
        assert len(rows) == 9 and f"| {name} | {' | '.join(cells)} |" in log
        ranges[name] = [round(seed.max() - seed.min(), 2) for seed in seeds]
    return ranges


def test_late_evaluations_on_can():
    """The decisions log's table, and what it and the README of offline to online say of it."""
    pd = pytest.importorskip("pandas")
    runs = pd.read_csv(ROOT / "results" / "swing.csv").query("env_id == 'can'")
    constant = runs[runs.rate == "constant"]
    swings = late_ranges(constant, (ROOT / "results" / "DECISIONS.md").read_text())
    assert max(swings["Flow-G"]) < 0.1 and swings["Flow-T"][0] == 0.1
    rising = constant[(constant.script == "sac_flow_t") & (constant.weights == "last") & (constant.seed > 1)]
    assert all(seed.success.is_monotonic_increasing for _, seed in rising.groupby("seed"))
    assert constant[constant.script == "sac_flow_g"].success.min() >= 0.98
    decays = runs[runs.rate == "decays to 0"]
    assert (decays.success == 1).all() and set(decays.seed) == {1} and set(decays.script) == {"sac_flow_g"}
    page = " ".join((ROOT / "offline_to_online" / "README.md").read_text().split())
    assert ".98 or more at each of three instants" in page


def test_late_evaluations_on_cube_single():
    """The same for cube-single: the rows, and by how much the evaluations of one seed differ."""
    pd = pytest.importorskip("pandas")
    runs = pd.read_csv(ROOT / "results" / "swing.csv").query("env_id != 'can'")
    ranges = late_ranges(runs, (ROOT / "results" / "DECISIONS.md").read_text())
    assert max(ranges["Flow-G"]) == max(ranges["Flow-T, average"]) == 0.08
    assert sorted(ranges["Flow-T"])[1:] == [0.16, 0.16]
    last = runs.query("weights == 'last' and step == 20000").groupby("script").success
    page = " ".join((ROOT / "offline_to_online" / "README.md").read_text().split())
    assert "on cube-single such seeds end below the table's two" in page and last.max()["sac_flow_g"] < 0.98
