"""Evaluate trained policies as their runs do, QSM and DIME with noise: any run of a script here, or a policy file.

    python scripts/evaluate.py runs/one runs/two                      # mean and standard deviation of the returns
    python scripts/evaluate.py runs/one --video one.mp4               # film the first episode
    python scripts/evaluate.py runs/one --save-policy one.pt          # the policy alone, to pass on: try it by
    python scripts/evaluate.py one.pt

The network is that of the script of this name in this repository: a fork that kept the name goes by --script.
A policy file has the actor's weights and running statistics, its flags and the name of its script: no critic, no
optimizer, no replay buffer. Nothing that is read can execute; a task MODULE:TASK imports the installed module. The
first --eval-episodes episodes start as those of the run's own evaluations; with as many --episodes the returns are
theirs.
"""

import csv
import importlib.util
import os
import signal
import sys
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "offline_to_online", "baselines")


@dataclass
class Args:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """run folders, checkpoints or policy files"""
    episodes: int = 20
    """episodes of each"""
    seed: int | None = None
    """of start states and A_0 (default: that of the run's own evaluations)"""
    device: str = "cpu"
    """where the policy runs: cpu, cuda or mps"""
    csv: Path | None = None
    """table to write, a row per path"""
    video: Path | None = None
    """.mp4 file for the first episode; without a display set MUJOCO_GL=egl"""
    save_policy: Path | None = None
    """.pt file for the policy alone; nothing is evaluated"""
    script: Path | None = None
    """the script that trained them (default: the one of its name in this repository)"""


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)
        raise SystemExit(2)


def load_script(path: Path):
    """The script as a module, whose own messages name the flags used here."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        require(False, f"{path}: {error}; install the requirements of its folder")
    words = {"--capture-video": "--video", "--env-id": "its task"}
    words["choose another task, or the latest version"] = "install what the task needs"

    def own_require(fine: bool, message: str):
        for theirs, ours in words.items():
            message = message.replace(theirs, ours)
        require(fine, message)

    module.require = own_require
    return module


def load(path: Path, script: Path | None) -> tuple[dict, object]:
    """What a checkpoint or a policy file holds, and the module of its script."""
    file, state, problem = path / "checkpoint.pt" if path.is_dir() else path, {}, ""
    try:
        problem = "its checksum differs" if zipfile.ZipFile(file).testzip() else ""
        state = {} if problem else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a missing, damaged or foreign file makes the readers raise
        problem = str(error)
    require(not problem, f"{path}: no checkpoint or policy file, or a damaged one ({problem})")
    known = isinstance(state, dict) and {"script", "args", "actor"} <= state.keys()
    require(known, f"{path}: of an older version of the scripts; evaluate it with that version")
    name = Path(state["script"]).name  # a file must not choose a script elsewhere
    places = [script] if script else [ROOT / folder / name for folder in FOLDERS]
    places = [place for place in places if place.is_file()]
    require(len(places) > 0, f"{path}: there is no {script or state['script']} here; name the script by --script")
    for place in places:
        module = load_script(place)
        names = {field.name for field in fields(module.Args)} if hasattr(module, "Args") else set()
        if names >= set(state["args"]):  # a flag that came later has its default, as it had when there was none
            return state, module
    require(False, f"{path}: of another version of {state['script']}; name the script that trained it by --script")


class Counted(gym.Wrapper):
    """Keeps the episodes' returns, and moves the progress bar at every step."""

    def __init__(self, env: gym.Env, bar: tqdm, returns: list):
        super().__init__(env)
        self.bar, self.returns = bar, returns

    def reset(self, **kwargs):
        self.total = 0.0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.total += float(reward)
        if terminated or truncated:
            self.returns.append(self.total)
        self.bar.update()
        return obs, reward, terminated, truncated, info


def make_actor(module, state: dict, device: torch.device, *shapes):
    actor, problem = module.Actor(*shapes), ""
    try:
        actor.load_state_dict(state["actor"])
    except RuntimeError as error:
        problem = str(error)
    require(not problem, f"the weights do not fit {module.__file__} or its task: {problem}")
    return actor.to(device).eval().requires_grad_(False)


def run_policy(module, state: dict, args: Args, bar: tqdm) -> tuple[int, dict]:
    """Seed, and scores by the script's own `make_env`, `Actor` and `evaluate`."""
    flags, device, returns, scores = module.Args(**state["args"]), torch.device(args.device), [], {}
    film = str(args.video.absolute()) if args.video else None
    if hasattr(module, "next_chunk"):  # of offline_to_online: chunks of actions, one environment, more scores
        seed = flags.seed if args.seed is None else args.seed
        flags = replace(flags, seed=seed, eval_episodes=args.episodes)
        envs = [Counted(module.make_env(flags, bool(film), state["made_from"]), bar, returns)]
        chunk = flags.horizon_length * envs[0].action_space.shape[0]
        actor = make_actor(module, state, device, envs[0].observation_space.shape[0], chunk, flags)
        scores = module.evaluate(actor, envs[0], flags, device, film)
        scores = {name: scores[name] for name in ("success", "episodic_length")}
    else:
        seed = module.episode_seed(flags.seed, 10**9) if args.seed is None else args.seed
        envs = [module.make_env(flags, bool(film) and i == 0) for i in range(args.episodes)]
        envs = [Counted(env, bar, returns) for env in envs]
        actor = make_actor(module, state, device, envs[0].observation_space.shape[0], envs[0].action_space, flags)
        module.evaluate(actor, envs, seed, device, film)
    for env in envs:
        env.close()
    return seed, {"mean": np.mean(returns), "std": np.std(returns)} | scores


def main(args: Args):
    single = (("--video", args.video, ".mp4"), ("--save-policy", args.save_policy, ".pt"), ("--csv", args.csv, ".csv"))
    for flag, path, ending in single:
        if path:
            fine = path.suffix == ending and os.access(path.parent, os.W_OK) and not path.is_dir()
            require(fine, f"{flag} {path}: choose a name that ends in {ending}, in a folder that can be written")
            require(flag == "--csv" or len(args.paths) == 1, f"{flag} {path}: takes one run, not {len(args.paths)}")
    require(len(args.paths) > 0, "name at least one run folder or policy file")
    require(args.episodes > 0, f"--episodes {args.episodes}: choose at least 1")
    require(args.seed is None or 0 <= args.seed < 2**31, f"--seed {args.seed}: choose a number from 0 to 2147483647")
    coded = not args.video or importlib.util.find_spec("imageio_ffmpeg")
    require(coded, f"--video {args.video}: needs imageio-ffmpeg; pip install imageio-ffmpeg first")
    alone = not (args.save_policy and (args.video or args.csv))
    require(alone, f"--save-policy {args.save_policy}: evaluates nothing; give --video and --csv in another call")
    problem = ""
    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).partition("\n")[0]
    require(not problem, f"--device {args.device}: {problem}; choose cpu, or another that is there")
    processor = torch.cpu.get_capabilities()  # products as in training
    exact = processor.get("architecture") == "x86_64" and not processor.get("amx_bf16")
    on_cpu = "medium" if exact else "highest"
    torch.set_float32_matmul_precision(on_cpu if args.device == "cpu" else "high")
    loaded, rows = [load(path, args.script) for path in args.paths], []
    for path, (state, module) in zip(args.paths, loaded, strict=True):
        step = state["step"] if "step" in state else state["counters"][0]
        if args.save_policy:
            kept = {"actor", "args", "script", "made_from"} & state.keys()
            policy = {name: state[name] for name in kept} | {"step": step}
            # Where the run and its data were is their owner's business.
            policy["args"] |= {"run_dir": "runs", "resume": None}
            for flag in {"dataset_path", "pretrained"} & policy["args"].keys():
                policy["args"][flag] = policy["args"][flag] and os.path.basename(os.path.normpath(policy["args"][flag]))
            torch.save(policy, args.save_policy)
            return print(f"{args.save_policy}: {os.path.getsize(args.save_policy) / 2**20:.2f} MiB")
        row = {"path": path, "script": state["script"], "env": state["args"]["env_id"], "seed": state["args"]["seed"]}
        row |= {"step": step, "episodes": args.episodes}
        with tqdm(desc="filming" if args.video else "evaluating", unit=" steps", leave=False, disable=None) as bar:
            eval_seed, scores = run_policy(module, state, args, bar)
        rows.append(row | {"eval_seed": eval_seed} | scores)
        words = "  ".join(f"{name} {value:.6g}" for name, value in scores.items())
        # A file has no more than its script's name, and a fork may have kept its origin's.
        print(f"{path}  {row['env']}  step {step}  {words}  by {os.path.relpath(module.__file__)}")
    if args.video:
        print(f"film: {args.video}")
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.DictWriter(
                file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main(tyro.cli(Args, description=__doc__))
