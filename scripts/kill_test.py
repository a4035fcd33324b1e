"""Kill runs with SIGKILL at random moments, resume them, and compare the end with undisturbed runs bit by bit.

Every case is a small run of one script. It is killed again and again, each time at a random step; every second kill
waits from there on for a half-written file, so that it hits a checkpoint. Compared are all scalars but charts/SPS,
model.pt, and the last checkpoint: networks, optimizers, generators, the environment's state and the replay buffer.

    python scripts/kill_test.py                              # 20 kills, table in results/kill_test.csv
    python scripts/kill_test.py --rounds 5 --seed 2          # more of them, others

The exit code is 1 if a resume failed or an end differs.
"""

import argparse
import csv
import io
import logging
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import torch
from benchmark import commit, provenance
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
BASE = "--batch-size 16 --critic-hidden-dim 128 --eval-frequency 100 --eval-episodes 1 --log-frequency 5 --device cpu"

# script, what is special, kills per round, steps, steps between checkpoints, flags
CASES = [
    ("sac_flow_g", "1000-step episodes", 4, 1150, 10, "HalfCheetah-v4 --learning-starts 950 --no-compile"),
    ("sac_flow_t", "lagging positions", 4, 260, 5, "Ant-v4 --learning-starts 100 --no-compile"),
    ("sac_flow_naive", "lagging positions", 3, 260, 5, "Humanoid-v4 --learning-starts 100 --no-compile"),
    ("sac_gaussian", "wrapped buffer", 3, 300, 5, "Hopper-v4 --learning-starts 90 --buffer-size 100 --no-compile"),
    ("sac_flow_g", "target critics", 3, 260, 5, "Walker2d-v5 --learning-starts 100 --no-crossq --no-compile"),
    ("sac_flow_t", "torch.compile", 3, 260, 5, "Hopper-v4 --learning-starts 100"),
]


class Run:
    """A script at work, its progress read from the bar it draws on a terminal."""

    def __init__(self, command: list):
        self.step, self.errors, (terminal, bar) = 0, b"", pty.openpty()
        termios.tcsetwinsize(bar, (24, 100))
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=bar,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        os.close(bar)
        self.reader = threading.Thread(target=self.read, args=(terminal,))
        self.reader.start()

    def read(self, terminal: int):
        try:
            while data := os.read(terminal, 4096):
                self.errors = (self.errors + data)[-4096:]
                for found in re.finditer(rb"(\d+)/\d+ \[", data):
                    self.step = int(found[1])
        except OSError:  # the other end is closed
            pass
        os.close(terminal)

    def wait(self) -> int:
        code = self.process.wait()
        self.reader.join()
        return code

    def kill_at(self, step: int, in_write: Path | None, pause: float) -> bool:
        """SIGKILL to its process group some time after a step; in_write: when this folder has a half-written file."""
        while self.process.poll() is None and self.step < step:
            time.sleep(0.005)
        time.sleep(pause)
        while in_write and self.process.poll() is None and not any(in_write.rglob("*.tmp")):
            pass
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL


def checkpoint_of(run: Path) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)


def end_of(run: Path) -> dict:
    """All that two finished runs are compared by."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"]) - {"charts/SPS"}
    checkpoint = checkpoint_of(run)
    rows = (run / "replay.bin").read_bytes()
    width = len(rows) // checkpoint["segments"][-1][1]  # bytes of a transition
    end = {"curves": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}}
    end["replay"] = rows[-checkpoint["args"]["buffer_size"] * width :]
    return end | {name: value for name, value in checkpoint.items() if name not in ("args", "segments")}


def difference(a, b, name="") -> str:
    """Path of the first difference of two nested structures, bit by bit; empty if there is none."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        pairs = [(f"{name}/{key}", a[key], b[key]) for key in a]
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        pairs = [(f"{name}[{i}]", *both) for i, both in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
        return "" if same else name
    else:
        return "" if a == b or (a != a and b != b) else name
    return next((found for pair in pairs if (found := difference(*pair[1:], pair[0]))), "")


def torture(case, folder: Path, rng: random.Random, first: int) -> list[dict]:
    """One undisturbed run and one that is killed: the rows of the table, whose numbers go on from `first`."""
    script, special, kills, steps, frequency, flags = case
    flags = f"{BASE} --save-model --env-id {flags} --total-timesteps {steps} --checkpoint-frequency {frequency}"
    flags += " --d-model 16" if script == "sac_flow_t" else " --hidden-dim 16"
    reference, killed = (folder / f"{first}-{kind}" for kind in ("undisturbed", "killed"))

    def start(runs: Path) -> Run:
        runs.mkdir(exist_ok=True)
        more = [*flags.split(), "--run-dir", runs]
        return Run([folder / f"{script}.py", *(["--resume", *runs.iterdir()] if any(runs.iterdir()) else more)])

    run = start(reference)
    require(run.wait() == 0, f"{script}: the undisturbed run fails", run)
    rows = []
    for i in range(kills):  # one in each of equal shares of the steps, the first after a checkpoint
        step = rng.randint(max(frequency + 1, steps * i // kills), min(steps * (i + 1) // kills, steps - 3 * frequency))
        run = start(killed)
        hit = run.kill_at(step, killed if (first + i) % 2 == 0 else None, rng.uniform(0, 0.1))
        require(hit, f"{script}: ended with {run.process.returncode} before its kill", run)
        path = next(killed.iterdir())
        checkpoint = checkpoint_of(path)
        row = {"kill": first + i + 1, "script": script, "case": special, "phase": phase_of(path, checkpoint)}
        rows.append(row | {"step of the progress bar": run.step, "resumed from": checkpoint["step"]})
        print(*rows[-1].values(), sep=", ", flush=True)
    run = start(killed)
    require(run.wait() == 0, f"{script}: the resumed run fails", run)
    found = difference(*(end_of(next(runs.iterdir())) for runs in (reference, killed)))
    print(f"{script}, {special}: {'differs in ' + found if found else 'identical'}", flush=True)
    return [row | {"identical": "no" if found else "yes"} for row in rows]


def require(condition: bool, message: str, run: Run):
    if not condition:
        sys.exit(f"{message}\n{run.errors.decode()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="how often to go through the cases, of 20 kills together")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "kill_test.csv")
    args = parser.parse_args()
    rng, rows = random.Random(args.seed), []
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports every resume
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        print("no C++ compiler: the case of torch.compile runs without it")
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        for script in {case[0] for case in CASES}:  # a copy, so that nobody edits them meanwhile
            shutil.copy(ROOT / f"{script}.py", folder)
        for case in CASES * args.rounds:
            rows += torture(case, Path(folder), rng, len(rows))
    args.output.parent.mkdir(exist_ok=True)
    with open(args.output, "w", newline="") as file:
        rows = [row | provenance() | {"git": commit()} for row in rows]
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    writes = sum(row["phase"] != "elsewhere" for row in rows)
    identical = sum(row["identical"] == "yes" for row in rows)
    print(f"{len(rows)} kills, {writes} of them in a checkpoint: {identical} resumed to a bit-identical end")
    return 0 if identical == len(rows) == args.rounds * sum(case[2] for case in CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
