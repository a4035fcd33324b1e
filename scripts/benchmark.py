"""Time the trainers and the baselines, and print how much of the hardware the trainers use.

    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py                     # full size, Hopper and Humanoid
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/benchmark.py --small             # the small size, HalfCheetah
    python scripts/benchmark.py --variants compiled --scripts sac_flow_g --device cuda
    python scripts/benchmark.py --small --no-yardstick --processes 2               # two seeds side by side
    python scripts/benchmark.py --small --no-yardstick --scripts baselines/ppo baselines/qsm

Every row is a real training of a few hundred steps (acting, environment, replay buffer, update), timed by the script's
own charts/SPS after the compilation, and next to it, in the same minute, the rate of a 1024^3 matrix product. The floor
is the time that the update's matrix products take at that rate; the share is floor / measured. The FLOPs are counted
by torch.utils.flop_counter on the eager losses and their gradients. The yardstick is plain SAC in eager mode: 256-wide
networks without BatchRenorm, target networks, one actor update per critic update. Of the baselines only the time is
measured; a window of PPO's is a rollout with its update. The compilation's seconds are those of the first two windows
beyond a usual window's: near 0 where torch's cache on disk has the code from an earlier run.

Writes a CSV file (--csv) and prints a Markdown table. With one thread the figures are those of one core.
"""

import csv
import importlib
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "baselines")]
SCRIPTS = ("sac_flow_naive", "sac_flow_g", "sac_flow_t", "sac_gaussian")
BASELINES = ("baselines/ppo", "baselines/qsm", "baselines/dime", "baselines/flowrl")
YARDSTICK = (
    "--no-crossq --no-normalize-obs --adam-beta1 0.9 --policy-frequency 1 --critic-hidden-dim 256 --hidden-dim 256"
)
VARIANTS = {"eager": "--no-compile", "compiled": "", "bf16": "--bf16"}
CUDA_VARIANTS = VARIANTS | {"graph": "--cuda-graph", "graph-bf16": "--cuda-graph --bf16"}
FIGURES = ("processes", "ms_per_step", "floor_ms", "share", "act_ms", "compile_s", "peak_gib")
SMALL = "--critic-hidden-dim 256 --batch-size 256"


@dataclass
class Args:
    scripts: tuple[str, ...] = SCRIPTS + BASELINES  # scripts to time
    variants: tuple[str, ...] = ()  # of eager, compiled, bf16, on CUDA graph and graph-bf16 (default: all)
    env_ids: tuple[str, ...] = ("Hopper-v4", "Humanoid-v4")  # tasks, that is shapes
    small: bool = False  # the small size on HalfCheetah-v4, where --env-ids is not given
    yardstick: bool = True  # time plain eager SAC too
    device: str = "cpu"  # cpu or cuda
    window: int = 60  # steps per timing window
    processes: int = 1  # trainings side by side, on a CPU on a core each; the rates are of all together
    windows: int = 5  # windows after the warm-up; the median counts
    csv: Path = ROOT / "results" / "speed.csv"  # file to append to
    table_only: bool = False  # print the table of --csv and measure nothing


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def provenance() -> dict[str, str]:
    """What a measurement's row says of its circumstances."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    hardware = f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} thread(s)"
    return {"date": time.strftime("%Y-%m-%d"), "hardware": hardware, "torch": torch.__version__}


def commit() -> str:
    """The repository's commit, 12 digits, with "-dirty" behind it where files differ from it."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def gemm_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a 1024^3 product, with the precision the trainers use: best of 20."""
    torch.set_float32_matmul_precision("medium" if device == "cpu" else "high")
    a, b = (torch.randn(1024, 1024, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        c = a @ b
        c[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def flops_per_step(module, args, env_id: str) -> float:
    """Matrix-product FLOPs of one environment step: critic update, and the actor's share of one."""
    env = gym.make(env_id)
    n, box = env.observation_space.shape[0], env.action_space
    actor, critic = module.Actor(n, box, args), module.Critic(n, box.shape[0], args.critic_hidden_dim, args.crossq)
    generator, size = torch.Generator().manual_seed(0), args.batch_size
    batch = {"obs": torch.randn(size, n), "next_obs": torch.randn(size, n), "action": torch.zeros(size, box.shape[0])}
    batch |= {"reward": torch.zeros(size), "terminated": torch.zeros(size)}
    target = None if args.crossq else module.frozen_view(critic)
    noise, alpha, total = actor.draw_noise(size, generator), torch.tensor(0.01), 0.0
    for share, loss in (
        (1, lambda: module.critic_loss(critic, target, module.frozen_view(actor), batch, noise, alpha, 0.99)),
        (
            1 / args.policy_frequency,
            lambda: module.actor_loss(actor, module.frozen_view(critic), batch["obs"], noise, alpha),
        ),
    ):
        with FlopCounterMode(display=False) as counter:
            loss()[0].backward()
        total += share * counter.get_total_flops()
    return total


def acting_time(module, args, env_id: str, compiled: bool) -> float:
    """Milliseconds to act once on one observation, NumPy to NumPy, with the weights in cache."""
    env = gym.make(env_id)
    obs, box = env.observation_space.sample().astype(np.float32), env.action_space
    actor = module.frozen_view(module.Actor(len(obs), box, args).to(args.device))
    generator = torch.Generator(args.device).manual_seed(0)
    act = torch.compile(actor.act, dynamic=False) if compiled else actor.act
    times = []
    for _ in range(500):
        start = time.perf_counter()
        with module.blas_products():
            act(torch.as_tensor(obs, device=args.device)[None], actor.draw_noise(1, generator))[0].cpu().numpy()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[100:]))


def available_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]  # macOS cannot pin


def train(script: str, flags: list[str], args) -> dict:
    """Run the trainer, `args.processes` of them side by side; means over them of the median milliseconds per step, the
    compile seconds and the peak resident memory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    on_policy = script == "baselines/ppo"
    starts, window = (0, 2048) if on_policy else (1000, args.window)
    flags = [*flags, "--total-timesteps", f"{starts + window * (args.windows + 2)}"]
    flags += [] if on_policy else ["--learning-starts", f"{starts}"]
    flags += ["--eval-frequency", "0", "--checkpoint-frequency", "0", "--log-frequency", f"{window}"]
    code = "import os,resource,subprocess,sys; cores = [*map(int, sys.argv[1].split())];"
    code += "cores and os.sched_setaffinity(0, cores);"
    code += "rc=subprocess.run(sys.argv[2:]).returncode;"
    code += "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(rc)"
    figures, cores = [], available_cores()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / f"{script}.py"), *flags]
        running = []
        for i in range(args.processes):
            mine = f"{cores[i]}" if args.processes > 1 and args.device == "cpu" else ""
            call = [sys.executable, "-c", code, mine, *command, "--seed", f"{i + 1}", "--run-dir", f"{folder}/{i}"]
            running.append(subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        outputs = [process.communicate() for process in running]
        for i, (process, (out, err)) in enumerate(zip(running, outputs, strict=True)):
            if process.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{err}")
            events = EventAccumulator(str(next(Path(folder, f"{i}").iterdir())), size_guidance={"scalars": 0})
            events.Reload()
            ms = float(np.median([1e3 / event.value for event in events.Scalars("charts/SPS")[-args.windows :]]))
            loss = "losses/policy_loss" if on_policy else "losses/qf_loss"  # from the end of the first window on
            begin = [event.wall_time for event in events.Scalars("charts/episodic_return") if event.step <= starts][-1:]
            begin += [event.wall_time for event in events.Tensors("versions/text_summary")][: not begin]
            compile_s = events.Scalars(loss)[1].wall_time - begin[0] - 2 * window * ms / 1e3
            figures.append((ms, compile_s, int(re.search(r"peak (\d+)", out)[1]) / 2**20))
    return dict(zip(("ms_per_step", "compile_s", "peak_gib"), np.mean(figures, axis=0).tolist(), strict=True))


def append(path: Path, row: dict):
    """Each row at once, so that an interrupted run keeps what it measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def show(rows: list[dict]):
    """The table in Markdown, once for each machine and version in it."""
    for machine in dict.fromkeys((row["hardware"], row["torch"]) for row in rows):
        print(f"\n{machine[0]}, torch {machine[1]}\n")
        head = "task | script | variant | processes | ms/step | steps/s | floor ms | share of floor"
        head += " | acting ms | compile s | peak GiB"
        print(f"| {head} |\n|{'---|' * len(head.split('|'))}")
        for row in rows:
            if (row["hardware"], row["torch"]) != machine:
                continue
            r = {name: float(row[name]) for name in FIGURES}
            figures = f"{r['ms_per_step']:.1f} | {1e3 * r['processes'] / r['ms_per_step']:.0f}"
            figures += f" | {r['floor_ms']:.1f} | {r['share']:.0%}"
            figures += f" | {r['act_ms']:.2f} | {max(r['compile_s'], 0):.0f} | {r['peak_gib']:.1f}"
            figures = figures.replace("nan%", "nan").replace("nan", "\u2013")
            print(f"| {row['env']} | {row['script']} | {row['variant']} | {row['processes']} | {figures} |")


def main(args: Args):
    if args.table_only:
        require(args.csv.is_file(), f"--csv {args.csv}: no such file; measure first, without --table-only")
        with open(args.csv, newline="") as file:
            return show(list(csv.DictReader(file)))
    possible = CUDA_VARIANTS if args.device == "cuda" else VARIANTS
    for name in args.variants:
        require(name in possible, f"--variants {name}: on {args.device} there are {', '.join(possible)}")
    cores = len(available_cores())
    fits = args.device == "cuda" or args.processes <= cores
    require(args.processes > 0 and fits, f"--processes {args.processes}: there are {cores} cores to pin them to")
    require(args.device != "cuda" or torch.cuda.is_available(), "--device cuda: no CUDA device here; use --device cpu")
    if args.small and args.env_ids == Args.env_ids:
        args.env_ids = ("HalfCheetah-v4",)
    base = provenance() | {"device": args.device}
    if args.device == "cuda":
        base["hardware"] = torch.cuda.get_device_name()
    rows = []
    small = {s: " " + SMALL if args.small and s != "baselines/ppo" else "" for s in args.scripts}  # PPO is small
    jobs = [(s, v, possible[v] + small[s]) for s in args.scripts for v in args.variants or possible]
    jobs = [job for job in jobs if not (job[1].startswith("graph") and job[0] in BASELINES)]  # they have none
    if args.yardstick:
        jobs.append(
            ("sac_gaussian", "yardstick", f"--no-compile {YARDSTICK}" + (" --batch-size 256" if args.small else ""))
        )
    for env_id in args.env_ids:
        for script, variant, flags in jobs:
            flags = f"--env-id {env_id} --device {args.device} {flags}".split()
            module = importlib.import_module(script.removeprefix("baselines/"))
            parsed = tyro.cli(module.Args, args=flags)
            rate = gemm_rate(args.device, torch.bfloat16 if variant == "bf16" else torch.float32)
            row = {"script": script, "variant": variant, "env": env_id, "processes": args.processes}
            row["batch"] = getattr(parsed, "batch_size", None)  # PPO has neither
            row["critic_hidden_dim"] = getattr(parsed, "critic_hidden_dim", None)
            row |= train(script, flags, args)
            rate = max(rate, gemm_rate(args.device, torch.bfloat16 if variant == "bf16" else torch.float32))
            row |= dict.fromkeys(("act_ms", "gflop"), math.nan) | {"gemm_gflops": rate / 1e9}
            if script not in BASELINES:
                row["act_ms"] = acting_time(module, parsed, env_id, variant != "eager")
                row["gflop"] = flops_per_step(module, parsed, env_id) / 1e9
            row["floor_ms"] = row["gflop"] * 1e12 / rate
            rows.append(base | row | {"share": row["floor_ms"] / row["ms_per_step"]})
            append(args.csv, rows[-1])
            print(f"{env_id} {script} {variant}: {row['ms_per_step']:.1f} ms/step", file=sys.stderr)
    show(rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(tyro.cli(Args, description=__doc__))
