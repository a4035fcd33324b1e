"""SBX's CrossQ with narrow critics, with and without BatchRenorm's correction: is it this code that cannot bear it?

    python3.11 -m venv peers
    peers/bin/pip install -r requirements.txt -r scripts/requirements-peers.txt
    peers/bin/python scripts/sbx_renorm.py --csv runs/sbx_renorm.csv  # corrects after 100 000 updates
    peers/bin/python scripts/sbx_renorm.py --csv runs/sbx_renorm.csv --renorm-warmup 1000000000  # never

Everything is SBX's default but the critics' width and 5000 random steps, as at the small size here. The same seed is
the same run up to the first correction. Rows are added: one per episode of training (`train`) and per evaluation.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # one core
from sbx import CrossQ  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402


@dataclass
class Args:
    csv: Path  # table that rows are added to
    env_id: str = "Humanoid-v4"  # task
    seed: int = 1  # seed of the run
    renorm_warmup: int = 100_000  # updates before BatchRenorm corrects
    total_timesteps: int = 130_000  # environment steps
    hidden_dim: int = 256  # width of the critics
    eval_frequency: int = 5000  # environment steps between evaluations
    eval_episodes: int = 5  # episodes of an evaluation


class Table(BaseCallback):
    """Writes returns as they come."""

    def __init__(self, writer, args: Args):
        super().__init__()
        self.writer, self.args, self.env = writer, args, gym.make(args.env_id)

    def row(self, kind: str, value: float, std: float | str):
        args = self.args
        self.writer.writerow([args.env_id, args.seed, args.renorm_warmup, kind, self.num_timesteps, value, std])

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.row("train", info["episode"]["r"], "")
        if self.num_timesteps % self.args.eval_frequency == 0:
            self.env.reset(seed=10_000 + self.args.seed)
            options = {"n_eval_episodes": self.args.eval_episodes, "return_episode_rewards": True, "warn": False}
            returns, _ = evaluate_policy(self.model, self.env, **options)
            self.row("eval", np.mean(returns), np.std(returns))
            print(f"step {self.num_timesteps}: {np.mean(returns):.0f} ± {np.std(returns):.0f}", flush=True)
        return True


def main(args: Args):
    new = not args.csv.exists()
    with args.csv.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["env", "seed", "renorm_warmup", "kind", "step", "return", "return_std"])
        widths = {"pi": [256, 256], "qf": [args.hidden_dim] * 2}
        policy = {"net_arch": widths, "renorm_warmup_steps": args.renorm_warmup}
        model = CrossQ("MlpPolicy", args.env_id, seed=args.seed, learning_starts=5000, policy_kwargs=policy)
        model.learn(args.total_timesteps, callback=Table(writer, args))


if __name__ == "__main__":
    main(tyro.cli(Args))
