"""How much of a trained policy's noise reaches its actions.

The entropy of a flow's path is not that of its action: noise in early steps counts, and later steps can contract it
away. This loads the policy of every run, collects the states of a few episodes with its noise, and draws many actions
at each.

    python sac_flow_g.py --env-id Hopper-v4
    python scripts/action_spread.py runs                                 # every checkpoint.pt below
    python scripts/action_spread.py runs/one --script old/sac_flow_g.py  # a run of another version of the script

Columns of results/action_spread.csv, where rows of other runs stay:

    train_return     mean undiscounted return of the episodes, with the policy's noise
    action_std       standard deviation of the action at a state, in half-widths of the box
    start_std        the same from A_0 alone, sigma = 0: what is left of A_0's noise; 0 for a Gaussian
    at_bounds        share of action components within 2.5 % of the box's width of a bound
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from evaluate import load, make_actor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("run", "script", "env", "seed", "step", "train_return", "action_std", "start_std", "at_bounds")


@dataclass
class Args:
    roots: tyro.conf.Positional[list[Path]]
    """folders to search for runs, at any depth"""
    csv: Path = ROOT / "results" / "action_spread.csv"
    """file to write"""
    script: Path | None = None
    """the script that trained them (default: the one of its name in this repository)"""
    episodes: int = 3
    """episodes to collect states from"""
    states: int = 200
    """states to look at, evenly spaced over the episodes"""
    actions: int = 64
    """actions per state"""


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


@torch.no_grad()
def spread(args: Args, module, env, actor) -> dict[str, float]:
    generator, observations, returns = torch.Generator().manual_seed(0), [], []
    for episode in range(args.episodes):
        obs, _ = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            observations.append(torch.as_tensor(obs, dtype=torch.float32))
            action = actor.act(observations[-1][None], actor.draw_noise(1, generator))[0].numpy()
            obs, reward, terminated, truncated, _ = env.step(module.into_box(action, env.action_space))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    chosen = np.linspace(0, len(observations) - 1, min(args.states, len(observations))).astype(int)
    obs = torch.stack([observations[i] for i in chosen]).repeat_interleave(args.actions, dim=0)
    noise = actor.draw_noise(len(obs), generator)
    noisy, clean = (
        ((actor.act(obs, noise, deterministic=flag) - actor.bias) / actor.scale).view(len(chosen), args.actions, -1)
        for flag in (False, True)
    )
    row = {"train_return": np.mean(returns), "action_std": noisy.std(1).mean(), "start_std": clean.std(1).mean()}
    row["at_bounds"] = (noisy.abs() > 0.95).float().mean()
    return {name: float(value) for name, value in row.items()}


def main(args: Args):
    models = sorted(path for root in args.roots for path in root.rglob("checkpoint.pt"))
    require(len(models) > 0, f"{' '.join(map(str, args.roots))}: no run with its checkpoint.pt there")
    loaded, rows = [], []
    for path in models:  # all, before the first is looked at
        state, module = load(path.parent, args.script)
        flags = module.Args(**state["args"])
        env = module.make_env(flags)
        shapes = env.observation_space.shape[0], env.action_space, flags
        actor = make_actor(module, state, torch.device("cpu"), *shapes)
        row = {"run": path.parent.name, "script": path.parent.name.split("__")[1], "env": flags.env_id}
        loaded.append((row | {"seed": str(flags.seed), "step": state["counters"][0]}, module, env, actor))
    for row, *policy in tqdm(loaded, disable=not sys.stderr.isatty()):
        rows.append(row | {key: f"{value:.4g}" for key, value in spread(args, *policy).items()})
        print("  ".join(f"{key} {rows[-1][key]}" for key in COLUMNS if key != "run"))
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    if args.csv.exists():
        with open(args.csv, newline="") as file:
            new = {row["run"] for row in rows}
            rows += [row for row in csv.DictReader(file) if row["run"] not in new]
    with open(args.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["run"]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
