"""Does success swing late in training? With three step sizes of the actor, and by an average of its weights.

    pip install -r scripts/requirements.txt -r offline_to_online/requirements.txt
    pip install --no-deps robosuite==1.5.2
    python offline_to_online/make_dataset.py --env-id can --episodes 200 --path data/can.hdf5
    python scripts/swing.py --csv runs/swing.csv  # nine runs of about 11 minutes on a CPU core
    python scripts/swing.py --csv runs/swing_t.csv --script sac_flow_t

Every run is evaluated at three instants near its end, each time with the actor and with an exponential average of its
weights, which takes no part in training. Ctrl-C writes a checkpoint; the same command goes on from there, and repeats
no run that has ended.
"""

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
# Name -> the actor's step size by --learning-rate, offline as well; `share` is that of the environment steps taken.
RATES = {"constant": "1.0", "a third": "1 / 3", "decays to 0": "1 - share"}
LATE = (0.9, 0.95, 1.0)  # when runs are evaluated, as shares of the environment steps


@dataclass
class Args:
    csv: Path  # table to write
    script: Literal["sac_flow_g", "sac_flow_t", "sac_flow_naive"] = "sac_flow_g"  # of offline_to_online
    seeds: tuple[int, ...] = (1, 2, 3)  # seeds of the runs
    rates: tuple[str, ...] = tuple(RATES)  # which step sizes to run, see RATES
    env_id: str = "can"  # task
    dataset_path: Path = Path("data/can.hdf5")  # data
    offline_steps: int = 5000  # updates on the data
    total_timesteps: int = 10_000  # environment steps
    decay: float = 0.995  # of the average, per update
    run_dir: Path = Path("runs/swing")  # folder for the runs
    flags: str = (
        "--critic-hidden-dim 256 --normalize-obs --learning-starts 2000 --buffer-size 200000 --step-limit 300 "
        "--pretrain flow-matching --eval-episodes 50"
    )  # further flags
    width: int = 256  # --hidden-dim of Flow-G and naive


def fork(args: Args, rate: str) -> str:
    """The text of the script with this step size, an average of the actor's weights, and late evaluations of both."""
    late = [args.offline_steps + round(share * args.total_timesteps) for share in LATE]
    changes = {
        "    temperature = nn.ParameterDict(": "    average = copy.deepcopy(actor).eval().requires_grad_(False)\n"
        "    temperature = nn.ParameterDict(",
        '    parts = {"actor": actor,': '    parts = {"average": average, "actor": actor,',
        "            metrics = update(online)\n": ""
        "            share = max(0, step - args.offline_steps) / args.total_timesteps\n"
        f"            actor_optimizer.param_groups[0]['lr'] = args.learning_rate * ({RATES[rate]})\n"
        "            metrics = update(online)\n"
        "            with torch.no_grad():\n"
        "                mine, theirs = list(average.parameters()), list(actor.parameters())\n"
        f"                torch._foreach_lerp_(mine, theirs, {1 - args.decay})\n",
        "args.eval_frequency and (step == args.offline_steps or due(step, args.eval_frequency, last_step))": ""
        f"step in {late}",
        "            scores = evaluate(actor_view, eval_env, args, device, film)\n": ""
        "            scores = evaluate(actor_view, eval_env, args, device, film)\n"
        "            others = evaluate(average, eval_env, args, device, film)\n"
        '            scores |= {f"average_{name}": value for name, value in others.items()}\n',
    }
    text = (ROOT / "offline_to_online" / f"{args.script}.py").read_text()
    for old, new in changes.items():
        if text.count(old) != 1:
            raise ValueError(f"{args.script}.py has {text.count(old)} times: {old}")
        text = text.replace(old, new)
    return text


def train(args: Args, rate: str, seed: int) -> Path:
    """The finished run of one step size and seed."""
    folder = args.run_dir / f"{args.env_id}-{args.script}-{rate}-{seed}".replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    settings, text = folder / "settings", fork(args, rate)
    flags = args.flags if args.script == "sac_flow_t" else f"--hidden-dim {args.width} {args.flags}"
    told = text + repr((args.dataset_path, args.offline_steps, args.total_timesteps, flags))
    begun = sorted(folder.glob("*/checkpoint.pt"))
    same = settings.exists() and settings.read_text() == told
    if begun and not same:
        raise SystemExit(f"error: --run-dir: {folder} is of other flags or another version; choose another folder")
    settings.write_text(told)
    script = folder / f"{args.script}.py"
    script.write_text(text)
    if not (folder / "done").exists():
        words = ["--env-id", args.env_id, "--seed", seed, "--run-dir", folder]
        words += ["--dataset-path", args.dataset_path.resolve(), "--offline-steps", args.offline_steps]
        words += ["--total-timesteps", args.total_timesteps, *flags.split()]
        if begun:
            words = ["--resume", begun[-1].parent]
        run = subprocess.Popen([sys.executable, script, *map(str, words)])
        try:
            code = run.wait()
        except KeyboardInterrupt:  # the terminal tells the run as well, which writes its checkpoint
            if run.wait() == 0:  # it was at its end
                (folder / "done").touch()
            raise SystemExit(130) from None
        if code:
            raise SystemExit(code)
        (folder / "done").touch()
    return sorted(folder.glob("*/checkpoint.pt"))[-1].parent


def main(args: Args):
    unknown = set(args.rates) - set(RATES)
    if unknown:
        raise SystemExit(f"error: --rates {', '.join(sorted(unknown))}: choose from {', '.join(RATES)}")
    rows = []
    for seed in args.seeds:
        for rate in args.rates:
            events = EventAccumulator(str(train(args, rate, seed)), size_guidance={"scalars": 0}).Reload()
            for weights, prefix in (("last", "eval/"), ("average", "eval/average_")):
                for event in events.Scalars(prefix + "success"):
                    step = event.step - args.offline_steps
                    rows.append((args.env_id, args.script, rate, weights, seed, step, round(event.value, 4)))
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        csv.writer(file).writerows([("env_id", "script", "rate", "weights", "seed", "step", "success"), *rows])


if __name__ == "__main__":
    main(tyro.cli(Args))
