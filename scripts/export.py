"""Run folders to one tidy CSV file: one row per run and evaluation.

    python scripts/export.py                                     # runs/ -> runs/runs.csv
    python scripts/export.py runs /data/more-runs --csv runs/humanoid.csv

Calling it again reads only runs whose event files have grown. Rows of runs that are no longer in the folders stay: to
start over, delete the file. Folders named `aborted` are passed over (scripts/sweep.sh keeps restarted runs there).

    run, script, env, seed   name of the run's folder, --exp-name, --env-id, --seed
    step                     environment steps at the evaluation; of offline to online, updates on the data before them
    finished                 1 where the run reached its last step; a run killed half-way is exported as far as it came
    train_return             mean return of the train_episodes training episodes that ended since the row before
    eval_return              mean return of the evaluation's episodes, eval_return_std their standard deviation
    steps_per_second         steps since the row before over the time that training took, evaluation not counted
    losses/..., policy/...,  mean since the row before, under the name of the TensorBoard tag; losses/alpha is the
    gradients/step_k         temperature, gradients/step_k the gradient norm at A_k
    total_timesteps ...      the run's other flags; empty where the script does not have the flag
    versions/...             of libraries, Python, the git commit, and the device
    bytes                    size of the run's event files when they were read

Exit codes: 0, 1 if a run could not be read (the others are exported), 2 for bad input.
"""

import csv
import os
import re
import statistics
import sys
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

KEYS = ("run", "script", "env", "seed", "step", "finished")
RETURNS = ("train_return", "train_episodes", "eval_return", "eval_return_std", "steps_per_second")
RENAMED = {"charts/SPS": "steps_per_second", "eval/episodic_return": "eval_return"}
RENAMED |= {"charts/episodic_return": "train_return", "eval/episodic_return_std": "eval_return_std"}
# Flags that do not change what is measured.
NOT_RESULTS = {"run_dir", "save_model", "capture_video", "track", "wandb_project_name", "wandb_entity"}
NOT_RESULTS |= {"checkpoint_frequency", "resume", "eval_only"}


@dataclass
class Args:
    roots: tyro.conf.Positional[list[Path]] = field(default_factory=lambda: [Path("runs")])
    """folders to search for runs, at any depth"""
    csv: Path = Path("runs/runs.csv")
    """file to write or to bring up to date"""
    progress: bool = True
    """show a progress bar"""


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def find_runs(roots: list[Path]) -> list[Path]:
    """Folders that hold event files, in a fixed order and each once, even where the roots overlap."""
    found = {}
    for root in roots:
        for folder, subfolders, files in os.walk(root):
            subfolders[:] = sorted(name for name in subfolders if name != "aborted")
            if any(name.startswith("events.out.tfevents") for name in files):
                found.setdefault(os.path.realpath(folder), Path(os.path.abspath(folder)))  # "." has no name
    return list(found.values())


def event_bytes(run: Path) -> str:
    return str(sum(file.stat().st_size for file in run.glob("events.out.tfevents*")))


def read_table(events: EventAccumulator, title: str) -> dict[str, str]:
    """The Markdown table that a run writes as TensorBoard text. A resumed run may write it again: the last counts."""
    tag = f"{title}/text_summary"
    if tag not in events.Tags()["tensors"]:
        raise ValueError(f"no {title} in it")
    text = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    return dict(line[1:-1].split("|", 1) for line in text.splitlines()[2:])


def read_scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    """(step, value) in order. Where a run was resumed from an older step, what it had written beyond is dropped."""
    series = []
    for event in sorted(events.Scalars(tag), key=lambda event: event.wall_time):
        while series and series[-1][0] >= event.step:
            series.pop()
        series.append((event.step, event.value))
    return series


def read_run(run: Path) -> list[dict[str, str]]:
    """The run's rows. Raises ValueError or OSError where it has none to give."""
    size = event_bytes(run)  # before reading: what is written meanwhile is found the next time
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    series = {tag: read_scalars(events, tag) for tag in events.Tags()["scalars"]}
    flags, versions = read_table(events, "hyperparameters"), read_table(events, "versions")
    if not series:
        return []  # it has just begun, or died before its first log

    # Rows: at every evaluation, one before the first step too, at the end of pretraining, and at the run's end.
    total = int(flags["total_timesteps"]) + int(flags.get("offline_steps", 0))
    every, last = int(flags["eval_frequency"]) or 10_000, max(points[-1][0] for points in series.values())
    evaluated = max((points[-1][0] for tag, points in series.items() if tag.startswith("eval/")), default=0)
    # The last step is always logged, and evaluated behind that.
    finished = last == total and (evaluated == total or flags["eval_frequency"] == "0")
    between = {int(flags.get("offline_steps", 0))} | ({total} if finished else set())
    evaluations = {step for tag, points in series.items() if tag.startswith("eval/") for step, _ in points}
    due = set(range(every, last + 1, every))
    if evaluations and not {step for step in due if step <= evaluated} <= evaluations:
        due = evaluations  # ReinFlow's, at the end of an iteration
    steps = sorted({step for step in due | between if 0 < step <= last})
    if 0 in evaluations:
        steps.insert(0, 0)
    keys = {"run": run.name, "script": flags.pop("exp_name"), "env": flags.pop("env_id"), "seed": flags.pop("seed")}
    constant = {name: value for name, value in flags.items() if name not in NOT_RESULTS}
    constant |= {f"versions/{name}": value for name, value in versions.items()} | {"bytes": size}
    commit, dash, dirty = constant.get("versions/git", "").partition("-")  # HASH-dirty: files differ from the commit
    constant["versions/git"] = commit[:12] + dash + dirty
    if "dataset_path" in constant:  # where a file lies is no result
        constant["dataset_path"] = os.path.basename(os.path.normpath(constant["dataset_path"]))
    rows = []
    for start, step in zip([-1 if steps[:1] == [0] else 0, *steps], steps, strict=False):
        row = keys | {"step": str(step), "finished": str(int(finished))}
        for tag, points in series.items():
            # Points are in order of steps: a scan of all for every row took minutes for 200 000 episodes.
            first, end = (bisect_right(points, edge, key=lambda point: point[0]) for edge in (start, step))
            values = [value for _, value in points[first:end]]
            if tag.startswith("eval/"):
                values = values[-1:]  # a run that was prolonged has one of its earlier end as well
            if values:
                # Steps per second of equal windows average harmonically: all the steps over all the time.
                mean = statistics.harmonic_mean if tag == "charts/SPS" else statistics.fmean
                row[RENAMED.get(tag, tag)] = f"{mean(values):.6g}"
            if tag == "charts/episodic_return":
                row["train_episodes"] = str(len(values))
        rows.append(row | constant)
    return rows


def natural(name: str) -> list:
    """Sorts step_10 behind step_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def columns(rows: list[dict[str, str]]) -> list[str]:
    """Keys, returns, tags, flags, versions: scripts that differ in their flags share one table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    rest = [name for name in names if name not in {*KEYS, *RETURNS, "bytes"}]
    tags = sorted((name for name in rest if "/" in name and not name.startswith("versions/")), key=natural)
    versions = [name for name in rest if name.startswith("versions/")]
    return [*KEYS, *RETURNS, *tags, *(name for name in rest if "/" not in name), *versions, "bytes"]


def write_csv(path: Path, rows: list[dict[str, str]]):
    """Beside the old file first, then in its place: a reader never sees half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns(rows), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(args: Args) -> int:
    for root in args.roots:
        require(root.is_dir(), f"{root}: no such folder; name the folders that hold the runs")
    require(not args.csv.is_dir(), f"--csv {args.csv}: a folder; name a file")
    known = defaultdict(list)  # name of the run -> its rows
    if args.csv.exists():
        with open(args.csv, newline="") as file:
            reader = csv.DictReader(file)
            problem = f"--csv {args.csv}: not written by this script; choose another name"
            require({*KEYS, "bytes"} <= set(reader.fieldnames or ()), problem)
            for row in reader:
                known[row["run"]].append({name: value for name, value in row.items() if value})

    runs, seen, failed, read = find_runs(args.roots), {}, 0, 0
    with tqdm(runs, unit="run", disable=not (args.progress and sys.stderr.isatty())) as progress:
        for run in progress:
            progress.set_description(run.name)
            try:
                if run.name in seen:
                    raise ValueError(f"{seen[run.name]} has the same name; rename one of them")
                seen[run.name] = run
                if run.name in known and known[run.name][0]["bytes"] == event_bytes(run):
                    continue
                rows = read_run(run)
                read += 1
                if rows:  # else it has not come to its first evaluation
                    known[run.name] = rows
            except Exception as error:  # whatever a damaged file raises in the parser: one bad run costs only itself
                failed += 1
                tqdm.write(f"unreadable: {run}: {str(error) or type(error).__name__}", file=sys.stderr)

    rows = [row for rows in known.values() for row in rows]
    rows.sort(key=lambda row: (row["env"], row["script"], int(row["seed"]), row["run"], int(row["step"])))
    if read:
        try:
            write_csv(args.csv, rows)
        except OSError as error:
            require(False, f"--csv {args.csv}: {error.strerror}; choose a file that can be written")
    ended = sum(rows[0]["finished"] == "1" for rows in known.values())
    state = f"{len(known)} runs, {ended} finished, {len(known) - ended} not; {read} read now, {failed} unreadable"
    print(f"{args.csv}: {state}")
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Args, description=__doc__)))
