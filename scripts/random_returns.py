"""Returns of a uniformly random policy: the zero of the normalised score in scripts/plot.py.

    python scripts/random_returns.py                      # MuJoCo's v4 and v5, Pendulum-v1; two minutes
    python scripts/random_returns.py --env-ids my:Task-v0 --csv runs/random.csv

100 episodes per task, episode i reset with seed i. A task that does not run is named and left out.
"""

import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import tyro

TASKS = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"]
TASKS += ["Pusher", "Reacher", "Swimmer", "Walker2d"]
MUJOCO = [f"{name}-{v}" for name in TASKS for v in ("v4", "v5")]
MUJOCO.remove("Pusher-v4")  # needs mujoco < 3


@dataclass
class Args:
    env_ids: list[str] = field(default_factory=lambda: [*MUJOCO, "Pendulum-v1"])
    """tasks to measure"""
    episodes: int = 100
    """episodes of each"""
    csv: Path = Path("results/random_policy.csv")
    """file to write"""


def returns(env_id: str, episodes: int) -> np.ndarray:
    """Undiscounted returns."""
    env = gym.make(env_id)
    env.action_space.seed(0)
    totals = np.zeros(episodes)
    for episode in range(episodes):
        env.reset(seed=episode)
        ended = False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            totals[episode] += reward
            ended = terminated or truncated
    return totals


def main(args: Args) -> int:
    rows, failed = [], 0
    for env_id in args.env_ids:
        try:
            totals = returns(env_id, args.episodes)
        except Exception as error:  # whatever a task raises that this version of MuJoCo cannot run
            print(f"left out: {env_id}: {str(error).splitlines()[0]}", file=sys.stderr)
            failed += 1
            continue
        rows.append([env_id, f"{totals.mean():.6g}", f"{totals.std(ddof=1):.6g}", len(totals)])
        rows[-1] += [gym.__version__, mujoco.__version__, np.__version__]
        print(*rows[-1][:4], flush=True)
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with open(args.csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = ["env", "random", "std", "episodes", "versions/gymnasium", "versions/mujoco", "versions/numpy"]
        writer.writerows([heads, *rows])
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Args, description=__doc__)))
