"""Score policies on MuJoCo's contacts of today and on those of before 3.5.0, which published v4 returns are of.

From 3.5.0 on a contact is active within the sum of both geoms' margins, before within the larger one. Where both are
equal, as in Gymnasium's tasks, half of every margin gives the old contacts back. Same start states and A_0 for both.

    python scripts/contact_margin.py RUN_OR_POLICY ... --csv results/contact_margin.csv
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import torch
import tyro
from benchmark import commit, provenance
from evaluate import load, make_actor


@dataclass
class Args:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """run folders or policy files of the scripts for training from scratch"""
    episodes: int = 20
    """episodes of each policy and kind of contact"""
    seed: int = 20_000
    """of start states and A_0"""
    csv: Path = Path("runs/contact_margin.csv")
    """table to write: a row per policy and kind of contact"""


def old_contacts(env: gym.Env) -> gym.Env:
    """Half of every margin; refuses a task where that is not what MuJoCo did before 3.5.0."""
    model = env.unwrapped.model
    margins = model.geom_margin[model.geom_contype + model.geom_conaffinity > 0]
    if len(set(margins)) > 1:
        raise SystemExit(f"error: {env.spec.id}: margins of {sorted(set(margins))}: half of each is not the larger one")
    model.geom_margin[:] /= 2
    return env


def score(script, state: dict, args: Args, before: bool) -> np.ndarray:
    """Returns of the episodes, with today's contacts or those of before 3.5.0."""
    flags, device = script.Args(**state["args"]), torch.device("cpu")
    envs = [script.make_env(flags) for _ in range(args.episodes)]
    envs = [old_contacts(env) for env in envs] if before else envs
    actor = make_actor(script, state, device, envs[0].observation_space.shape[0], envs[0].action_space, flags)
    return script.evaluate(actor, envs, args.seed, device)


def main(args: Args):
    rows = []
    for path in args.paths:
        state, script = load(path, None)
        step = state["step"] if "step" in state else state["counters"][0]
        today, before = (score(script, state, args, before) for before in (False, True))
        row = {"policy": path.stem, "script": state["script"], "env": state["args"]["env_id"], "step": step}
        row |= {"episodes": args.episodes, "today": today.mean(), "before": before.mean()}
        row["standard_error"] = (before - today).std(ddof=1) / args.episodes**0.5  # episodes are paired
        rows.append(row | provenance() | {"mujoco": mujoco.__version__, "git": commit()})
        print(f"{path}: {row['today']:.1f}, before {row['before']:.1f}, difference's error {row['standard_error']:.1f}")
    args.csv.parent.mkdir(exist_ok=True)
    with open(args.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
