"""What the checkpoints of a Humanoid-v4 run cost at the default sizes and frequency, over its first 100 000 steps.

Its transitions are synthetic. A checkpoint writes the networks and optimizers whole, and of the replay buffer what came
since the last one. The disk's own time is that of writing the same transitions alone to a plain file, right before it.

    python scripts/checkpoint_cost.py    # table in results/checkpoint_cost.csv; takes 1 GiB of memory and of the disk

The exit code is 1 if checkpoints took more than .3 s beyond the disk's own time on average, or if memory grew by more
than 8 MiB from the second to the last.
"""

import argparse
import csv
import os
import shutil
import sys
import tempfile
import time
import zlib
from dataclasses import asdict
from pathlib import Path

import psutil
import torch
from benchmark import commit, provenance

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import sac_flow_g as script  # noqa: E402

STEPS, SECONDS, MEMORY = 100_000, 0.3, 8


def networks(args, env) -> dict:
    """The parts of a checkpoint, with moments in every optimizer."""
    obs_dim, box = env.observation_space.shape[0], env.action_space
    parts = {"actor": script.Actor(obs_dim, box, args)}
    parts["critic"] = script.Critic(obs_dim, box.shape[0], args.critic_hidden_dim, args.crossq)
    parts["temperature"] = torch.nn.ParameterDict({"log_alpha": torch.zeros(())})
    for name, part in [*parts.items()]:
        parts[name + "_optimizer"] = optimizer = torch.optim.Adam(part.parameters(), fused=True)
        for parameter in part.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return parts


def seconds_of_disk(file: Path, rows: torch.Tensor) -> float:
    began = time.perf_counter()
    with open(file, "ab") as out:
        out.write(rows.numpy())
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write the checkpoints (default: the temporary folder)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "checkpoint_cost.csv")
    options = parser.parse_args()
    args, table, process = script.Args(), [], psutil.Process()
    env = script.make_env(args)
    box, generator = env.action_space, torch.Generator()
    buffer = script.ReplayBuffer(args.buffer_size, env.observation_space.shape[0], box.shape[0], torch.device("cpu"))
    buffer.rows[:STEPS].uniform_()
    parts, every = networks(args, env), args.checkpoint_frequency
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    replay = open(folder / "replay.bin", "ab")  # noqa: SIM115
    for step in range(every, STEPS + 1, every):
        disk = seconds_of_disk(folder / "plain", buffer.rows[step - every : step])
        rows = buffer.rows[step - every : step].numpy()
        buffer.count, buffer.crc = step, zlib.crc32(rows, buffer.crc)
        replay.write(rows)
        began, worked = time.perf_counter(), time.process_time()
        script.require_finite(step, {name: script.total(part) for name, part in parts.items()})
        state = {name: part.state_dict() for name, part in parts.items()} | {"args": asdict(args)}
        state |= {"generator": generator.get_state(), "box": box.np_random.bit_generator.state}
        state |= {"counters": (step, 0, 0, 0.0, {}, True), "crc": buffer.crc}
        script.save_checkpoint(str(folder), state, replay)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        written = every * 4 * buffer.rows.shape[1] + (folder / "checkpoint.pt").stat().st_size
        row = {"step": step, "mib": written / 2**20, "seconds": seconds, "seconds_of_the_disk": disk}
        row |= {"cpu_seconds": worked, "resident_mib": process.memory_info().rss / 2**20}
        table.append(row)
    began = time.perf_counter()
    script.restore(str(folder), script.load_checkpoint(str(folder)), parts, buffer, generator)
    size = sum((folder / name).stat().st_size for name in ("replay.bin", "checkpoint.pt")) / 2**30
    print(f"{size:.2f} GiB, read in {time.perf_counter() - began:.1f} s")
    shutil.rmtree(folder)
    options.output.parent.mkdir(exist_ok=True)
    with open(options.output, "w", newline="") as file:
        rows = [{"step": row.pop("step")} | {name: f"{value:.3f}" for name, value in row.items()} for row in table]
        writer = csv.DictWriter(file, (rows[0] | provenance() | {"git": commit()}).keys())
        writer.writeheader()
        writer.writerows(row | provenance() | {"git": commit()} for row in rows)
    mean = {name: sum(row[name] for row in table) / len(table) for name in ("mib", "seconds", "seconds_of_the_disk")}
    beyond = mean["seconds"] - mean["seconds_of_the_disk"]
    growth = table[-1]["resident_mib"] - table[1]["resident_mib"]
    print(f"{mean['mib']:.0f} MiB in {mean['seconds']:.2f} s on average, {beyond:.2f} s beyond the disk's own time")
    print(f"memory: {growth:+.1f} MiB from the second to the last")
    for speed in (20, 100, 1000):
        print(f"at {speed} steps/s {100 * mean['seconds'] * speed / every:.3f} %")
    return int(beyond > SECONDS or growth > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
