"""Resident memory of a small run at every tenth of its steps: 24 hours' worth of steps in miniature must not need more.

The replay buffer is full at the first sample. Evaluations, logging and checkpoints are as frequent as samples or more.

    python scripts/memory_test.py                            # table in results/memory.csv
    python scripts/memory_test.py --script sac_flow_t.py --steps 400000

The exit code is 1 if memory has grown by more than the tolerance between the first and the last sample.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from benchmark import commit, provenance

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 8  # MiB, 2 % of what such a run needs
FLAGS = "--env-id InvertedPendulum-v4 --learning-starts 1000 --batch-size 16 --buffer-size 10000 --critic-hidden-dim 16"
FLAGS += " --eval-episodes 2 --log-frequency 200 --device cpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", default="sac_flow_g.py")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "memory.csv")
    parser.add_argument("flags", nargs="*", help="further flags of the script, after --")
    args = parser.parse_args()
    rows, every = [], args.steps // 10
    flags = f"{FLAGS} --total-timesteps {args.steps} --checkpoint-frequency {every} --eval-frequency {every // 4}"
    narrow = ["--d-model", "16"] if "flow_t" in args.script else ["--hidden-dim", "16"]
    with tempfile.TemporaryDirectory(prefix="memory-test-") as folder:
        command = [sys.executable, ROOT / args.script, *flags.split(), *narrow, *args.flags, "--run-dir", folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout:
            found = re.match(r"step (\d+)/\d+  eval return", line)
            if found and int(found[1]) % every == 0:
                memory = psutil.Process(process.pid).memory_info().rss / 2**20
                rows.append({"step": int(found[1]), "resident_mib": f"{memory:.1f}"})
                print(rows[-1], flush=True)
        if process.wait():
            sys.exit(f"{args.script} ends with {process.returncode}")
    args.output.parent.mkdir(exist_ok=True)
    with open(args.output, "w", newline="") as file:
        rows = [row | provenance() | {"git": commit()} for row in rows]
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    growth = float(rows[-1]["resident_mib"]) - float(rows[0]["resident_mib"])
    print(f"{growth:+.1f} MiB from step {rows[0]['step']} to step {rows[-1]['step']}; tolerated {TOLERANCE}")
    return growth > TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
