"""QC-FQL: flow Q-learning on chunks of actions, a baseline of the offline-to-online scripts; FQL at h = 1.

Park et al., "Flow Q-Learning", arXiv 2502.02538, and Li et al., "Reinforcement Learning with Action Chunking",
arXiv 2507.07969. A flow v imitates the data; a one-step policy mu(s, z) is distilled from it and ascends Q.

    python qc_fql.py --env-id cube-double-play-singletask-task2-v0 --dataset-path data/cube-double-play-v0.npz
    python qc_fql.py --env-id can --dataset-path low_dim_v15.hdf5 --horizon-length 1
    tensorboard --logdir runs
"""

# Symbols: s observation, a chunk of h actions in [-1, 1], d = h * action dimension, B batch size, z ~ N(0, I),
# v velocity of the imitating flow, mu one-step policy.
# sync: o2o-imports
import copy
import glob
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

import gymnasium as gym
import mujoco
import numpy as np
import psutil
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


# sync: o2o-args
@dataclass
class Args:
    env_id: str = "cube-double-play-singletask-task2-v0"  # an OGBench cube or scene task, or lift, can or square
    dataset_path: str | None = None  # OGBench .npz, folder of such shards, or robomimic .hdf5; default the official one
    seed: int = 1  # seed of the networks, the noise, the replay sampling and the environment
    offline_steps: int = 1_000_000  # updates on the dataset before the first environment step
    total_timesteps: int = 1_000_000  # environment steps after those
    learning_starts: int = 5000  # environment steps before the first online update
    horizon_length: int = 5  # h, actions of a chunk, executed open loop
    buffer_size: int = 2_000_000  # replay capacity in environment steps, those of the dataset included
    batch_size: int = 256  # chunks per update
    gamma: float = 0.99  # discount per environment step
    learning_rate: float = 3e-4  # Adam step size of all networks
    tau: float = 0.005  # target smoothing per update
    critic_hidden_dim: int = 512  # width of the critics' four hidden layers
    normalize_obs: bool = False  # observations to mean 0 and deviation 1 over the dataset (a folder's first shard)
    sparse: bool | None = None  # OGBench reward -1 until all is right, not the number of wrong items; default by task
    step_limit: int | None = None  # environment steps after which an episode is truncated; default by task
    success_timing: Literal["pre", "post"] = "pre"  # OGBench reward and success of s (as in the data), or of s'
    shard_steps: int = 1000  # offline updates on one shard of a folder
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # compile the losses with torch.compile; on a CPU this needs a C++ compiler
    eval_frequency: int = 100_000  # offline updates or environment steps between evaluations, 0 for none
    eval_episodes: int = 50  # noise-free episodes per evaluation
    log_frequency: int = 1000  # offline updates or environment steps between writes of losses and statistics
    run_dir: str = "runs"  # folder that receives the run's own folder
    checkpoint_frequency: int = 100_000  # offline updates or steps between checkpoints, 0: on SIGINT and SIGTERM only
    resume: str | None = None  # run folder to go on in; flags come from its checkpoint, --total-timesteps may be raised
    eval_only: bool = False  # with --resume: print the success rate of --eval-episodes episodes, and end
    exp_name: str = "o2o_" + os.path.splitext(os.path.basename(__file__))[0]  # name in the run's folder
    save_model: bool = False  # write model.pt (networks, arguments) at the end
    capture_video: bool = False  # record one episode of every evaluation; without a display set MUJOCO_GL=egl
    track: bool = False  # send the run to Weights & Biases as well
    wandb_project_name: str = "sac-flow"  # Weights & Biases project
    wandb_entity: str | None = None  # Weights & Biases team
    # sync: end
    distill: float | None = None  # weight of the distillation from the flow, mean over the chunk; default by task
    flow_steps: int = 10  # Euler steps of the flow that is distilled
    policy_hidden_dim: int = 512  # width of the four hidden layers of flow and one-step policy

    def __post_init__(self):
        if self.distill is None and self.horizon_length == 1 and self.env_id not in ROBOMIMIC:
            self.distill = 300.0  # FQL's on every OGBench task


PRESETS = {  # distillation, sparse rewards, step limit: the papers' tables for h = 5
    "cube-single": (300.0, False, 200),
    "cube-double": (300.0, False, 500),
    "cube-triple": (100.0, False, 1000),
    "cube-quadruple": (100.0, False, 1000),
    "scene": (300.0, True, 750),
    "lift": (10_000.0, False, 500),
    "can": (10_000.0, False, 500),
    "square": (10_000.0, False, 500),
}
PRESET_FLAGS = "distill", "sparse", "step_limit"


# sync: require
def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", message.replace("\n", " "), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


# sync: o2o-task
ROBOMIMIC = {"lift": "Lift", "can": "PickPlaceCan", "square": "NutAssemblySquare"}
OGBENCH = re.compile(r"(cube-(?:single|double|triple|quadruple)|scene)-(play|noisy)-singletask(-task[1-5])?-v0")
OBS_KEYS = "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"  # in a robomimic file


def family(env_id: str) -> str:
    """The task without its data and number: what presets belong to."""
    named = OGBENCH.fullmatch(env_id)
    return named[1] if named else env_id


def with_presets(args: Args) -> Args:
    """Fill in the flags that were left to the task."""
    choices = ", ".join(ROBOMIMIC)
    known = family(args.env_id) in PRESETS and (args.env_id in ROBOMIMIC or OGBENCH.fullmatch(args.env_id))
    remedy = f"choose {choices}, or one as cube-double-play-singletask-task2-v0"
    require(known, f"--env-id {args.env_id}: unknown; {remedy}")
    preset = dict(zip(PRESET_FLAGS, PRESETS[family(args.env_id)], strict=True))
    return replace(args, **{name: value for name, value in preset.items() if getattr(args, name) is None})


class Robosuite(gym.Env):
    """A robosuite task with robomimic's low-dimensional observation. Reward r - 1; success of s' terminates."""

    render_mode = "rgb_array"

    def __init__(self, env, step_limit: int):
        self.env, self.step_limit = env, step_limit
        size = len(self._observe(env.reset()))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,))
        self.action_space = gym.spaces.Box(*(np.float32(bound) for bound in env.action_spec))

    @staticmethod
    def _observe(obs: dict) -> np.ndarray:
        return np.concatenate([obs["object-state" if key == "object" else key] for key in OBS_KEYS])

    def reset(self, seed=None, options=None):
        self.elapsed = 0
        # Its parts share one generator, which has no other way to be seeded again.
        self.env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        return self._observe(self.env.reset()), {}

    def step(self, action):
        obs, reward, _, _ = self.env.step(action)
        self.elapsed += 1
        success = bool(self.env._check_success())
        return self._observe(obs), reward - 1.0, success, self.elapsed >= self.step_limit, {"success": success}

    def render(self):
        return self.env.sim.render(camera_name="agentview", width=256, height=256)[::-1]

    def close(self):
        self.env.close()


def make_env(args: Args, video_dir: str | None = None) -> gym.Env:
    """The task's environment: its reset takes a seed, of which, with the actions since, everything is a function. With
    video_dir it can render, and records evaluations' first episodes there unless that is ""."""
    warnings.filterwarnings("ignore", message=".*(precision lowered|GLFW|DISPLAY).*")
    if args.env_id in ROBOMIMIC:
        made_from = read_env_args(args)
        try:
            logging.disable(logging.WARNING)  # it warns of missing extras whenever it is imported
            import robosuite
        except ImportError as error:
            require(False, f"--env-id {args.env_id}: {error}; pip install --no-deps robosuite==1.5.2")
        finally:
            logging.disable(logging.NOTSET)
        kwargs = made_from["env_kwargs"] | {"has_renderer": False, "use_camera_obs": False, "hard_reset": False}
        kwargs |= {"has_offscreen_renderer": video_dir is not None, "ignore_done": True, "reward_shaping": False}
        kwargs |= {"seed": args.seed}  # it draws the sizes of objects when it is made
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
        try:
            env = Robosuite(robosuite.make(made_from["env_name"], **kwargs), args.step_limit)
        except Exception as error:  # whatever robosuite makes of an older version's flags
            remedy = f"its env_args build no environment ({error!r}); choose a file made for robosuite 1.5"
            require(False, f"--dataset-path {args.dataset_path}: {remedy}")
    else:
        try:
            import ogbench.manipspace  # noqa: F401
        except ImportError as error:
            require(False, f"--env-id {args.env_id}: {error}; pip install -r requirements.txt of offline_to_online")
        limits = {"max_episode_steps": args.step_limit, "success_timing": args.success_timing}
        name = re.sub("-(play|noisy)-", "-", args.env_id)
        env, core = (made := gym.make(name, disable_env_checker=True, **limits)), made.unwrapped
        # Its reset takes random actions from a space that is made anew, unseeded, at every access: keep one instead.
        own = {"action_space": core.action_space, "render_mode": "rgb_array"}
        core.__class__ = type(type(core).__name__, (type(core),), own)
        env = gym.wrappers.TransformReward(env, lambda reward: -float(reward != 0)) if args.sparse else env
    if video_dir is not None:
        try:
            env.reset(seed=0)
            env.render()  # fails here, and not at the first evaluation, where there is no display
        except Exception as error:  # whatever the renderer makes of it
            problem = str(error).partition("\n")[0]
            sys.unraisablehook = lambda _: None  # a half-made renderer complains when it is deleted
            require(False, f"--capture-video: {problem}; without a display set MUJOCO_GL=egl")
    if video_dir:
        return gym.wrappers.RecordVideo(env, video_dir, episode_trigger=lambda i: i % args.eval_episodes == 0)
    return env


def reset(env: gym.Env, seed: int) -> np.ndarray:
    env.unwrapped.action_space.seed(seed)
    return env.reset(seed=seed)[0]


def episode_seed(args: Args, episode: int) -> int:
    """Seed of a training episode, so that a checkpoint needs no more than its number and the actions since."""
    return int(np.random.SeedSequence((args.seed, episode)).generate_state(1)[0] >> 1)


# sync: o2o-data
def find_dataset(args: Args) -> list[str]:
    """The files of --dataset-path, or of the official place; ends the program, with a remedy, where there are none."""
    make = f"make one: python make_dataset.py --env-id {args.env_id} --path "
    if args.env_id in ROBOMIMIC:
        official = os.path.expanduser(f"~/.robomimic/{args.env_id}/mh/low_dim_v15.hdf5")
        source, make = "robomimic's multi-human low_dim_v15.hdf5", make + f"data/{args.env_id}.hdf5"
    else:
        name = re.sub("-singletask(-task.)?-", "-", args.env_id)
        official = os.path.expanduser(f"~/.ogbench/data/{name}.npz")
        source, make = f"OGBench's {name}.npz and {name}-val.npz", make + f"data/{name}.npz"
    path = args.dataset_path or official
    where = f"--dataset-path {args.dataset_path}" if args.dataset_path else "--dataset-path: none given, and"
    require(os.path.exists(path), f"{where} {path} is not there; download {source} to it, or {make}")
    files = sorted(glob.glob(f"{path}/*.npz")) if os.path.isdir(path) else [path]
    files = [file for file in files if not file.endswith("-val.npz")]
    end = ".hdf5" if args.env_id in ROBOMIMIC else ".npz"
    fits = files and all(file.endswith(end) for file in files)
    require(fits, f"--dataset-path {path}: {args.env_id} needs {end} data; take {source}, or {make}")
    for file in files if end == ".npz" else ():
        val = file.removesuffix(end) + "-val.npz"
        require(os.path.exists(val), f"--dataset-path {path}: its validation file {val} is absent; download or make it")
    return files


def open_hdf5(args: Args, file: str):
    try:
        import h5py
    except ImportError as error:
        require(False, f"--dataset-path {file}: {error}; pip install -r requirements.txt of offline_to_online")
    try:
        return h5py.File(file, "r")
    except OSError as error:
        require(False, f"--dataset-path {file}: not readable as hdf5 ({error}); download or make it again")


def read_env_args(args: Args) -> dict:
    """What a robomimic file's environment is built from; refuses another task, robot or controller."""
    (path,) = find_dataset(args)
    with open_hdf5(args, path) as file:
        missing = "data" not in file or "env_args" not in file["data"].attrs
        require(not missing, f"--dataset-path {path}: no env_args in it; choose a robomimic low_dim file")
        text = file["data"].attrs["env_args"]
    try:
        made_from = json.loads(text)
        name, kwargs, wanted = made_from["env_name"], made_from["env_kwargs"], ROBOMIMIC[args.env_id]
        robot, controller = kwargs.get("robots", "Panda"), kwargs["controller_configs"]
        controller = controller.get("body_parts", {}).get("right", controller)  # robosuite 1.5 has one for each part
        way = controller.get("input_type", "delta" if controller.get("control_delta", True) else "absolute")
        kind = f"{controller.get('type')} {way}"
    except Exception as error:  # whatever it holds instead
        require(False, f"--dataset-path {path}: its env_args are not robomimic's ({error!r}); choose a low_dim file")
    require(name == wanted, f"--dataset-path {path}: of {name}, not of {wanted}; choose another file or --env-id")
    require(robot in ("Panda", ["Panda"]), f"--dataset-path {path}: made with {robot}; choose a file of one Panda")
    remedy = "choose a file made with OSC_POSE delta"
    require(kind == "OSC_POSE delta", f"--dataset-path {path}: made with the controller {kind}; {remedy}")
    return made_from


def check_ogbench(args: Args, files: list[str], env: gym.Env) -> int:
    """Refuse files that are damaged or of another task, by what their arrays say of themselves; returns the rows of the
    largest."""
    widths = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    widths["qpos"] = (env.unwrapped.model.nq,)
    needed = [*widths, "qvel", "terminals"] + ["button_states"] * (family(args.env_id) == "scene")
    rows = []
    for file in files:
        shapes, ended = {}, True
        try:
            with np.load(file) as arrays:
                for key in arrays.files:
                    with arrays.zip.open(f"{key}.npy") as member:
                        first = np.lib.format.read_magic(member) == (1, 0)
                        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                        shapes[key] = read(member)[0]
                if shapes.get("terminals"):
                    ended = arrays["terminals"][-1:].all()
        except Exception as error:  # whatever a damaged archive makes the reader raise
            require(False, f"--dataset-path {file}: not readable as npz ({error}); download or make it again")
        missing = ", ".join(key for key in needed if key not in shapes)
        require(not missing, f"--dataset-path {file}: without {missing}; choose a file in OGBench's format")
        lengths = {shapes[key][:1] for key in needed}
        require(len(lengths) == 1, f"--dataset-path {file}: arrays of different lengths; download or make it again")
        for key, width in widths.items():
            own = shapes[key][1:]
            require(own == width, f"--dataset-path {file}: {key} of size {own}, but {args.env_id} has {width[0]}")
        require(ended, f"--dataset-path {file}: its last row ends no episode; download or make it again")
        rows.append(shapes["terminals"][0])
        enough = rows[-1] > args.horizon_length
        require(enough, f"--dataset-path {file}: {rows[-1]} steps are fewer than a chunk; lower --horizon-length")
    return max(rows)


def load_ogbench(args: Args, file: str, env: gym.Env) -> dict[str, np.ndarray]:
    """Steps of an OGBench file, relabelled for the task: name -> (N, n) or (N,). Rewards are those of s. Resets env."""
    import ogbench.relabel_utils
    import ogbench.utils

    raw = ogbench.utils.load_dataset(file, add_info=True)
    states = [key for key in ("qpos", "qvel", "button_states") if key in raw]
    bad = ", ".join(key for key in states if not np.isfinite(raw[key]).all())
    require(not bad, f"--dataset-path {file}: {bad} not finite (NaN or infinite); download or make it again")
    ogbench.relabel_utils.relabel_dataset(args.env_id, env, raw)
    reward = -(raw["rewards"] != 0).astype(np.float32) if args.sparse else raw["rewards"]
    data = {"obs": raw["observations"], "action": raw["actions"], "reward": reward, "mask": raw["masks"]}
    return data | {"terminal": raw["terminals"], "next_obs": raw["next_observations"]}


def load_robomimic(args: Args, path: str, env: gym.Env) -> dict[str, np.ndarray]:
    """Steps of a robomimic file, demonstrations in the order of their numbers: name -> (N, n) or (N,)."""
    parts = {name: [] for name in ("obs", "action", "reward", "mask", "terminal", "next_obs")}
    sizes = {"obs": env.observation_space.shape[0], "action": env.action_space.shape[0]}
    with open_hdf5(args, path) as file:
        demos = [name for name in file["data"] if re.fullmatch(r"demo_\d+", name)]
        require(demos, f"--dataset-path {path}: no demonstrations in it; choose a robomimic low_dim file")
        for demo in sorted(demos, key=lambda name: int(name[5:])):
            group = file[f"data/{demo}"]
            needed = ["actions", "rewards", "dones"]
            needed += [f"{side}/{key}" for side in ("obs", "next_obs") for key in OBS_KEYS]
            missing = ", ".join(key for key in needed if key not in group)
            require(not missing, f"--dataset-path {path}: {demo} without {missing}; choose a robomimic low_dim file")
            lengths = {len(group[key]) for key in needed}
            require(len(lengths) == 1, f"--dataset-path {path}: {demo} has arrays of different lengths; make it again")
            flat = ", ".join(key for key in needed if group[key].ndim != 1 + (key not in ("rewards", "dones")))
            require(not flat, f"--dataset-path {path}: {demo} has {flat} of another shape; choose a low_dim file")
            sparse = np.isin(group["rewards"], (0, 1)).all()
            require(sparse, f"--dataset-path {path}: {demo} has rewards besides 0 and 1; choose a sparse low_dim file")
            clock = group["states"][:, 0] if "states" in group else np.zeros(1)
            bad = f"--dataset-path {path}: states of {demo} not finite (NaN or infinite); download or make it again"
            require(np.isfinite(clock).all(), bad)
            ordered = (np.diff(clock) >= 0).all()
            require(ordered, f"--dataset-path {path}: the steps of {demo} are out of order; download or make it again")
            for side in ("obs", "next_obs"):
                parts[side].append(np.concatenate([group[f"{side}/{key}"][()] for key in OBS_KEYS], axis=1))
            parts["action"].append(group["actions"][()])
            parts["reward"].append(group["rewards"][()] - 1.0)
            parts["mask"].append(1.0 - group["dones"][()])
            # Official files go on for some steps that are all done: nothing behind the first belongs to a chunk.
            parts["terminal"].append(group["dones"][()].astype(bool))
            parts["terminal"][-1][-1] = True
            for name, size in sizes.items():
                own = parts[name][-1].shape[1]
                remedy = f"{args.env_id} has {size}; choose another file"
                require(own == size, f"--dataset-path {path}: {demo} has {name} of size {own}, but {remedy}")
    return {name: np.concatenate(values, dtype=np.float32, casting="unsafe") for name, values in parts.items()}


def load_dataset(args: Args, file: str, env: gym.Env) -> dict[str, np.ndarray]:
    """Steps in the order of the file: obs (N, n), action (N, m), reward, mask (0: no bootstrap), terminal (last step of
    its episode) (N,), next_obs (N, n), float32. Uses env to relabel."""
    data = (load_robomimic if args.env_id in ROBOMIMIC else load_ogbench)(args, file, env)
    bad = ", ".join(name for name, values in data.items() if not np.isfinite(values).all())
    require(not bad, f"--dataset-path {file}: {bad} not finite (NaN or infinite); download or make it again")
    count = len(data["reward"])
    enough = count > args.horizon_length
    require(enough, f"--dataset-path {file}: {count} steps are fewer than a chunk; lower --horizon-length")
    largest = np.abs(data["action"]).max()
    require(largest <= 1 + 1e-5, f"--dataset-path {file}: an action of {largest:.3g}, beyond 1; choose another file")
    data["action"] = data["action"].clip(-1, 1)
    return data


def warn_without_success(args: Args, file: str, data: dict[str, np.ndarray]):
    if (data["reward"] < 0).all():
        print(f"warning: {file}: no success of {args.env_id} in {len(data['mask'])} steps", file=sys.stderr)


class ReplayBuffer:
    """Ring of environment steps, one row each, on one device: first the dataset's, then the online ones in order."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: torch.device):
        self.widths = {"obs": obs_dim, "action": action_dim, "reward": 1, "mask": 1, "terminal": 1, "next_obs": obs_dim}
        needed = 4 * capacity * sum(self.widths.values())
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
        print(f"replay buffer: {capacity} steps, {needed / 2**30:.2f} GiB of {free / 2**30:.1f} GiB free")
        most = int(0.8 * free / needed * capacity)
        require(needed <= free, f"--buffer-size {capacity}: more than the free memory; {most} would fit")
        self.rows = torch.empty(capacity, sum(self.widths.values()), device=device)
        self.offline = self.count = 0  # rows of the dataset, and online steps, of which the ring may hold the last only

    def load(self, data: dict[str, np.ndarray]):
        """Put a dataset, or its next shard, in the first rows. Only before the first online step."""
        self.offline = len(data["reward"])
        for name in self.widths:
            self.dataset(name)[:] = torch.from_numpy(data[name].reshape(self.offline, -1)).to(self.rows.device)
        # What tells the dataset, or its shard, from another: the ring may overwrite it later.
        self.fingerprint = [self.offline, self.rows[: self.offline].view(torch.int32).sum().item()]

    def dataset(self, name: str) -> torch.Tensor:
        """A column (N, n) of the dataset's steps."""
        columns = self.rows[: self.offline].split(list(self.widths.values()), dim=1)
        return dict(zip(self.widths, columns, strict=True))[name]

    def add(self, **step) -> bool:
        """Store one online step, given by name as NumPy arrays and numbers; False if it is not finite in float32."""
        row = np.concatenate([np.atleast_1d(step[name]) for name in self.widths], dtype=np.float32)
        self.rows[(self.offline + self.count) % len(self.rows)] = torch.from_numpy(row)
        self.count += 1
        return np.isfinite(row).all()

    def read(self, start: int) -> np.ndarray:
        """Rows of the online steps number start, .., count - 1, of which the ring must hold all."""
        return self.rows[(self.offline + torch.arange(start, self.count)) % len(self.rows)].cpu().numpy()

    def write(self, end: int, rows: np.ndarray):
        """Put back what `read` returned when `count` was end."""
        index = (self.offline + torch.arange(end - len(rows), end)) % len(self.rows)
        self.rows[index] = torch.from_numpy(rows).to(self.rows.device)
        self.count = end

    def sample(self, batch: int, length: int, gamma: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Chunks that start uniformly among the steps in the order they were made, so that none spans the ring's seam:
        obs (B, n), action (B, length m), reward (B,) discounted within the chunk, mask (B,) the least, next_obs (B, n)
        of the last step, valid (B, length), 0 behind the end of an episode."""
        total = self.offline + self.count
        stored = min(total, len(self.rows))
        start = torch.randint(stored - length + 1, (batch,), generator=generator, device=generator.device)
        start += total - stored
        index = (start[:, None] + torch.arange(length, device=start.device)) % len(self.rows)
        rows = dict(zip(self.widths, self.rows[index].split(list(self.widths.values()), dim=2), strict=True))
        ended = rows["terminal"].squeeze(2).cumsum(1) > 0
        valid = torch.cat([torch.ones_like(ended[:, :1]), ~ended[:, :-1]], dim=1).float()
        discounts = gamma ** torch.arange(length, device=start.device)
        chunk = {"obs": rows["obs"][:, 0], "action": rows["action"].flatten(1), "valid": valid}
        chunk |= {"reward": (rows["reward"].squeeze(2) * discounts).sum(1), "mask": rows["mask"].squeeze(2).amin(1)}
        return chunk | {"next_obs": rows["next_obs"][:, -1]}


# sync: o2o-check
def check(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy; returns the device."""
    inf, autotune = math.inf, getattr(args, "autotune", False)
    limits = dict.fromkeys(("seed", "offline_steps", "total_timesteps", "learning_starts", "learning_rate"), (0, inf))
    limits |= dict.fromkeys(("eval_frequency", "checkpoint_frequency", "beta_offline", "beta_online"), (0, inf))
    limits |= {"gamma": (0, 1), "tau": (0, 1), "alpha": (1e-9 if autotune else 0, inf), "critic_hidden_dim": (2, inf)}
    limits |= dict.fromkeys(("distill", "pretrain_lr", "actor_lr", "critic_lr", "critic_warmup", "ent_coef"), (0, inf))
    limits |= dict.fromkeys(("vf_coef", "target_kl", "max_grad_norm"), (0, inf))
    limits |= dict.fromkeys(("sigma", "min_std", "max_std"), (1e-4, 2)) | {"action_bound": (0.5, 1 - 1e-6)}
    limits |= dict.fromkeys(("ema", "gae_lambda", "clip_coef"), (0, 1))
    for field in fields(args):
        value, flag = getattr(args, field.name), "--" + field.name.replace("_", "-")
        low, high = limits.get(field.name, (1 if type(value) is int else -inf, inf))
        fine = type(value) not in (int, float) or (low <= value <= high and abs(value) < inf)
        require(fine, f"{flag} {value}: choose a number from {low} to {high}")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    device = ("cuda" if "cuda" in devices else "cpu") if args.device == "auto" else args.device
    for flag, fine, remedy in (
        ("total_timesteps", args.offline_steps + args.total_timesteps, "nothing to do; raise it or --offline-steps"),
        ("device", device in devices, f"not available here; choose auto, {', '.join(devices)}"),
        ("eval_only", not args.eval_only or args.resume, "name the run's folder with --resume"),
        ("track", not args.track or args.eval_only or importlib.util.find_spec("wandb"), "pip install wandb first"),
        ("capture_video", not args.capture_video or importlib.util.find_spec("moviepy"), "pip install moviepy first"),
    ):
        require(fine, f"--{flag.replace('_', '-')} {getattr(args, flag)}: {remedy}")
    return torch.device(device)


# sync: o2o-critic
def gelu_mlp(sizes: list[int], norm: bool) -> nn.Sequential:
    """Linear layers of these sizes with GELU, and LayerNorm behind it, in between; Glorot-uniform, zero biases."""
    layers = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.GELU("tanh")] + [nn.LayerNorm(fan_out, eps=1e-6)] * norm
        nn.init.xavier_uniform_(layers[-2 - norm].weight)
        nn.init.zeros_(layers[-2 - norm].bias)
    return nn.Sequential(*layers[: -1 - norm])


class Standardize(nn.Module):
    """(x - mean) / deviation of the dataset within [-10, 10] once fitted, before that the identity."""

    def __init__(self, n: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("std", torch.ones(n))
        self.register_buffer("bound", torch.tensor(math.inf))

    def fit(self, x: torch.Tensor):
        """x (N, n). In place, so that frozen views follow; what does not vary is only centred."""
        std, mean = torch.std_mean(x, dim=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-4, std, 1.0))
        self.bound.fill_(10.0)  # what hardly varies in the data may come out at hundreds of deviations online

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.mean) / self.std).clamp(-self.bound, self.bound)


class Critic(nn.Module):
    """Two Q-functions: obs (B, n), chunk (B, d) -> (2, B), in units of return."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: int):
        super().__init__()
        self.norm = Standardize(obs_dim)
        self.heads = nn.ModuleList(gelu_mlp([obs_dim + action_dim, *[hidden] * 4, 1], norm=True) for _ in range(2))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.norm(obs), action], dim=1)
        return torch.cat([head(x).T for head in self.heads])


# sync: end
class Actor(nn.Module):
    """The imitating flow and the one-step policy that is distilled from it, both over chunks."""

    def __init__(self, obs_dim: int, action_dim: int, args: Args):
        super().__init__()
        self.action_dim, self.flow_steps, hidden = action_dim, args.flow_steps, [args.policy_hidden_dim] * 4
        self.norm = Standardize(obs_dim)
        self.flow = gelu_mlp([obs_dim + action_dim + 1, *hidden, action_dim], norm=False)
        self.one_step = gelu_mlp([obs_dim + action_dim, *hidden, action_dim], norm=False)

    def velocity(self, obs: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """obs (B, n), x (B, d), t (B, 1) in [0, 1] -> v (B, d)."""
        return self.flow(torch.cat([self.norm(obs), x, t], dim=1))

    def imitate(self, obs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The chunk (B, d) that the flow carries z to, by Euler steps."""
        x = z
        for k in range(self.flow_steps):
            x = x + self.velocity(obs, x, torch.full_like(x[:, :1], k / self.flow_steps)) / self.flow_steps
        return x.clamp(-1, 1)

    def forward(self, obs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The one-step policy's chunk (B, d), not clipped: distillation sees what lies beyond the bounds."""
        return self.one_step(torch.cat([self.norm(obs), z], dim=1))


# sync: frozen-view
def frozen_view(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode and without gradients, on the same storage: it follows every in-place update.

    CrossQ acts, and computes a' and the actor's loss, with running statistics: a view spares switching modes.
    """
    view = copy.deepcopy(module).eval().requires_grad_(False)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        for mine, original in zip(tensors(view), tensors(module), strict=True):
            mine.data = original.data
    return view


# sync: end
def critic_loss(critic, target_critic, actor, batch, z, discount):
    """Bellman error of whole chunks, and the mean Q. The actor is a frozen view."""
    # Target.
    next_value = target_critic(batch["next_obs"], actor(batch["next_obs"], z).clamp(-1, 1)).mean(0)
    target = (batch["reward"] + discount * batch["mask"] * next_value).detach()
    # Critic.
    q = critic(batch["obs"], batch["action"])
    return ((q - target).square() * batch["valid"][:, -1]).mean(), q.detach().mean()


def actor_loss(actor, actor_view, critic, batch, x_0, t, z, distill):
    """Flow matching of valid steps, and distillation with ascent of Q: the sum, then each. Takes frozen views."""
    # Flow.
    x_1 = batch["action"]
    v = actor.velocity(batch["obs"], (1 - t) * x_0 + t * x_1, t)
    error = (v - (x_1 - x_0)).square().unflatten(1, (batch["valid"].shape[1], -1))
    flow = (error * batch["valid"][:, :, None]).mean()
    # One-step policy.
    action = actor(batch["obs"], z)
    distance = F.mse_loss(action, actor_view.imitate(batch["obs"], z).detach())
    q = critic(batch["obs"], action.clamp(-1, 1)).mean()
    return flow + distill * distance - q, flow.detach(), distance.detach()


# sync: blas-products
@contextmanager
def blas_products():
    """Products by BLAS, which on a CPU is two to three times faster than oneDNN for a batch as small as acting's."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(usual)


# sync: compiler
def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds Python.h and its compiler: of C++ on a CPU, of C, for Triton's launchers, on CUDA."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    names = (os.environ.get("CXX", usual),) if device.type == "cpu" else (os.environ.get("CC", "gcc"), "clang")
    return os.path.exists(sysconfig.get_path("include") + "/Python.h") and any(map(shutil.which, names))


# sync: hold-signals
@contextmanager
def hold_signals():
    """Signals to stop wait until the end: torch.compile runs a C++ compiler in there, which may get them as well."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# sync: o2o-evaluate
def evaluate(act, args: Args, env: gym.Env, device: torch.device) -> dict[str, float]:
    """Success rate, mean return and length of --eval-episodes noise-free episodes: success is the last step's. Same
    seed, same start states and A_0."""
    generator, totals = torch.Generator(device).manual_seed(10_000 + args.seed), np.zeros(3)
    for episode in range(args.eval_episodes):
        obs, queue, running = reset(env, 10_000 * args.seed + episode), [], True
        while running:
            queue = queue or list(act(obs, generator, True))
            obs, reward, terminated, truncated, info = env.step(queue.pop(0))
            totals += info["success"] * (terminated or truncated), reward, 1
            running = not (terminated or truncated)
    return dict(zip(("success", "episodic_return", "episodic_length"), totals / args.eval_episodes, strict=True))


# sync: files
STOP = []  # the signal that asked the run to end, once one has


def stop(number: int, _):
    """Signal handler: the run ends with a checkpoint at its next step, and at once on the second signal of a kind."""
    STOP.append(number)
    signal.signal(number, signal.SIG_DFL)
    with suppress(OSError):  # not print, which the signal may have interrupted
        os.write(1, b"stopping at the next step; the same signal again ends the run without a checkpoint\n")


def write_file(path: str, data: bytes | np.ndarray) -> bytes:
    """Write data and its SHA-256 beside the old file, then swap: a reader sees one of them, whole."""
    digest = hashlib.sha256(data).digest()
    with open(path + ".tmp", "wb") as file:
        file.writelines((data, digest))
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)
    return digest


def read_file(run: str, name: str, digest: bytes | None = None) -> np.ndarray:
    """The bytes that `write_file` was given; ends the program where they are missing, damaged or not the expected."""
    try:
        data = np.fromfile(os.path.join(run, name), dtype=np.uint8)
    except OSError as error:
        require(False, f"--resume {run}: {name}: {error.strerror}; name a run folder that holds a checkpoint")
    whole = hashlib.sha256(data[:-32]).digest() == data[-32:].tobytes() == (digest or data[-32:].tobytes())
    require(whole, f"--resume {run}: {name} is damaged, its checksum differs; restore the file or start a new run")
    return data[:-32]


def say(text: str):
    """Print above the progress bar; a full disk under a redirected output must not end the run."""
    with suppress(OSError):
        tqdm.write(text)
        sys.stdout.flush()


# sync: save-checkpoint
def save_checkpoint(run: str, state: dict, buffer: ReplayBuffer, segments: list) -> list:
    """Write checkpoint.pt, and the transitions since the last one as a segment of the replay buffer. Returns the
    segments in use, (file, end, SHA-256) each, whose last end is the checkpoint's step: on a full disk the old ones."""
    began, oldest = time.perf_counter(), max(0, buffer.count - len(buffer.rows))
    start = max(oldest, segments[-1][1] if segments else 0)
    name, rows, blob = f"replay-{start}-{buffer.count}.bin", buffer.read(start), io.BytesIO()
    try:
        new = [(name, buffer.count, write_file(os.path.join(run, name), rows))] if len(rows) else []
        new = [old for old in segments if old[1] > oldest] + new
        torch.save(state | {"segments": new, "script": os.path.basename(__file__)}, blob)
        write_file(os.path.join(run, "checkpoint.pt"), blob.getvalue())
        size, seconds, segments = (rows.nbytes + blob.tell()) / 2**20, time.perf_counter() - began, new
        say(f"step {state['step']}  checkpoint: {size:.1f} MiB in {seconds:.2f} s")
    except OSError as error:
        say(f"step {state['step']}  no checkpoint: {error.strerror}; the last one stays, going on")
    for file in set(os.listdir(run)) - {segment[0] for segment in segments}:
        if file.startswith("replay-") or file.endswith(".tmp"):  # outdated, or of a checkpoint that failed
            os.unlink(os.path.join(run, file))
    return segments


def load_checkpoint(run: str) -> dict:
    """The state that `save_checkpoint` was given; nothing in the file can execute."""
    data, own = read_file(run, "checkpoint.pt"), os.path.basename(__file__)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        writer = state["script"]
        require(writer == own, f"--resume {run}: written by {writer}, not by {own}; resume it with {writer}")
        state["args"] = Args(**state["args"])
    except Exception as error:  # whatever a foreign file makes the reader raise
        reason = str(error).splitlines()[0]
        require(False, f"--resume {run}: checkpoint.pt is foreign or of another version ({reason}); start a new run")
    return state


def read_args(argv: list[str] | None = None) -> Args:
    """The command line's flags; with --resume they complete the checkpoint's, and must not contradict them."""
    args = tyro.cli(Args, args=argv)
    if hasattr(args, "size"):
        require(args.size in Args.SIZES, f"--size {args.size}: choose {' or '.join(Args.SIZES)}")
        args = tyro.cli(Args, args=argv, default=replace(Args(), **Args.SIZES[args.size]))
    if args.resume is not None:
        old = replace(load_checkpoint(args.resume)["args"], resume=args.resume, eval_only=args.eval_only)
        args = tyro.cli(Args, args=argv, default=old)
        free = ("eval_episodes", "capture_video", "device", "compile") if args.eval_only else ("checkpoint_frequency",)
        free += ("dataset_path",)  # offline to online, where a checksum knows the data
        for name, value in asdict(old).items():
            new, flag = getattr(args, name), "--" + name.replace("_", "-")
            fine = new == value or name in free or (name == "total_timesteps" and new > value)
            require(fine, f"{flag} {new}: the checkpoint has {value}; leave the flag out or start a new run")
    return args


# sync: start-run
class EventFile(io.FileIO):
    """TensorBoard's own file ends the run when the disk is full; here, what finds no space waits in memory."""

    waiting = b""

    def write(self, data: bytes = b""):
        self.waiting += data
        with suppress(OSError):
            while self.waiting:
                self.waiting = self.waiting[super().write(self.waiting) :]

    flush = write


def start_run(args: Args, device: torch.device, step: int) -> tuple[str, SummaryWriter]:
    """Make the run's folder and record what is needed to repeat the run; with --resume go on in it after `step`."""
    name, now, path = f"{args.env_id.replace('/', '-')}__{args.exp_name}__{args.seed}", int(time.time()), args.resume
    while path is None:
        folder = os.path.join(args.run_dir, f"{name}__{now}")
        try:
            os.makedirs(folder)
            path = folder
        except FileExistsError:
            now += 1  # of a run that began in the same second
        except OSError as error:
            require(False, f"--run-dir {args.run_dir}: {error.strerror or error}; choose a folder that can be written")
    if args.track:
        import wandb

        run = os.path.basename(os.path.normpath(path))  # --resume may end in a slash
        names = {"project": args.wandb_project_name, "entity": args.wandb_entity, "id": run, "name": run}
        try:
            wandb.init(config=asdict(args), sync_tensorboard=True, resume="allow", **names)
        except Exception as error:
            if not args.resume:
                os.rmdir(path)
            require(False, f"--track: {error}; run `wandb login` first, or set WANDB_MODE=offline")
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    git = "" if shutil.which("git") is None else subprocess.run(command, capture_output=True, text=True).stdout.strip()
    versions = {module.__name__: module.__version__ for module in (torch, gym, mujoco, np)}
    versions |= {"python": sys.version.split()[0], "git": git or "unknown", "device": str(device)}
    writer = SummaryWriter(path, purge_step=step + 1 if step else None)  # readers drop what came after the checkpoint
    writer.flush()  # makes the file, which EventFile then takes over; private attributes of the pinned tensorboard
    events = writer.file_writer.event_writer
    events._async_writer._writer._writer = EventFile(events._file_name, "ab")
    for title, table in (("hyperparameters", asdict(args)), ("versions", versions)):
        rows = "\n".join(f"|{key}|{value}|" for key, value in table.items())
        writer.add_text(title, "|name|value|\n|-|-|\n" + rows, step)
    print(f"run: {path}", flush=True)
    return path, writer


# sync: o2o-main
def main(args: Args) -> str:
    """Pretrain and train, or go on with a run, or only evaluate it; returns the run's folder."""
    args = with_presets(args)
    device = check(args)
    checkpoint = load_checkpoint(args.resume) if args.resume else {"step": 0, "segments": []}
    was = checkpoint.get("device", device.type)
    same = was == device.type or args.eval_only
    require(same, f"--device {device.type}: the checkpoint is of a run on {was}; resume it there")
    last_step = args.offline_steps + args.total_timesteps
    require(checkpoint["step"] < last_step or args.eval_only, "--resume: finished; raise --total-timesteps")
    # Evaluating needs no data, but robosuite's environment is made from them.
    files = find_dataset(args) if args.env_id in ROBOMIMIC or not args.eval_only else []
    env, eval_env = make_env(args, "" if args.capture_video else None), None
    obs_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    if not args.eval_only:
        most_rows = 0 if args.env_id in ROBOMIMIC else check_ogbench(args, files, env)
        # The shard of the first update, or of the checkpoint's last.
        shard = max(min(checkpoint["step"], args.offline_steps) - 1, 0) // args.shard_steps % len(files)
        data = load_dataset(args, files[shard], env)
        warn_without_success(args, files[shard], data)
        capacity = max(args.buffer_size, len(data["reward"]) + 1, most_rows + 1)
        buffer = ReplayBuffer(capacity, obs_dim, action_dim, device)
        buffer.load(data)
        del data

    # Networks and optimizers.
    # "medium" sends float32 products to oneDNN on a CPU (bfloat16 only where the CPU has AMX), "high" is TF32 on CUDA.
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "high")
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    chunk_dim, discount = args.horizon_length * action_dim, args.gamma**args.horizon_length
    critic = Critic(obs_dim, chunk_dim, args.critic_hidden_dim).to(device)
    target_critic = copy.deepcopy(critic).requires_grad_(False)
    critic_view = frozen_view(critic)
    compile_fn = torch.compile
    if not args.compile or not has_compiler(device):
        compile_fn = lambda function, **_: function  # noqa: E731
        if args.compile:
            print("no compiler or no Python.h found: running without torch.compile, slower")

    def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def adam(*parameters) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=args.learning_rate, fused=True)

    # sync: end
    actor = Actor(obs_dim, chunk_dim, args).to(device)
    actor_view = frozen_view(actor)
    # The authors' code has one Adam and one summed loss: there the actor follows the critic of before this update.
    actor_optimizer, critic_optimizer = adam(*actor.parameters()), adam(*critic.parameters())
    critic_loss_fn, actor_loss_fn = (compile_fn(function, dynamic=False) for function in (critic_loss, actor_loss))

    def draw_noise(batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, chunk_dim, generator=generator, device=device)

    def act(obs: np.ndarray, generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """The next chunk (h, m): a sample of the one-step policy, which has no other noise to leave out."""
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)[None]
        with blas_products():
            chunk = actor_view(obs_tensor, draw_noise(1, generator)).clamp(-1, 1)
        return chunk.view(args.horizon_length, action_dim).cpu().numpy()

    @hold_signals()
    def update(online: bool) -> dict[str, torch.Tensor]:
        """One update, the same offline and online; returns tag -> value to log, on the device."""
        batch = buffer.sample(args.batch_size, args.horizon_length, args.gamma, generator)
        # Critic.
        noise = draw_noise(args.batch_size, generator)
        loss, q = critic_loss_fn(critic, target_critic, actor_view, batch, noise, discount)
        descend(critic_optimizer, loss)
        with torch.no_grad():  # or the targets would drag along the graph of all their updates
            torch._foreach_lerp_(list(target_critic.parameters()), list(critic.parameters()), args.tau)
        metrics = {"losses/qf_loss": loss.detach(), "losses/qf_values": q}
        # Actor.
        x_0, z = draw_noise(args.batch_size, generator), draw_noise(args.batch_size, generator)
        t = torch.rand(args.batch_size, 1, generator=generator, device=device)
        loss, flow, distance = actor_loss_fn(actor, actor_view, critic_view, batch, x_0, t, z, args.distill)
        descend(actor_optimizer, loss)
        metrics |= {"losses/actor_loss": loss.detach(), "losses/flow_loss": flow, "losses/distillation": distance}
        return metrics

    def statistics(step: int) -> dict[str, torch.Tensor]:
        """Standard deviation of the one-step policy's actions at one state, mean over states and dimensions."""
        own = torch.Generator(device).manual_seed(step)  # logging must not move the training's random numbers
        obs = buffer.sample(16, args.horizon_length, args.gamma, own)["obs"].repeat_interleave(16, dim=0)
        with torch.no_grad():
            actions = actor_view(obs, draw_noise(len(obs), own)).clamp(-1, 1)
        return {"policy/std": actions.unflatten(0, (16, 16)).std(1).mean()}

    parts = {"actor": actor}
    # sync: o2o-loop
    for part in (actor, critic, target_critic) if args.normalize_obs and not args.resume else ():
        part.norm.fit(buffer.dataset("obs"))
    # A checkpoint is these parts, the generator, the episode's actions, the counters and the online steps.
    parts |= {"critic": critic, "target_critic": target_critic}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    try:
        for name in parts if args.resume else ():
            parts[name].load_state_dict(checkpoint[name])
    except Exception as error:
        reason = str(error).splitlines()[0]
        require(False, f"--resume {args.resume}: of another version of the script or of {args.env_id} ({reason})")
    segments = checkpoint["segments"]
    if args.resume and not args.eval_only:
        same = buffer.fingerprint == checkpoint["data"]
        require(same, f"--resume {args.resume}: the files of {args.dataset_path} have changed since; restore them")
    for name, end, digest in () if args.eval_only else segments:
        rows = read_file(args.resume, name, digest).view(np.float32)
        buffer.write(end, rows.reshape(-1, buffer.rows.shape[1]))

    # The run's folder: bad input has ended the program by now.
    path, writer = (args.resume, None) if args.eval_only else start_run(args, device, checkpoint["step"])
    if args.eval_frequency or args.eval_only:
        video = os.path.join(path, "videos", str(int(time.time())))  # a resumed run keeps its earlier ones
        eval_env = make_env(args, video if args.capture_video else None)
    if args.eval_only:
        scores = evaluate(act, args, eval_env, device)
        print(f"step {checkpoint['step']}  " + "  ".join(f"{name} {value:.3g}" for name, value in scores.items()))
        for finished in (env, eval_env):  # this writes the video
            finished.close()
        return path
    if not args.resume:
        packages = [name for name in ("ogbench", "robosuite", "dm_control") if importlib.util.find_spec(name)]
        table = {name: importlib.metadata.version(name) for name in packages}
        table |= {"files": len(files), "first": files[0], "steps": buffer.offline}
        table |= {"successes": int((buffer.dataset("reward") == 0).sum())}
        rows = "\n".join(f"|{key}|{value}|" for key, value in table.items())
        writer.add_text("data", "|name|value|\n|-|-|\n" + rows)
    episode, episode_return, metrics, queue, taken = 0, 0.0, {}, [], []
    if args.resume:
        generator.set_state(checkpoint["generator"])
        episode, episode_return = checkpoint["counters"]
        queue, taken = ([action.numpy() for action in checkpoint[name]] for name in ("queue", "taken"))
        obs = reset(env, episode_seed(args, episode))
        for action in taken:  # the simulation is a function of the seed and these
            obs = env.step(action)[0]

    def require_finite(**named):
        """End the run before what is not finite reaches the replay buffer or a checkpoint."""
        named = metrics | {"losses/qf_loss": loss_sum} | named
        bad = [k for k, value in named.items() if not torch.as_tensor(value, dtype=torch.float32).isfinite().all()]
        if bad:
            writer.close()
            last = f"the last checkpoint is in {path}" if os.path.exists(f"{path}/checkpoint.pt") else "no checkpoint"
            print(f"error: step {step}: {', '.join(bad)}: not finite; {last}", file=sys.stderr)
            raise SystemExit(1)

    loss_sum = torch.zeros((), device=device)  # of the critics: not finite from the first such loss on
    first_online = args.offline_steps + args.learning_starts  # behind it more is compiled
    window_start, window_step, steps_per_second = time.perf_counter(), checkpoint["step"], math.nan
    progress = tqdm(total=last_step, initial=checkpoint["step"], unit="step", disable=not sys.stderr.isatty())
    for step in range(checkpoint["step"] + 1, last_step + 1):
        online_step = step - args.offline_steps
        if online_step <= 0 and (step - 1) // args.shard_steps % len(files) != shard:
            shard = (step - 1) // args.shard_steps % len(files)
            data = load_dataset(args, files[shard], env)
            warn_without_success(args, files[shard], data)
            buffer.load(data)
        metrics = {}  # what is not computed in this step is not logged
        if online_step <= 0 or online_step > args.learning_starts:
            metrics = update(online_step > 0)
            loss_sum += metrics["losses/qf_loss"]
        if online_step == 1:  # and not earlier: relabelling a shard resets the environment too
            obs = reset(env, episode_seed(args, episode))
        if online_step > 0:
            queue = queue or list(act(obs, generator, False))
            action = queue.pop(0)
            if not np.isfinite(action).all():
                require_finite(obs=obs, action=action)
            next_obs, reward, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            row = {"obs": obs, "action": action, "reward": reward, "mask": 1 - terminated, "terminal": ended}
            if not buffer.add(**row, next_obs=next_obs):
                require_finite(**row, next_obs=next_obs)
            obs, episode_return = next_obs, episode_return + float(reward)
            taken.append(action)
            if ended:
                writer.add_scalar("charts/episodic_return", episode_return, step)
                writer.add_scalar("charts/episodic_length", len(taken), step)
                writer.add_scalar("charts/success", float(info["success"]), step)
                episode, episode_return, queue, taken = episode + 1, 0.0, [], []
                obs = reset(env, episode_seed(args, episode))

        # Log and evaluate: the only place that reads from the device, besides acting.
        progress.update()
        last = step == last_step
        if step % args.log_frequency == 0 or last:
            now = time.perf_counter()
            warm = window_step > checkpoint["step"] and not window_step <= first_online < step  # nothing compiled
            steps_per_second = (step - window_step) / (now - window_start)
            window_start, window_step = now, step
            if metrics:
                metrics |= statistics(step)
            require_finite()
            for tag, value in metrics.items():
                writer.add_scalar(tag, value.item(), step)
            if warm or last:
                writer.add_scalar("charts/SPS", steps_per_second, step)
        if eval_env and (step % args.eval_frequency == 0 or step == args.offline_steps or last):
            start = time.perf_counter()
            scores = evaluate(act, args, eval_env, device)
            for name, value in scores.items():
                writer.add_scalar(f"eval/{name}", value, step)
            phase = "online" if online_step > 0 else "offline"
            score = f"success {scores['success']:.2f}  eval return {scores['episodic_return']:.1f}"
            rate = "" if math.isnan(steps_per_second) else f"{steps_per_second:.0f} steps/s"
            say(f"step {step}/{last_step} {phase}  {score}  {rate}")
            window_start += time.perf_counter() - start  # steps/s is of training alone

        # The model, then a checkpoint: that of the last step says that all is done.
        if args.save_model and last:
            state = {name: part.state_dict() for name, part in parts.items() if isinstance(part, nn.Module)}
            torch.save(state | {"args": asdict(args)}, os.path.join(path, "model.pt"))
        due = args.checkpoint_frequency and (step % args.checkpoint_frequency == 0 or last)
        if due or STOP:
            require_finite()
            writer.flush()
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step, "args": asdict(args)}
            state |= {"generator": generator.get_state(), "data": buffer.fingerprint, "device": device.type}
            state |= {"queue": list(map(torch.as_tensor, queue)), "taken": list(map(torch.as_tensor, taken))}
            state["counters"] = episode, episode_return
            segments = save_checkpoint(path, state, buffer, segments)
        if STOP:
            break
    progress.close()
    writer.close()
    for finished in (env, eval_env) if eval_env else (env,):
        finished.close()
    if STOP and step < last_step:
        say(f"interrupted; go on with: python {sys.argv[0]} --resume {path}")
        raise SystemExit(128 + STOP[0])
    return path


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    main(read_args())
