"""Time the trainers in one interleaved run: seconds to the first updates, milliseconds per step, peak memory.

    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py                      # four scripts, small size
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py --full               # the paper's size on Humanoid-v4
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py --growth             # over K, batch and width
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py --against ../older   # beside another checkout
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py --peers-python .venv-peers/bin/python
    python scripts/benchmark.py --table-only                                        # the table and the picture

Every row is a real training. All of them run at once, but only one at a time takes steps: each stops in its
environment after a window of steps until it is its turn again, so that a slow minute of the machine hits all alike. The
ratio is the median over windows of the first row's time by this row's: above 1 is faster than the first row.

A start is the time from the process's beginning to the tenth update: cold with empty caches of torch.compile, warm with
those of the cold start. Peers are Stable-Baselines3's SAC and SBX's CrossQ and SAC, from an environment of their own
(pip install -r scripts/requirements-peers.txt), with 256-wide networks and batches of 256.

Appends to --csv. With OMP_NUM_THREADS=1 and one core the figures are those of one core.
"""

import csv
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("sac_gaussian", "sac_flow_naive", "sac_flow_g", "sac_flow_t")
# The trainer's first environment reports over a pipe, and waits for a line before it goes on.
CHILD = """
import os, runpy, sys, time
import gymnasium as gym
first, window = int(sys.argv[1]), int(sys.argv[2])
sys.argv = sys.argv[3:]
reports = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
make = gym.make

class Turns(gym.Wrapper):
    steps = 0

    def step(self, action):
        result = self.env.step(action)
        self.steps += 1
        if self.steps >= first and (self.steps - first) % window == 0:
            print(time.perf_counter() - self.begin if self.steps > first else 0, file=reports, flush=True)
            sys.stdin.readline()
            self.begin = time.perf_counter()
        return result

def make_first(*args, **kwargs):
    gym.make = make
    return Turns(make(*args, **kwargs))

gym.make = make_first
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PEER = """
import sys
import gymnasium as gym
from {package} import {name}
flags = dict(batch_size=256, learning_starts=int(sys.argv[2]), policy_kwargs=dict(net_arch=[256, 256]), device="cpu")
{name}("MlpPolicy", gym.make(sys.argv[1]), **flags).learn(10**6)
"""
PEERS = {
    "SBX CrossQ": PEER.format(package="sbx", name="CrossQ"),
    "SBX SAC": PEER.format(package="sbx", name="SAC"),
    "SB3 SAC": PEER.format(package="stable_baselines3", name="SAC"),
}


@dataclass
class Args:
    scripts: tuple[str, ...] = SCRIPTS  # scripts to time
    full: bool = False  # the paper's size on Humanoid-v4, not the small size on HalfCheetah-v4
    growth: bool = False  # over sampling steps, batch size and width, one at a time, from the small size
    env_id: str | None = None  # another task
    flags: str = ""  # flags for every script, as one string
    compiled: bool = True  # at small size, where eager is the default, a row with --compile too
    against: Path | None = None  # root of another checkout, timed beside this one
    against_flags: str = "--critic-hidden-dim 256 --batch-size 256"  # what the small size is called there
    peers_python: Path | None = None  # Python that has the peers, timed as well
    starts: bool = True  # time cold and warm starts too
    window: int = 60  # steps per turn
    windows: int = 7  # turns of each row; the first is not counted
    csv: Path = ROOT / "results" / "benchmark.csv"  # file to append to
    figure: Path = ROOT / "results" / "figures" / "benchmark.svg"  # picture that --table-only draws
    table_only: bool = False  # print the table of --csv, draw the picture and measure nothing


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def processor() -> dict[str, str]:
    """Its name and the vector instructions that decide how fast products are."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    capabilities = torch.cpu.get_capabilities()
    known = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve", "bf16")
    instructions = " ".join(name for name in known if capabilities.get(name))
    return {"processor": names[0] if names else platform.machine(), "instructions": instructions}


def provenance() -> dict[str, str]:
    """What a measurement's row says of its circumstances."""
    hardware = f"{processor()['processor']}, {torch.get_num_threads()} thread(s)"
    return {"date": time.strftime("%Y-%m-%d"), "hardware": hardware, "torch": torch.__version__}


def commit(root: Path = ROOT) -> str:
    """The checkout's commit, 12 digits, with "-dirty" behind it where files differ from it."""
    command = ["git", "-C", root, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except FileNotFoundError:
        return "unknown"


class Trainer:
    """One row's process, which takes steps in its turns only."""

    def __init__(self, command: list, first: int, window: int, cache: str, log: Path):
        """Start it, and wait for its step `first`."""
        python, *rest = command
        environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}
        call = [python, "-c", CHILD, str(first), str(window), *rest]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        began, self.command, self.log = time.perf_counter(), shlex.join(map(str, rest)), log
        with open(log, "w") as file:
            self.process = subprocess.Popen(call, stderr=file, **pipes)
        self.read()
        self.start = time.perf_counter() - began  # seconds

    def read(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.command} ended:\n{self.log.read_text()}")
        return float(line)

    def turn(self) -> float:
        """Seconds of its next window."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def peak_gib(self) -> float:
        """Peak resident memory, where the system tells it."""
        status = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
        return int(found[1]) / 2**20 if found else float("nan")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def rows(args: Args, folder: str) -> list[dict]:
    """What to time: label, checkout, flags, command."""
    env_id = args.env_id or ("Humanoid-v4" if args.full else "HalfCheetah-v4")
    size = "--size full" if args.full else "--size small"
    usual = f"--env-id {env_id} --eval-frequency 0 --checkpoint-frequency 0 --run-dir {folder}"
    found = []

    def add(script: str, flags: str, root: Path = ROOT):
        flags = f"{flags} {args.flags}".strip()
        starts = max(300, int((re.findall(r"--batch-size (\d+)", flags) or [512 if args.full else 256])[-1]) + 44)
        line = f"{usual} {flags} --learning-starts {starts}"
        command = [sys.executable, root / f"{script}.py", *line.split()]
        found.append({"script": script, "flags": flags, "commit": commit(root), "env": env_id, "first": starts + 10})
        found[-1]["command"] = command

    if args.growth:
        for script in args.scripts:
            width = "--d-model" if script == "sac_flow_t" else "--hidden-dim"
            for k in (1, 2, 4, 8, 16) if script != "sac_gaussian" else ():
                add(script, f"{size} --sampling-steps {k}")
            for batch in (128, 256, 512, 1024):
                add(script, f"{size} --batch-size {batch}")
            for wide in (48, 96, 192) if script == "sac_flow_t" else (256, 512, 1024):
                add(script, f"{size} {width} {wide}")
        return found
    for script in args.scripts:
        if args.against:
            add(script, "" if args.full else args.against_flags, args.against.resolve())
        add(script, size)
        if not args.full and args.compiled:
            add(script, f"{size} --compile")
    for name, program in PEERS.items() if args.peers_python else ():
        file = Path(folder, f"{name.replace(' ', '_')}.py")
        file.write_text(program)
        row = {"script": name, "flags": "", "commit": "", "env": env_id, "first": 310}
        found.append(row | {"command": [args.peers_python, file, env_id, "300"]})
    return found


def measure(args: Args) -> list[dict]:
    base = {"date": time.strftime("%Y-%m-%d")} | processor() | {"torch": torch.__version__}
    base["threads"] = os.environ.get("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        todo, running = rows(args, folder), []
        log = Path(folder, "log")
        try:
            for i, row in enumerate(todo):
                cache = os.path.join(folder, f"cache{i}" if args.starts else "cache")
                os.makedirs(cache, exist_ok=True)
                cold = Trainer(row["command"], row["first"], args.window, cache, log) if args.starts else None
                if cold:
                    cold.end()
                warm = Trainer(row["command"], row["first"], args.window, cache, Path(folder, f"log{i}"))
                running.append(warm)
                row["cold_start_s"] = cold.start if cold else float("nan")
                row["warm_start_s"] = warm.start if cold else float("nan")
                print(f"{row['script']} {row['flags']}: {row['cold_start_s']:.1f} s cold", file=sys.stderr)
            turns = [[trainer.turn() for trainer in running] for _ in range(args.windows)][1:]
            for i, (row, trainer) in enumerate(zip(todo, running, strict=True)):
                mine = [turn[i] for turn in turns]
                row["ms_per_step"] = 1e3 * statistics.median(mine) / args.window
                row["ratio"] = statistics.median(turn[0] / turn[i] for turn in turns)
                row["peak_gib"] = trainer.peak_gib()
        finally:
            for trainer in running:
                trainer.end()
    return [base | {k: v for k, v in row.items() if k not in ("command", "first")} for row in todo]


def append(path: Path, measured: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(measured[0]), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        for row in measured:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def show(measured: list[dict]):
    """The table in Markdown, once for each processor."""
    for machine in dict.fromkeys((row["processor"], row["instructions"], row["torch"]) for row in measured):
        print(f"\n{machine[0]} ({machine[1]}), torch {machine[2]}\n")
        head = (
            "task | script | flags | commit | cold start, s | warm start, s | ms/step | ratio to the first | peak GiB"
        )
        print(f"| {head} |\n|{'---|' * len(head.split('|'))}")
        for row in measured:
            if (row["processor"], row["instructions"], row["torch"]) != machine:
                continue
            cells = [row["env"], row["script"], row["flags"], row["commit"]]
            names = (("cold_start_s", 1), ("warm_start_s", 1), ("ms_per_step", 1), ("ratio", 2), ("peak_gib", 2))
            cells += [f"{float(row[name]):.{digits}f}".replace("nan", "\u2013") for name, digits in names]
            print(f"| {' | '.join(cells)} |")


def draw(measured: list[dict], path: Path):
    """Milliseconds per step over K, batch size and width, a panel each, of the rows of --growth."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "benchmark"  # the same bytes every time
    panels = {"--sampling-steps": "K", "--batch-size": "batch size", "--hidden-dim": "width", "--d-model": "d_model"}
    fig, axes = plt.subplots(1, len(panels), figsize=(12, 3.2), layout="constrained")
    for ax, (flag, name) in zip(axes, panels.items(), strict=True):
        for color, script in enumerate(SCRIPTS):
            points = [
                (int(found[1]), float(row["ms_per_step"]))
                for row in measured
                if row["script"] == script and (found := re.fullmatch(rf"--size small {flag} (\d+)", row["flags"]))
            ]
            if points:
                ax.plot(*zip(*sorted(points), strict=True), marker="o", label=script, color=f"C{color}")
        ax.set_xlabel(name)
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
    axes[0].set_ylabel("ms per step")
    axes[1].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Date": None})


def main(args: Args):
    if args.table_only:
        require(args.csv.is_file(), f"--csv {args.csv}: no such file; measure first, without --table-only")
        with open(args.csv, newline="") as file:
            measured = list(csv.DictReader(file))
        show(measured)
        return draw(measured, args.figure)
    for script in args.scripts:
        for root in filter(None, (ROOT, args.against)):
            require((root / f"{script}.py").is_file(), f"--scripts {script}: there is no {script}.py in {root}")
    require(args.windows > 1 and args.window > 0, "--windows: at least 2, as the first is not counted")
    if args.peers_python:
        code = "import sbx, stable_baselines3"
        try:
            fine = subprocess.run([args.peers_python, "-c", code], capture_output=True).returncode == 0
        except OSError:
            fine = False
        remedy = "install scripts/requirements-peers.txt there"
        require(fine, f"--peers-python {args.peers_python}: no Python that imports sbx; {remedy}")
    measured = measure(args)
    append(args.csv, measured)
    show(measured)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(tyro.cli(Args, description=__doc__))
