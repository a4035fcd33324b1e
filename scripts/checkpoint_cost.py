"""Size and time of the checkpoints of a Humanoid-v4 run at the default sizes and frequency.

Its transitions are synthetic. A checkpoint writes the networks and optimizers whole, and of the replay buffer what came
since the last one.

    python scripts/checkpoint_cost.py    # table in results/checkpoint_cost.csv; takes 4 GiB of memory
"""

import argparse
import csv
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmark import commit, provenance

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import sac_flow_g as script  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write the checkpoints (default: the temporary folder)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "checkpoint_cost.csv")
    options = parser.parse_args()
    args, rows, segments, lines = script.Args(), [], [], []
    env = script.make_env(args)
    obs = env.reset(seed=0)[0]
    buffer = script.ReplayBuffer(args.buffer_size, len(obs), env.action_space.shape[0], torch.device("cpu"))
    buffer.rows.uniform_()
    actor = script.Actor(len(obs), env.action_space, args)
    critic = script.Critic(len(obs), env.action_space.shape[0], args.critic_hidden_dim, args.crossq)
    parts = {"actor": actor, "critic": critic}
    for name, part in [*parts.items()]:
        parts[name + "_optimizer"] = optimizer = torch.optim.Adam(part.parameters(), fused=True)
        for parameter in part.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    script.say = lines.append
    for step in range(args.checkpoint_frequency, args.total_timesteps + 1, args.checkpoint_frequency):
        buffer.count = step
        state = {name: part.state_dict() for name, part in parts.items()} | {
            "args": vars(args),
            "obs": torch.tensor(obs),
        }
        began, worked = time.perf_counter(), time.process_time()
        segments = script.save_checkpoint(str(folder), state | {"env": script.capture_env(env)}, buffer, segments)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        mib = float(re.search(r"checkpoint: ([\d.]+) MiB", lines[-1])[1])
        rows.append({"step": step, "mib": mib, "seconds": f"{seconds:.2f}", "cpu_seconds": f"{worked:.2f}"})
    began = time.perf_counter()
    for name, end, digest in segments:
        buffer.write(end, script.read_file(str(folder), name, digest).view("float32").reshape(-1, buffer.rows.shape[1]))
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**30
    print(f"{size:.2f} GiB, read in {time.perf_counter() - began:.1f} s")
    shutil.rmtree(folder)
    options.output.parent.mkdir(exist_ok=True)
    with open(options.output, "w", newline="") as file:
        rows = [row | provenance() | {"git": commit()} for row in rows]
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    mean = sum(float(row["seconds"]) for row in rows) / len(rows)
    print(f"{rows[-1]['mib']:.0f} MiB in {mean:.2f} s on average, of {args.checkpoint_frequency} steps' time")
    for speed in (20, 100, 1000):
        print(f"at {speed} steps/s {100 * mean * speed / args.checkpoint_frequency:.3f} %")


if __name__ == "__main__":
    main()
