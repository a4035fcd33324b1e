"""A point among equal goals: where a policy of several modes must show.

The point starts near the origin of the plane and moves by at most half a unit per step in each direction. Four goals
lie five units away along the axes, all alike, so that a policy that maximises entropy goes to each of them a quarter of
the time; a Gaussian, whose action at the origin has one mode, can choose between them by its noise alone.
After Haarnoja et al., "Reinforcement Learning with Deep Energy-Based Policies", ICML 2017.

    export PYTHONPATH=scripts    # lets Gymnasium find the task by its id
    python sac_flow_g.py --env-id multigoal:MultiGoal-v0 --total-timesteps 20000 --learning-starts 1000 \\
        --critic-hidden-dim 256 --batch-size 256
    python scripts/multigoal.py runs                  # every run of the task below: CSV files and picture
    python scripts/multigoal.py --figures-only        # the picture from the CSV files

results/multigoal.csv has the share of each goal over the episodes with the policy's noise and without it, and
results/multigoal_paths.csv what is drawn, of the first seeds: the paths of some episodes and actions at the origin.
Calling it again replaces the rows of the same script, seed, steps and temperature; rows of other runs stay.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
GOALS = np.array([[5, 0], [0, 5], [-5, 0], [0, -5]], dtype=np.float32)
NAMES = ("east", "north", "west", "south")
TABLES = ("multigoal.csv", "multigoal_paths.csv")
LABELS = {"sac_gaussian": "Gaussian", "sac_flow_naive": "Naive flow", "sac_flow_g": "Flow-G", "sac_flow_t": "Flow-T"}


class MultiGoal(gym.Env):
    """Observation: the position (2,), in units. Action: the step (2,), in half-units. Reward: minus a fifth of the
    distance to the nearest goal, which is reached within one unit. The plane ends at 7 units. Time limit: 30 steps.

    Nothing terminates: an end would take the entropy of all later steps from the policy, and goals would be avoided."""

    metadata = {"render_modes": []}

    def __init__(self, render_mode: str | None = None):
        self.observation_space = gym.spaces.Box(-7, 7, (2,))
        self.action_space = gym.spaces.Box(-1, 1, (2,))
        self.position = np.zeros(2, dtype=np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.normal(0, 0.1, 2).astype(np.float32)
        return self.position.copy(), {}

    def step(self, action):
        self.position = np.clip(self.position + 0.5 * np.asarray(action, np.float32), -7, 7)
        distances = np.linalg.norm(GOALS - self.position, axis=1)
        goal = int(distances.argmin()) if distances.min() < 1 else -1
        return self.position.copy(), float(-0.2 * distances.min()), False, False, {"goal": goal}


gym.register("MultiGoal-v0", MultiGoal, max_episode_steps=30)


@dataclass
class Args:
    roots: tyro.conf.Positional[list[Path]] = field(default_factory=lambda: [Path("runs")])
    """folders to search for runs, at any depth"""
    out: Path = ROOT / "results"
    """folder for the CSV files; the picture goes to its folder figures"""
    episodes: int = 200
    """episodes per run, with noise and without"""
    figures_only: bool = False
    """draw from the CSV files"""


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def label_of(run: Path) -> str:
    """The second part of a run's name; "" where somebody renamed the folder."""
    return run.name.partition("__")[2].partition("__")[0]


def roll(actor, episodes: int, deterministic: bool):
    """Paths (episodes, 31, 2), and the goal of each or -1."""
    import torch

    envs = [gym.make("MultiGoal-v0") for _ in range(episodes)]
    generator = torch.Generator().manual_seed(0)
    obs = np.stack([env.reset(seed=i)[0] for i, env in enumerate(envs)])
    paths, goals = [obs.copy()], np.full(episodes, -1)
    for _ in range(envs[0].spec.max_episode_steps):
        with torch.no_grad():
            noise = actor.draw_noise(episodes, generator)
            actions = actor.act(torch.as_tensor(obs), noise, deterministic=deterministic).numpy().clip(-1, 1)
        for i, env in enumerate(envs):
            obs[i], *_, info = env.step(actions[i])
            goals[i] = info["goal"]
        paths.append(obs.copy())
    return np.stack(paths, axis=1), goals


def measure(args: Args):
    """Measure every run below the folders, and bring the CSV files up to date."""
    import pandas as pd
    import torch
    from evaluate import load, make_actor

    models = [path for root in args.roots for path in sorted(root.rglob("checkpoint.pt"))]
    models = [path for path in models if "MultiGoal" in path.parent.name]
    for path in [path for path in models if label_of(path.parent) not in LABELS]:
        print(f"left out, its name is none of {', '.join(LABELS)}: {path.parent}")
        models.remove(path)
    require(len(models) > 0, f"{' '.join(map(str, args.roots))}: no run of MultiGoal-v0 with its checkpoint.pt there")
    shares, drawn = [], []
    for path in models:
        state, module = load(path.parent, None)
        run = module.Args(**state["args"])
        actor = make_actor(module, state, torch.device("cpu"), 2, MultiGoal().action_space, run)
        key = {"script": label_of(path.parent), "seed": run.seed, "step": state["counters"][0]}
        key |= {"alpha": run.alpha, "autotune": run.autotune, "run": path.parent.name}
        versions = {f"versions/{module.__name__}": module.__version__ for module in (torch, gym, np)}
        for noise in (True, False):
            paths, goals = roll(actor, args.episodes, deterministic=not noise)
            row = {name: f"{np.mean(goals == i):.3f}" for i, name in enumerate(NAMES)}
            row = key | {"noise": int(noise)} | row | {"none": f"{np.mean(goals < 0):.3f}"}
            shares.append(row | versions)
            print("  ".join(f"{name} {value}" for name, value in row.items() if name != "run"))
            for episode, points in enumerate(paths[:40] if noise else ()):
                for k, (x, y) in enumerate(points):
                    drawn.append({"run": key["run"], "kind": "path", "episode": episode, "k": k, "x": x, "y": y})
        with torch.no_grad():
            noise = actor.draw_noise(1000, torch.Generator().manual_seed(0))
            for k, (x, y) in enumerate(actor.act(torch.zeros(1000, 2), noise).numpy()):
                drawn.append({"run": key["run"], "kind": "action", "episode": 0, "k": k, "x": x, "y": y})
    args.out.mkdir(parents=True, exist_ok=True)
    shares, drawn = pd.DataFrame(shares), pd.DataFrame(drawn)
    tables = [args.out / name for name in TABLES]
    if all(table.is_file() for table in tables):
        old, paths = map(pd.read_csv, tables)
        same = ["script", "seed", "step", "alpha", "autotune"]
        mine = set(shares[same].itertuples(index=False, name=None))
        kept = np.array([row not in mine for row in old[same].itertuples(index=False, name=None)])
        kept &= ~old.run.isin(shares.run)  # a run that went on has other steps
        shares, drawn = pd.concat([old[kept], shares]), pd.concat([paths[paths.run.isin(old[kept].run)], drawn])
    shares = shares.sort_values(["autotune", "alpha", "script", "seed", "noise"], ascending=[False, *[True] * 3, False])
    first = shares.sort_values("seed").groupby(["script", "alpha", "autotune"]).run.first()
    shares.to_csv(tables[0], index=False)
    drawn[drawn.run.isin(first)].to_csv(tables[1], index=False, float_format="%.3f")


def title(held: float, separator: str = ", ") -> str:
    return f"{separator}temperature held at {held:g}" if held else ""


def draw(args: Args):
    """The first seed per script and temperature: paths, and actions at the origin. Prints all shares as Markdown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    tables = [args.out / name for name in TABLES]
    for table in tables:
        require(table.is_file(), f"--out {args.out}: no {table.name} there; measure first, without --figures-only")
    shares, drawn = map(pd.read_csv, tables)
    shares = shares[shares.noise == 1].sort_values("seed")
    shares["held"] = shares.alpha.where(~shares.autotune, 0)  # 0: adapted, from another start in each script
    scripts, arms = [script for script in LABELS if (shares.script == script).any()], sorted(shares.held.unique())
    print(f"| with the policy's noise | {' | '.join(NAMES)} | none |\n|{'---|' * (len(NAMES) + 2)}")
    for held in arms:
        for script in scripts:
            for _, row in shares[(shares.script == script) & (shares.held == held)].iterrows():
                cells = " | ".join(f"{row[name]:.0%}" for name in (*NAMES, "none"))
                print(f"| {LABELS[script]}{title(held)}, seed {row.seed} | {cells} |")
    print()
    with plt.rc_context({"font.size": 8, "axes.titlesize": 9, "savefig.dpi": 200, "svg.hashsalt": "sac-flow"}):
        size = (2.3 * len(scripts), 4.9 * len(arms))
        fig, axes = plt.subplots(2 * len(arms), len(scripts), figsize=size, squeeze=False, layout="constrained")
        for held, *rows in zip(arms, axes[::2], axes[1::2], strict=True):
            for script, top, bottom in zip(scripts, *rows, strict=True):
                mine = shares[(shares.script == script) & (shares.held == held)]
                if len(mine) == 0:
                    top.axis("off")
                    bottom.axis("off")
                    continue
                first, points = mine.iloc[0], drawn[drawn.run == mine.run.iloc[0]]
                for _, path in points[points.kind == "path"].groupby("episode"):
                    top.plot(path.x, path.y, color="#0072b2", alpha=0.35, linewidth=0.7)
                top.plot(*GOALS.T, "o", color="#d55e00", markersize=6)
                for name, (x, y) in zip(NAMES, GOALS, strict=True):
                    place = (0.78 * x, 0.78 * y + (0.9 if y == 0 else 0))
                    top.annotate(f"{first[name]:.0%}", (x, y), place, ha="center", va="center")
                heading = f"{LABELS[script]}, seed {first.seed}" + title(held, separator=",\n")
                top.set(title=heading, xlim=(-7, 7), ylim=(-7, 7), aspect="equal")
                actions = points[points.kind == "action"]
                bottom.scatter(actions.x, actions.y, s=2, alpha=0.3, color="#0072b2", linewidths=0, rasterized=True)
                bottom.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
            rows[0][0].set_ylabel("position, 40 episodes")
            rows[1][0].set_ylabel("1000 actions at the origin")
        for suffix in ("svg", "png"):
            path = args.out / "figures" / f"multigoal.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            fig.savefig(path, metadata={"Date": None} if suffix == "svg" else None)
            print(path)


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    if not args.figures_only:
        measure(args)
    draw(args)
