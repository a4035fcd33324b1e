"""When OGBench's own oracle solves cube-single: what two ways of counting success say for every step limit.

A state first solved behind step n is a success within L steps where n <= L, as the scripts of offline_to_online/ count,
and where n < L, as OGBench does, which asks for the state before a step.

    python scripts/success_count.py                # table in results/success_count.csv
    python scripts/success_count.py --episodes 10 --csv runs/success_count.csv
"""

import csv
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
ENV_ID = "cube-single-play-singletask-task1-v0"


@dataclass
class Args:
    episodes: int = 100
    """of seeds 0, 1, ..."""
    csv: Path = ROOT / "results" / "success_count.csv"
    """file to write"""


def oracle_episode(env: gym.Env, seed: int) -> tuple[int, bool, bool]:
    """By the oracle of states with noise: the number of steps, terminated and success of the last one."""
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

    obs, info = env.reset(seed=seed)
    random, core = np.random.default_rng(seed), env.unwrapped
    np.random.seed(seed)  # the oracle draws from the global generator
    oracle = CubeMarkovOracle(env=env)
    oracle.reset(obs, info)
    target = {"block": 0, "block_pos": core._data.mocap_pos[0].copy(), "block_yaw": np.zeros(1)}
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        seen = info | {f"privileged/target_{key}": value for key, value in target.items()}
        action = np.clip(oracle.select_action(obs, seen) + 0.1 * random.normal(size=5), -1, 1)
        obs, _, terminated, truncated, info = env.step(action)
        steps += 1
    return steps, terminated, info["success"]


def main(args: Args) -> int:
    spec = importlib.util.spec_from_file_location("o2o", ROOT / "offline_to_online" / "sac_flow_g.py")
    module = sys.modules["o2o"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    env, rows = module.make_env(module.with_presets(module.Args(env_id=ENV_ID, success_timing="post"))), []
    for seed in range(args.episodes):
        steps, terminated, _ = oracle_episode(env, seed)  # it ends with the step that solves
        rows.append([ENV_ID, seed, steps if terminated else "", gym.__version__, mujoco.__version__, np.__version__])
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with open(args.csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = ["env", "seed", "solved", "versions/gymnasium", "versions/mujoco", "versions/numpy"]
        writer.writerows([heads, *rows])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Args, description=__doc__)))
