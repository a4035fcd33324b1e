"""scripts/check_sync.py: the copies in step, what it finds and mends, what it leaves alone."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS

TOOL = ROOT / "scripts" / "check_sync.py"


def check_sync(*words):
    return subprocess.run([sys.executable, TOOL, *map(str, words)], capture_output=True, text=True)


def git(folder, *words):
    flags = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *flags, *words], check=True, capture_output=True)


@pytest.fixture
def copies(tmp_path):
    """The top-level scripts and Flow-G's network in another folder, committed."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    for name in SCRIPTS:
        shutil.copy(ROOT / f"{name}.py", tmp_path)
    (tmp_path / "offline_to_online").mkdir()
    tree = ast.parse((ROOT / "sac_flow_g.py").read_text())
    (network,) = (node for node in tree.body if getattr(node, "name", "") == "Velocity")
    lines = (ROOT / "sac_flow_g.py").read_text().splitlines(keepends=True)
    network = "".join(lines[network.lineno - 1 : network.end_lineno])
    (tmp_path / "offline_to_online" / "sac_flow_g.py").write_text(network)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def change(file, old, new, commit=True) -> str:
    """Replaces what the file has once; returns its new text."""
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))
    if commit:
        git(file.parent, "commit", "-qam", "changed")
    return file.read_text()


def test_copies_are_in_step():
    result = check_sync()
    assert result.returncode == 0, result.stdout


# A change to each kind of part, the part's name, and a script that has it besides the first.
CHANGES = [
    ("# seed of the networks", "# Seed of the networks", "Args.seed", "sac_flow_t"),
    ("sampling_steps: int = 4", "sampling_steps: int = 5", "Args.sampling_steps", "sac_flow_naive"),
    ("len(box.shape) == 1", "len(box.shape) == 2", "make_env", "sac_gaussian"),
    ("momentum=0.99", "momentum=0.9", "BatchRenorm", "sac_flow_t"),
    ("x + v * dt + torch.exp(log_std)", "x + v + torch.exp(log_std)", "Actor", "sac_flow_naive"),
    ("- x - F.softplus(-2 * x)", "- x + F.softplus(-2 * x)", "Actor.log_det", "sac_gaussian"),
    ("gamma * (1 - batch", "gamma * (2 - batch", "critic_loss", "sac_flow_naive"),
    ("    progress = tqdm(", "    progress =  tqdm(", "main", "sac_flow_t"),
    ("LONGEST_EPISODE = 10_000", "LONGEST_EPISODE = 20_000", "LONGEST_EPISODE", "sac_gaussian"),
    ("# Housekeeping: whoever", "# Housekeeping: Whoever", "FORMAT", "sac_gaussian"),
    ("main(read_args())", "main(Args())", "if __name__ == '__main__'", "sac_flow_naive"),
    ("angle = t * self.frequency", "angle = 2 * t * self.frequency", "Velocity", "offline_to_online/sac_flow_g"),
]


@pytest.mark.parametrize(("old", "new", "part", "name"), CHANGES)
def test_one_change_is_found_and_mended(copies, old, new, part, name):
    file = copies / f"{name}.py"
    before = file.read_text()
    changed = change(file, old, new)
    result = check_sync("--root", copies)
    assert result.returncode == 1 and f"{name}.py: {part} differs from sac_flow_g.py\n" in result.stdout, result.stdout
    assert "1 differing copies" in result.stdout and file.read_text() == changed  # reported only
    result = check_sync("--root", copies, "--fix")
    assert result.returncode == 0 and f"{name}.py: {part} differs from sac_flow_g.py, copied from" in result.stdout
    assert old in result.stdout and new in result.stdout and file.read_text() == before  # the diff is shown
    assert check_sync("--root", copies).returncode == 0


def test_fix_can_take_another_source(copies):
    """A change that is not committed yet is kept, and copied to the others when its file is named."""
    file = copies / "sac_gaussian.py"
    changed = change(file, "gamma * (1 - batch", "gamma * (2 - batch", commit=False)
    result = check_sync("--root", copies, "--fix")
    assert result.returncode == 1 and "not mended: commit sac_gaussian.py first, or copy from it by" in result.stdout
    assert file.read_text() == changed
    assert check_sync("--root", copies, "--fix", "--source", file).returncode == 0
    assert file.read_text() == changed and check_sync("--root", copies).returncode == 0
    assert all("gamma * (2 - batch" in (copies / f"{name}.py").read_text() for name in SCRIPTS)


def test_fix_keeps_uncommitted_changes_beside_the_part_that_it_mends(copies):
    file = copies / "sac_flow_t.py"
    before = file.read_text()
    change(file, "gamma * (1 - batch", "gamma * (2 - batch")
    change(file, "d_model: int = 96", "d_model: int = 64", commit=False)
    assert check_sync("--root", copies, "--fix").returncode == 0
    assert file.read_text() == before.replace("d_model: int = 96", "d_model: int = 64")


def test_fix_writes_into_nothing_that_git_does_not_track(copies):
    """A fork in the project's folder is its owner's business; neither is anything written outside a repository."""
    fork = copies / "my_flow.py"
    shutil.copy(copies / "sac_flow_g.py", fork)
    changed = change(fork, "gamma * (1 - batch", "gamma * (2 - batch", commit=False)
    assert check_sync("--root", copies, "--fix").returncode == 0 and fork.read_text() == changed
    shutil.rmtree(copies / ".git")
    result = check_sync("--root", copies, "--fix")
    assert (
        result.returncode == 1 and "my_flow.py: critic_loss differs" in result.stdout and "not mended" in result.stdout
    )
    assert fork.read_text() == changed


def test_a_script_keeps_what_it_owns(copies):
    """Its velocity and its flags' values; the network of the same script in another folder follows it."""
    change(copies / "sac_gaussian.py", "alpha: float = 0.2", "alpha: float = 0.3")
    change(copies / "sac_flow_naive.py", "h = relu(self.hidden(h))", "h = relu(self.hidden(h)) + h")
    assert check_sync("--root", copies).returncode == 0
    change(copies / "sac_flow_g.py", "angle = t * self.frequency", "angle = 2 * t * self.frequency")
    assert check_sync("--root", copies, "--fix").returncode == 0
    assert "angle = 2 * t" in (copies / "offline_to_online" / "sac_flow_g.py").read_text()


def test_pairs_of_flows_that_drift_apart_are_said(copies):
    assert ", more than" not in check_sync("--root", copies).stdout
    file = copies / "sac_flow_t.py"
    change(file, "FORMAT = 4", "\n".join(f"extra_{i} = 0" for i in range(60)) + "\nFORMAT = 4")
    result = check_sync("--root", copies)
    assert result.returncode == 1 and len(re.findall(r"sac_flow_t.py .*, more than 60", result.stdout)) == 2


def test_a_fork_is_compared_with_its_origin_and_nothing_else(tmp_path):
    """Alone in a folder, with another network, a new function and one that is gone: listed, and left as it is."""
    fork = tmp_path / "mine.py"
    text = (ROOT / "sac_flow_t.py").read_text()
    new = text.replace("z = self.action(x) + time[k]", "z = self.action(x) - time[k]")
    new = new.replace("def into_box(", "def clip_to_box(")
    assert new.count("- time[k]") == 1
    fork.write_text(new)
    result = check_sync(fork)
    assert result.returncode == 0 and fork.read_text() == new
    said = dict(line.split(": ", 1) for line in re.sub(r"\n +", " ", result.stdout).splitlines())
    assert said[str(fork)] == "its origin is sac_flow_t.py"
    assert (
        said["differs"] == "Velocity, Velocity.step" and said["absent"] == "into_box" and said["new"] == "clip_to_box"
    )
    same = said["the same"].split(", ")
    assert {"Args", "Actor", "main", "Velocity.__init__", "evaluate", "SIZES"} <= set(same)
    result = check_sync(fork, "--diff")
    assert (
        "-        z = self.action(x) + time[k]" in result.stdout
        and "+        z = self.action(x) - time[k]" in result.stdout
    )
    for words in ((fork, "--fix"), (tmp_path / "absent.py",)):
        result = check_sync(*words)
        assert result.returncode == 2 and str(words[0]) in result.stderr.splitlines()[-1] and fork.read_text() == new
    fork.write_text("def broken(")
    result = check_sync(fork)
    assert result.returncode == 2 and "line 1" in result.stderr.splitlines()[-1]


def test_scripts_differ_where_they_say():
    """Part by part: the flows in the network and its flags, the Gaussian in its actor, its flags and their check;
    nothing is absent, and the imports are the same."""
    parts = {}
    for name in SCRIPTS:
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        parts[name] = {getattr(node, "name", i): ast.dump(node) for i, node in enumerate(tree.body) if i}
    own = {"sac_flow_t": {"DecoderLayer", "Velocity", "Args"}, "sac_flow_naive": {"Velocity", "Args"}}
    own["sac_gaussian"] = {"Velocity", "Actor", "Args", "prepare"}
    for name, differing in own.items():
        keys = parts["sac_flow_g"].keys() | parts[name].keys()
        named = {key for key in keys if isinstance(key, str)}
        assert {key for key in named if parts["sac_flow_g"].get(key) != parts[name].get(key)} == differing
        unnamed = [[part for key, part in parts[which].items() if key not in named] for which in ("sac_flow_g", name)]
        assert unnamed[0] == unnamed[1]  # imports, constants and the call of main


def test_a_file_that_is_no_python_is_named(copies):
    (copies / "fork.txt").write_bytes(b"x = '\xff'\n")
    (copies / "sac_flow_t.py").write_text("def (\n")
    cases = (
        ([], "sac_flow_t.py: invalid"),
        ([copies / "fork.txt", "--root", ROOT], "fork.txt: "),
        (["--diff"], "--diff: name"),
    )
    for words, says in cases:
        made = check_sync("--root", copies, *words)
        assert made.returncode == 2 and says in made.stderr.splitlines()[-1] and "Traceback" not in made.stderr, made
