"""Which of BatchRenorm's layers may correct on Humanoid-v4? One run of the Gaussian goes on in four ways.

    pip install -r scripts/requirements.txt
    python scripts/renorm_parts.py --csv runs/renorm_parts.csv  # an hour and a half on a CPU core

The run never corrects, up to --fork steps. From there copies of it go on to --total-timesteps, in which some of the
critics' norms correct after their first 100 000 updates, which are over. The actor's never does. The table has the
training returns of the copies.
"""

import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
NORM = "BatchRenorm(n, warmup) for n in widths[:-1]"
# What corrects -> the critics' norms that never do: of the input, and of the two hidden layers.
NEVER = {
    "none": (0, 1, 2),
    "all": (),
    "all but the critics' first norms": (0,),
    "all but the critics' last norms": (2,),
}


@dataclass
class Args:
    csv: Path  # table to write
    env_id: str = "Humanoid-v4"  # task
    seed: int = 1  # seed of the run
    fork: int = 190_000  # environment steps before the copies
    total_timesteps: int = 215_000  # environment steps at their end
    run_dir: Path = Path("runs/renorm_parts")  # folder for the runs
    flags: str = "--size small --compile"  # further flags of the run


def fork(never: tuple[int, ...]) -> str:
    """The text of sac_gaussian.py whose critics' norms correct after 100 000 updates, but for those at `never`."""
    text = (ROOT / "sac_gaussian.py").read_text()
    if text.count(NORM) != 1:
        raise ValueError(f"sac_gaussian.py has {text.count(NORM)} times: {NORM}")
    return text.replace(NORM, f"BatchRenorm(n, 10**9 if i in {never} else 100_000) for i, n in enumerate(widths[:-1])")


def main(args: Args):
    base = args.run_dir / "base"
    fresh = ["--env-id", args.env_id, "--seed", str(args.seed), "--renorm-warmup", str(10**9), *args.flags.split()]
    fresh += ["--total-timesteps", str(args.fork), "--run-dir", str(base)]
    if not base.exists():
        subprocess.run([sys.executable, ROOT / "sac_gaussian.py", *fresh], check=True)
    (begun,) = base.iterdir()
    rows = []
    for part, never in NEVER.items():
        folder = args.run_dir / part.replace(" ", "_")
        script, run = folder / "sac_gaussian.py", folder / "run"
        if not folder.exists():
            shutil.copytree(begun, run)
            script.write_text(fork(never))
        goal = ["--total-timesteps", str(args.total_timesteps)]
        subprocess.run([sys.executable, script, "--resume", run, *goal], check=True)
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        episodes = events.Scalars("charts/episodic_return")
        rows += [(part, event.step, event.value) for event in episodes if event.step > args.fork]
    with args.csv.open("w", newline="") as file:
        csv.writer(file).writerows([("corrected", "step", "episodic_return"), *rows])


if __name__ == "__main__":
    main(tyro.cli(Args))
