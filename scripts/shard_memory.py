"""Peak memory of pretraining on a folder of shards as large as OGBench's cube-quadruple-play-100m: 100 of 1M rows.

One shard of noise in the official layout is written, and linked under a hundred names: the reader sees 100M rows, the
disk holds one. Every shard is loaded once.

    python scripts/shard_memory.py                           # table in results/shard_memory.csv
    python scripts/shard_memory.py --rows 10010 --shards 5

The exit code is 1 if the run ever needed more than 8 GiB.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmark import commit, provenance

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 8.0  # GiB
EPISODE = 1001  # rows
WIDTHS = {"observations": 55, "actions": 5, "qpos": 42, "qvel": 38}  # of cube-quadruple


def write_shards(folder: Path, rows: int, shards: int):
    """Hard links of one .npz file and its -val.npz, under as many names as there are shards."""
    random = np.random.default_rng(0)
    for end, count in (("", rows), ("-val", EPISODE)):
        arrays = {name: random.uniform(-1, 1, (count, width)).astype(np.float32) for name, width in WIDTHS.items()}
        first = folder / f"cube-quadruple-play-v0-000{end}.npz"
        np.savez(first, terminals=np.arange(count) % EPISODE == EPISODE - 1, **arrays)
        for i in range(1, shards):
            os.link(first, folder / f"cube-quadruple-play-v0-{i:03}{end}.npz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", default="offline_to_online/sac_flow_g.py")
    parser.add_argument("--rows", type=int, default=999 * EPISODE, help="of a shard, whole episodes of 1001")
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "shard_memory.csv")
    args = parser.parse_args()
    if args.rows % EPISODE or min(args.rows, args.shards) < 1:
        parser.error(f"--rows {args.rows} --shards {args.shards}: choose a multiple of {EPISODE} and a shard or more")
    with tempfile.TemporaryDirectory(prefix="shards-") as temporary:
        folder = Path(temporary)
        write_shards(folder, args.rows, args.shards)
        command = [sys.executable, ROOT / args.script, "--env-id", "cube-quadruple-play-singletask-task1-v0"]
        command += ["--dataset-path", folder, "--run-dir", folder / "runs", "--no-compile", "--eval-frequency", "0"]
        command += ["--shard-steps", "2", "--offline-steps", str(2 * args.shards), "--total-timesteps", "0"]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    row = {"script": args.script, "shards": args.shards, "rows": args.rows * args.shards, "peak_gib": f"{peak:.2f}"}
    args.output.parent.mkdir(exist_ok=True)
    with open(args.output, "w", newline="") as file:
        row |= provenance() | {"git": commit()}
        table = csv.DictWriter(file, row.keys())
        table.writeheader()
        table.writerow(row)
    print(f"{row['rows']} rows in {args.shards} shards: at most {peak:.2f} GiB; allowed {LIMIT:g}")
    return peak > LIMIT


if __name__ == "__main__":
    sys.exit(main())
