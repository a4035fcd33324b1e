"""Kill runs with SIGKILL at random moments, resume them, and compare the end with undisturbed runs bit by bit.

Every case is a small run of one script, one of them of offline_to_online/ (which needs its requirements), one of a task
that keeps a target and the last actions in Python. It is killed again and again, each time at a random step; of three
kills one waits from there on for replay.bin to grow, so that it leaves transitions behind the checkpoint's, and one for
a half-written checkpoint.pt. Compared are all scalars but charts/SPS and the last checkpoint: networks, optimizers,
generators, counters and the replay buffer.

    python scripts/kill_test.py                              # 20 kills, table in results/kill_test.csv
    python scripts/kill_test.py --rounds 5 --seed 2          # more of them, others

The exit code is 1 if a resume failed or an end differs.
"""

import argparse
import csv
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
CUBE = "cube-single-play-singletask-task1-v0"

# script, what is special, kills per round, steps, steps between checkpoints, flags; DATA: a file of demonstrations
CASES = [
    ("sac_flow_g", "1000-step episodes", 3, 1150, 10, "HalfCheetah-v4 --learning-starts 950 --no-compile"),
    ("sac_flow_t", "time limits", 2, 260, 5, "Ant-v4 --learning-starts 100 --no-compile"),
    ("sac_flow_naive", "wide rows", 3, 260, 5, "Humanoid-v4 --learning-starts 100 --no-compile"),
    ("sac_gaussian", "wrapped buffer", 3, 300, 5, "Hopper-v4 --learning-starts 90 --buffer-size 100 --no-compile"),
    ("sac_flow_g", "target critics", 2, 260, 5, "Walker2d-v5 --learning-starts 100 --no-crossq --no-compile"),
    ("sac_flow_t", "torch.compile", 2, 260, 5, "Hopper-v4 --learning-starts 100"),
    ("sac_flow_g", "state in Python", 2, 260, 5, "delayed:Delayed-v0 --learning-starts 100 --no-compile"),
    ("offline_to_online/sac_flow_g", "updates, then steps", 3, 300, 5, f"{CUBE} --learning-starts 20 --no-compile"),
]
OFFLINE = "--offline-steps 150 --total-timesteps 150 --dataset-path DATA --buffer-size 3000 --step-limit 40"

# Actions arrive three steps late, and the speed to run at is drawn at reset and after some steps: no simulator knows.
DELAYED = """
import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

class Delayed(HalfCheetahEnv):
    def reset_model(self):
        self.waiting, self.speed = [np.zeros(6)] * 3, self.np_random.uniform(0, 3)
        return super().reset_model()

    def step(self, action):
        self.waiting.append(np.array(action))
        obs, _, terminated, truncated, info = super().step(self.waiting.pop(0))
        if self.np_random.random() < 0.05:
            self.speed = self.np_random.uniform(0, 3)
        return obs, 1 - abs(info["x_velocity"] - self.speed), terminated, truncated, info

gym.register("Delayed-v0", Delayed, max_episode_steps=80)
"""


class Run:
    """A script at work, its progress read from the bar it draws on a terminal."""

    def __init__(self, command: list, folder: Path):
        self.began = time.time()
        self.step, self.errors, (terminal, bar) = 0, b"", pty.openpty()
        termios.tcsetwinsize(bar, (24, 100))
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=bar,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
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

    def kill_at(self, step: int, wait_for: str, runs: Path, pause: float) -> bool:
        """SIGKILL to its process group some time after a step, and then when the file wait_for is written to."""
        while self.process.poll() is None and self.step < step:
            time.sleep(0.005)
        time.sleep(pause)
        reached = time.time()
        while wait_for and self.process.poll() is None and not any(map(written_since(reached), runs.rglob(wait_for))):
            pass
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL


def written_since(moment: float):
    """A function of a file: whether that is so."""

    def written(file: Path) -> bool:
        try:
            return file.stat().st_mtime > moment
        except FileNotFoundError:  # just renamed
            return False

    return written


def checkpoint_of(run: Path) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)


def phase_of(run: Path, began: float) -> str:
    """Where a process died that began at a moment, from what it left."""
    written = {file.name: file.stat().st_mtime for file in run.iterdir() if file.stat().st_mtime > began}
    if "checkpoint.pt.tmp" in written:
        return "writing checkpoint.pt"
    if written.get("replay.bin", 0) > written.get("checkpoint.pt", 0):
        return "transitions behind the checkpoint's"
    return "elsewhere"


def end_of(run: Path) -> dict:
    """All that two finished runs are compared by."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"]) - {"charts/SPS"}
    checkpoint = checkpoint_of(run)
    rows = (run / "replay.bin").read_bytes()
    width = len(rows) // checkpoint["counters"][0]  # bytes of a transition
    end = {"curves": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}}
    end["replay"] = rows[-checkpoint["args"]["buffer_size"] * width :]
    return end | {name: value for name, value in checkpoint.items() if name != "args"}


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
    total = OFFLINE.replace("DATA", str(folder / "data.npz")) if "/" in script else f"--total-timesteps {steps}"
    flags = f"{BASE} --env-id {flags} {total} --checkpoint-frequency {frequency}"
    flags += " --d-model 16" if script == "sac_flow_t" else " --hidden-dim 16"
    reference, killed = (folder / f"{first}-{kind}" for kind in ("undisturbed", "killed"))

    def start(runs: Path) -> Run:
        runs.mkdir(exist_ok=True)
        more = [*flags.split(), "--run-dir", runs]
        more = ["--resume", *runs.iterdir()] if any(runs.iterdir()) else more
        return Run([folder / f"{script}.py", *more], folder)

    run = start(reference)
    require(run.wait() == 0, f"{script}: the undisturbed run fails", run)
    rows = []
    for i in range(kills):  # one in each of equal shares of the steps, the first after a checkpoint
        step = rng.randint(max(frequency + 1, steps * i // kills), min(steps * (i + 1) // kills, steps - 3 * frequency))
        run = start(killed)
        wait_for = ("", "replay.bin", "checkpoint.pt.tmp")[(first + i) % 3]
        hit = run.kill_at(step, wait_for, killed, rng.uniform(0, 0.1))
        require(hit, f"{script}: ended with {run.process.returncode} before its kill", run)
        path = next(killed.iterdir())
        row = {"kill": first + i + 1, "script": script, "case": special, "phase": phase_of(path, run.began)}
        state = checkpoint_of(path)
        resumed = state["step"] if "step" in state else state["counters"][0]
        rows.append(row | {"step of the progress bar": run.step, "resumed from": resumed})
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
        (Path(folder) / "offline_to_online").mkdir()
        for script in {case[0] for case in CASES}:  # a copy, so that nobody edits them meanwhile
            shutil.copy(ROOT / f"{script}.py", f"{folder}/{script}.py")
        (Path(folder) / "delayed.py").write_text(DELAYED)
        maker = [sys.executable, ROOT / "offline_to_online" / "make_dataset.py", "--env-id", CUBE, "--episodes", "1"]
        subprocess.run([*maker, "--path", f"{folder}/data.npz"], check=True, stdout=subprocess.DEVNULL)
        for case in CASES * args.rounds:
            rows += torture(case, Path(folder), rng, len(rows))
    args.output.parent.mkdir(exist_ok=True)
    with open(args.output, "w", newline="") as file:
        rows = [row | provenance() | {"git": commit()} for row in rows]
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    writing, behind = (sum(row["phase"].startswith(word) for row in rows) for word in ("writing", "transitions"))
    identical = sum(row["identical"] == "yes" for row in rows)
    print(f"{len(rows)} kills, {writing} while checkpoint.pt was written, {behind} with transitions behind it")
    print(f"{identical} of {len(rows)} resumed to a bit-identical end")
    return 0 if identical == len(rows) == args.rounds * sum(case[2] for case in CASES) else 1


if __name__ == "__main__":
    sys.exit(main())
