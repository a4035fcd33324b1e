"""ReinFlow: a flow policy pretrained on demonstrations, then improved online by PPO on its noisy chain.

Zhang et al., "ReinFlow: Fine-tuning Flow Matching Policy with Online Reinforcement Learning", arXiv 2505.22094, on
low-dimensional observations. PPO needs the density of the sampled chain only, not of the action.

    python reinflow.py --env-id can --dataset-path low_dim_v15.hdf5
    python reinflow.py --env-id lift --dataset-path data/lift.hdf5 --num-envs 10 --num-steps 60 --batch-size-online 600
    tensorboard --logdir runs
"""

# Symbols: s observation, x_k intermediate chunk (B, d) of h actions, d = h * action dimension, normalised to [-1, 1] by
# the data's range, v velocity, K steps, sigma(s) noise scale, B batch size.
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


# sync: end
@dataclass
class Args:
    env_id: str = "can"  # lift, can or square, or an OGBench cube or scene task
    dataset_path: str | None = None  # robomimic .hdf5, or OGBench .npz; default the official one
    seed: int = 1  # seed of the networks, the noise, the sampling and the environments
    offline_steps: int = 200_000  # updates of flow matching before the first environment step
    total_timesteps: int = 1_000_000  # environment steps after those
    horizon_length: int = 4  # h, actions of a chunk, executed open loop
    batch_size: int = 256  # chunks per update of flow matching
    pretrain_lr: float = 1e-4  # AdamW step size of flow matching, to a tenth along a cosine
    ema: float = 0.995  # decay of the average of weights that fine-tuning starts from
    num_envs: int = 50  # environments, stepped in turn
    num_steps: int = 300  # chunks per environment and iteration, which begins with fresh episodes
    batch_size_online: int = 10_000  # chunks per update of PPO
    update_epochs: int = 5  # passes over an iteration's chunks; the actor's end beyond --target-kl
    gamma: float = 0.999  # discount per chunk
    gae_lambda: float = 0.95  # of generalised advantage estimation
    clip_coef: float = 0.01  # PPO's range of the ratio
    ent_coef: float = 0.01  # weight of the chain's entropy per step and dimension
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 25.0  # clip of the gradient's norm
    target_kl: float = 0.01  # estimated divergence that ends an iteration's updates of the actor
    critic_warmup: int = 2  # iterations that update the critic alone
    actor_lr: float = 4.5e-5  # AdamW step size of flow and noise, to less than half along a cosine
    critic_lr: float = 6.5e-4  # AdamW step size of the critic
    sampling_steps: int = 4  # K, steps of the flow
    min_std: float = 0.08  # least sigma
    max_std: float = 0.14  # largest sigma
    hidden_dim: int = 512  # width of the flow's three hidden layers
    critic_hidden_dim: int = 256  # width of the critic's and the noise network's three hidden layers
    sparse: bool | None = None  # OGBench reward -1 until all is right, not the number of wrong items; default by task
    step_limit: int | None = None  # environment steps after which an episode is truncated; default by task
    success_timing: Literal["pre", "post"] = "pre"  # OGBench reward and success of s (as in the data), or of s'
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # compile flow matching's loss with torch.compile; on a CPU this needs a C++ compiler
    eval_frequency: int = 100_000  # offline updates or environment steps between evaluations, 0 for none
    eval_episodes: int = 50  # noise-free episodes per evaluation
    log_frequency: int = 1000  # offline updates between writes of the loss; online every iteration is written
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


PRESETS = {  # sparse rewards, step limit
    "cube-single": (False, 200),
    "cube-double": (False, 500),
    "cube-triple": (False, 1000),
    "cube-quadruple": (False, 1000),
    "scene": (True, 750),
    "lift": (False, 500),
    "can": (False, 500),
    "square": (False, 500),
}
PRESET_FLAGS = "sparse", "step_limit"


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


# sync: end
def mlp(sizes: list[int], activation: type) -> nn.Sequential:
    layers = [nn.Linear(sizes[0], sizes[1])]
    for fan_in, fan_out in zip(sizes[1:-1], sizes[2:], strict=True):
        layers += [activation(), nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """Flow policy with a learned noise scale: x_{k+1} = clip(x_k + v / K, -1, 1) + sigma(s) eps, all normalised."""

    def __init__(self, obs_range: torch.Tensor, action_range: torch.Tensor, args: Args):
        """obs_range (2, n) and action_range (2, d): the data's least and largest values."""
        super().__init__()
        self.K, self.action_dim = args.sampling_steps, action_range.shape[1]
        self.register_buffer("obs_range", obs_range)
        self.register_buffer("action_range", action_range)
        self.register_buffer("frequency", torch.exp(-math.log(1e4) / 15 * torch.arange(16)))
        self.time = nn.Sequential(nn.Linear(32, 64), nn.Mish(), nn.Linear(64, 32))
        obs_dim, hidden = obs_range.shape[1], [args.hidden_dim] * 3
        self.velocity_net = mlp([obs_dim + self.action_dim + 32, *hidden, self.action_dim], nn.ReLU)
        self.noise_net = mlp([obs_dim, *[args.critic_hidden_dim] * 3, self.action_dim], nn.Tanh)
        self.log_vars = 2 * math.log(args.min_std), 2 * math.log(args.max_std)

    @staticmethod
    def _scaled(x: torch.Tensor, span: torch.Tensor) -> torch.Tensor:
        return 2 * (x - span[0]) / (span[1] - span[0]).clamp(min=1e-4) - 1

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:
        return self._scaled(obs, self.obs_range)

    def normalize_action(self, action: torch.Tensor) -> torch.Tensor:
        return self._scaled(action, self.action_range)

    def to_env(self, x: torch.Tensor) -> torch.Tensor:
        """Chunks (B, d) in environment units from x_K."""
        low, high = self.action_range
        return low + (x.clamp(-1, 1) + 1) / 2 * (high - low)

    def velocity(self, obs: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """obs (B, n) normalised, x (B, d), t (B, 1) in [0, 1] -> v (B, d)."""
        angle = t * self.frequency
        return self.velocity_net(torch.cat([obs, x, self.time(torch.cat([angle.sin(), angle.cos()], dim=1))], dim=1))

    def mean(self, obs: torch.Tensor, x: torch.Tensor, k: int) -> torch.Tensor:
        """Mean of x_{k+1} given x_k = x. One function for sampling and density: their times k / K cannot part."""
        return (x + self.velocity(obs, x, torch.full_like(x[:, :1], k / self.K)) / self.K).clamp(-1, 1)

    def std(self, obs: torch.Tensor) -> torch.Tensor:
        """sigma (B, d), between --min-std and --max-std."""
        low, high = self.log_vars
        return torch.exp(0.5 * (low + 0.5 * (high - low) * (torch.tanh(self.noise_net(obs)) + 1)))

    def sample(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """obs (B, n), noise (K + 1, B, d) -> chain x_0, .., x_K (K + 1, B, d); steps' noise is truncated at 3 sigma."""
        obs = self.normalize(obs)
        chain, std = [noise[0]], self.std(obs) * (not deterministic)
        for k in range(self.K):
            chain.append(self.mean(obs, chain[-1], k) + std * noise[k + 1].clamp(-3, 3))
        return torch.stack(chain)

    def log_prob(self, obs: torch.Tensor, chain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-density (B,) of a chain per step and dimension, clamped to [-1, 1] as the authors do, and the mean
        entropy per step, x_0 among them, and dimension."""
        obs = self.normalize(obs)
        std = self.std(obs)
        log_prob = -0.5 * (chain[0].square() + math.log(2 * math.pi)).sum(1)
        for k in range(self.K):
            error = (chain[k + 1] - self.mean(obs, chain[k], k)) / std
            log_prob = log_prob - (0.5 * error.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(1)
        entropy = std.log().mean() * self.K / (self.K + 1) + 0.5 * math.log(2 * math.pi * math.e)
        return (log_prob / (self.K + 1) / self.action_dim).clamp(-1, 1), entropy

    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(self.K + 1, batch, self.action_dim, generator=generator, device=generator.device)


def flow_loss(actor, batch, x_0, t):
    """Flow matching: regress v at (1 - t) x_0 + t x_1 on x_1 - x_0, valid steps alone."""
    x_1 = actor.normalize_action(batch["action"])
    v = actor.velocity(actor.normalize(batch["obs"]), (1 - t) * x_0 + t * x_1, t)
    error = (v - (x_1 - x_0)).square().unflatten(1, (batch["valid"].shape[1], -1))
    return (error * batch["valid"][:, :, None]).mean()


def advantages(reward, value, next_value, terminated, ended, gamma, gae_lambda) -> torch.Tensor:
    """Generalised advantage estimates (T, n). next_value (T, n) is of the chunk's own last observation: a truncated
    episode bootstraps, a terminated one does not, and none looks past its end."""
    delta = reward + gamma * next_value * (1 - terminated) - value
    result, last = torch.zeros_like(delta), torch.zeros_like(delta[0])
    for i in range(len(delta) - 1, -1, -1):
        last = delta[i] + gamma * gae_lambda * (1 - ended[i]) * last
        result[i] = last
    return result


class ReturnScale:
    """Running variance of discounted returns, by whose root an iteration's rewards are divided once its own returns
    are in it: chunk by chunk the first would be divided by the root of a variance of almost 0."""

    def __init__(self, gamma: float):
        self.gamma, self.count, self.mean, self.var = gamma, 1e-4, 0.0, 1.0

    def __call__(self, reward: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        """Rewards (T, n) of fresh episodes in n environments, scaled and clipped to [-10, 10] as the authors do."""
        returns, last = torch.zeros_like(reward), torch.zeros_like(reward[0])
        for i in range(len(reward)):
            returns[i] = last * self.gamma + reward[i]
            last = returns[i] * (1 - ended[i])
        var, mean = (x.item() for x in torch.var_mean(returns.double(), correction=0))
        n = returns.numel()
        total, delta = self.count + n, mean - self.mean
        self.var = (self.var * self.count + var * n + delta**2 * self.count * n / total) / total
        self.mean, self.count = self.mean + delta * n / total, total
        return (reward / math.sqrt(self.var + 1e-8)).clamp(-10, 10)


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


# sync: end
def main(args: Args) -> str:
    """Pretrain and fine-tune, or go on with a run, or only evaluate it; returns the run's folder."""
    args = with_presets(args)
    device = check(args)
    require(args.min_std < args.max_std, f"--min-std {args.min_std}: must be below --max-std")
    checkpoint = load_checkpoint(args.resume) if args.resume else {"step": 0, "segments": []}
    was = checkpoint.get("device", device.type)
    same = was == device.type or args.eval_only
    require(same, f"--device {device.type}: the checkpoint is of a run on {was}; resume it there")
    last_step = args.offline_steps + args.total_timesteps
    require(checkpoint["step"] < last_step or args.eval_only, "--resume: finished; raise --total-timesteps")
    # Evaluating needs no data, but robosuite's environment is made from them.
    files = find_dataset(args) if args.env_id in ROBOMIMIC or not args.eval_only else []
    require(len(files) <= 1, f"--dataset-path {args.dataset_path}: a folder of shards; name one file, or its only one")
    env, eval_env = make_env(args, "" if args.capture_video else None), None
    obs_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    chunk_dim = args.horizon_length * action_dim
    obs_range, action_range = torch.zeros(2, obs_dim), torch.zeros(2, chunk_dim)  # or those of the checkpoint
    if not args.eval_only:
        if args.env_id not in ROBOMIMIC:
            check_ogbench(args, files, env)
        data = load_dataset(args, files[0], env)
        warn_without_success(args, files[0], data)
        buffer = ReplayBuffer(len(data["reward"]) + 1, obs_dim, action_dim, device)
        buffer.load(data)
        obs_range = torch.stack([buffer.dataset("obs").amin(0), buffer.dataset("obs").amax(0)])
        action_range = torch.stack([buffer.dataset("action").amin(0), buffer.dataset("action").amax(0)])
        action_range = action_range.repeat(1, args.horizon_length)

    # Networks and optimizers.
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "high")
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    actor = Actor(obs_range, action_range, args).to(device)
    average = copy.deepcopy(actor).requires_grad_(False)  # of pretraining: what is evaluated, and fine-tuned
    critic = mlp([obs_dim, *[args.critic_hidden_dim] * 3, 1], nn.Mish).to(device)
    flow_loss_fn, act_with = flow_loss, average
    if args.compile and has_compiler(device):
        flow_loss_fn = torch.compile(flow_loss, dynamic=False)
    elif args.compile:
        print("no compiler or no Python.h found: running without torch.compile, slower")
    pretrain_optimizer = torch.optim.AdamW(actor.parameters(), lr=args.pretrain_lr, weight_decay=1e-6, fused=True)
    actor_optimizer = torch.optim.AdamW(actor.parameters(), lr=args.actor_lr, weight_decay=0, fused=True)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=args.critic_lr, weight_decay=1e-5, fused=True)
    scale = ReturnScale(args.gamma)

    def act(obs: np.ndarray, generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """The next chunk (h, m) for an evaluation: pretraining's by the averaged weights."""
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)[None]
        with torch.no_grad(), blas_products():
            chain = act_with.sample(obs_tensor, actor.draw_noise(1, generator), deterministic)
            chunk = act_with.to_env(chain[-1])
        return chunk.view(args.horizon_length, action_dim).cpu().numpy().clip(-1, 1)

    def cosine(optimizer: torch.optim.Optimizer, first: float, last: float, progress: float):
        for group in optimizer.param_groups:
            group["lr"] = last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(progress, 1)))

    def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, module: nn.Module):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), args.max_grad_norm)
        optimizer.step()

    # A checkpoint is these parts, the generator, the running scale of returns and the number of episodes begun.
    parts = {"actor": actor, "average": average, "critic": critic, "pretrain_optimizer": pretrain_optimizer}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    try:
        for name in parts if args.resume else ():
            parts[name].load_state_dict(checkpoint[name])
    except Exception as error:
        reason = str(error).splitlines()[0]
        require(False, f"--resume {args.resume}: of another version of the script or of {args.env_id} ({reason})")
    if args.resume and not args.eval_only:
        same = buffer.fingerprint == checkpoint["data"]
        require(same, f"--resume {args.resume}: the files of {args.dataset_path} have changed since; restore them")
    act_with = actor if checkpoint["step"] > args.offline_steps else average

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
    step, episode, iteration, metrics = checkpoint["step"], 0, 0, {}
    if args.resume:
        generator.set_state(checkpoint["generator"])
        episode, iteration = checkpoint["counters"]
        scale.count, scale.mean, scale.var = checkpoint["scale"].tolist()
    envs = [env] + [make_env(args) for _ in range(args.num_envs - 1) if args.total_timesteps]

    def snapshot() -> dict:
        state = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        state |= {"step": step, "args": asdict(args), "generator": generator.get_state()}
        state["device"] = device.type
        state |= {"data": buffer.fingerprint, "counters": (episode, iteration)}
        return state | {"scale": torch.tensor([scale.count, scale.mean, scale.var], dtype=torch.float64)}

    def require_finite():
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            writer.close()
            print(f"error: step {step}: {', '.join(bad)}: not finite; checkpoints are in {path}", file=sys.stderr)
            raise SystemExit(1)

    def collect() -> dict[str, torch.Tensor]:
        """Fresh episodes in every environment for --num-steps chunks, or to the last step: name -> (T, n, ..)."""
        nonlocal episode, step
        obs = np.stack([reset(one, episode_seed(args, episode + i)) for i, one in enumerate(envs)])
        episode, lengths, returns = episode + len(envs), np.zeros(len(envs)), np.zeros(len(envs))
        rows = {name: [] for name in ("obs", "chain", "reward", "terminated", "ended", "next_obs")}
        for _ in range(args.num_steps):
            obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)
            with torch.no_grad():
                chain = actor.sample(obs_tensor, actor.draw_noise(len(envs), generator))
                chunks = actor.to_env(chain[-1]).view(len(envs), args.horizon_length, action_dim).cpu().numpy()
            reward, terminated, ended = np.zeros((3, len(envs)))
            next_obs, following = obs.copy(), obs.copy()
            for i, one in enumerate(envs):
                for action in chunks[i].clip(-1, 1):
                    next_obs[i], r, terminated[i], truncated, info = one.step(action)
                    reward[i], lengths[i], step = reward[i] + r, lengths[i] + 1, min(step + 1, last_step)
                    if terminated[i] or truncated:
                        ended[i] = 1
                        break
                returns[i] += reward[i]
                following[i] = next_obs[i]
                if ended[i]:
                    writer.add_scalar("charts/episodic_return", returns[i], step)
                    writer.add_scalar("charts/episodic_length", lengths[i], step)
                    writer.add_scalar("charts/success", float(info["success"]), step)
                    following[i] = reset(one, episode_seed(args, episode))
                    episode, lengths[i], returns[i] = episode + 1, 0, 0
            row = {"obs": obs, "reward": reward, "terminated": terminated, "ended": ended}
            for name, value in (row | {"next_obs": next_obs}).items():
                rows[name].append(torch.as_tensor(value, dtype=torch.float32, device=device))
            rows["chain"].append(chain.transpose(0, 1))
            obs = following
            if STOP or step == last_step:
                break
        rollout = {name: torch.stack(values) for name, values in rows.items()}
        return rollout | {"reward": scale(rollout["reward"], rollout["ended"])}

    def improve(rollout: dict[str, torch.Tensor]) -> dict[str, float]:
        """PPO's updates on one iteration's chunks; returns tag -> value to log."""
        with torch.no_grad():
            value, next_value = (critic(actor.normalize(rollout[name])).squeeze(2) for name in ("obs", "next_obs"))
            ends = rollout["terminated"], rollout["ended"], args.gamma, args.gae_lambda
            advantage = advantages(rollout["reward"], value, next_value, *ends)
            flat = {name: rollout[name].flatten(0, 1) for name in ("obs", "chain")}
            flat |= {"advantage": advantage.flatten(), "return": (advantage + value).flatten()}
            flat["log_prob"] = actor.log_prob(flat["obs"], flat["chain"].transpose(0, 1))[0]
        history, divergence = {}, 0.0
        for _ in range(args.update_epochs):
            order = torch.randperm(len(flat["obs"]), generator=generator, device=device)
            for index in order.split(args.batch_size_online):
                batch = {name: values[index] for name, values in flat.items()}
                # Critic.
                loss = 0.5 * F.mse_loss(critic(actor.normalize(batch["obs"])).squeeze(1), batch["return"])
                descend(critic_optimizer, args.vf_coef * loss, critic)
                values = {"losses/value_loss": loss.item()}
                if iteration >= args.critic_warmup and divergence <= args.target_kl:
                    # Actor.
                    log_prob, entropy = actor.log_prob(batch["obs"], batch["chain"].transpose(0, 1))
                    ratio = (log_prob - batch["log_prob"]).exp()
                    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                    var, mean = torch.var_mean(batch["advantage"], correction=0)
                    advantage = (batch["advantage"] - mean) / (var.sqrt() + 1e-8)
                    gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
                    descend(actor_optimizer, -gain - args.ent_coef * entropy, actor)
                    divergence = ((ratio - 1) - ratio.log()).mean().item()
                    clip_share = ((ratio - 1).abs() > args.clip_coef).float().mean().item()
                    values |= {"losses/actor_loss": -gain.item(), "losses/approx_kl": divergence}
                    values |= {"losses/clip_fraction": clip_share, "policy/entropy": entropy.item()}
                for name, value in values.items():
                    history.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in history.items()}

    def due(frequency: int, before: int) -> bool:
        """Whether `step` has passed a multiple of frequency since `before`, or ends a phase."""
        return frequency > 0 and (step // frequency > before // frequency or step in (args.offline_steps, last_step))

    def score():
        scores = evaluate(act, args, eval_env, device)
        for name, value in scores.items():
            writer.add_scalar(f"eval/{name}", value, step)
        phase = "online" if step > args.offline_steps else "offline"
        result = f"success {scores['success']:.2f}  eval return {scores['episodic_return']:.1f}"
        say(f"step {step}/{last_step} {phase}  {result}")

    segments, window_start, window_step, state = checkpoint["segments"], time.perf_counter(), step, None
    progress = tqdm(total=last_step, initial=step, unit="step", disable=not sys.stderr.isatty())
    while step < last_step and not STOP:
        before = step
        if step < args.offline_steps:
            # Flow matching.
            cosine(pretrain_optimizer, args.pretrain_lr, 0.1 * args.pretrain_lr, step / args.offline_steps)
            batch = buffer.sample(args.batch_size, args.horizon_length, 1.0, generator)
            noise = actor.draw_noise(args.batch_size, generator)[0]
            t = torch.rand(args.batch_size, 1, generator=generator, device=device)
            with hold_signals():
                loss = flow_loss_fn(actor, batch, noise, t)
                descend(pretrain_optimizer, loss, actor)
            with torch.no_grad():  # or the average would drag along the graph of all its updates
                torch._foreach_lerp_(list(average.parameters()), list(actor.parameters()), 1 - args.ema)
            step += 1
            if step % args.log_frequency == 0:
                metrics = {"losses/flow_loss": loss.item()}
            if step == args.offline_steps:
                actor.load_state_dict(average.state_dict())
        else:
            # An iteration of PPO.
            state, act_with = snapshot(), actor
            done = (step - args.offline_steps) / args.total_timesteps
            cosine(actor_optimizer, args.actor_lr, 0.44 * args.actor_lr, done)
            rollout = collect()
            if STOP:  # what the iteration has done is dropped: its checkpoint is that of its beginning
                step = before
                break
            metrics = improve(rollout)
            iteration += 1
            state = None
        progress.update(step - before)
        if step % args.log_frequency == 0 or step > args.offline_steps:
            require_finite()
            for tag, value in metrics.items():
                writer.add_scalar(tag, value, step)
            now = time.perf_counter()
            warm = window_step > checkpoint["step"] and not window_step <= args.offline_steps < step  # nothing compiled
            if warm or step == last_step:
                writer.add_scalar("charts/SPS", (step - window_step) / (now - window_start), step)
            window_start, window_step = now, step

        if eval_env and due(args.eval_frequency, before):
            start = time.perf_counter()
            score()
            window_start += time.perf_counter() - start  # steps/s is of training alone
        if due(args.checkpoint_frequency, before):
            writer.flush()
            segments = save_checkpoint(path, snapshot(), buffer, segments)
    if STOP:
        save_checkpoint(path, state or snapshot(), buffer, segments)
    if args.save_model and step == last_step:
        nets = {name: part.state_dict() for name, part in parts.items() if isinstance(part, nn.Module)}
        torch.save(nets | {"args": asdict(args)}, os.path.join(path, "model.pt"))
    progress.close()
    writer.close()
    for finished in (*envs, eval_env) if eval_env else envs:
        finished.close()
    if STOP and step < last_step:
        say(f"interrupted; go on with: python {sys.argv[0]} --resume {path}")
        raise SystemExit(128 + STOP[0])
    return path


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    main(read_args())
