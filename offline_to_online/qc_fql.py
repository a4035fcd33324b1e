"""QC-FQL: flow Q-learning on chunks of actions, a baseline of the offline-to-online scripts; FQL at h = 1.

Park et al., "Flow Q-Learning", arXiv 2502.02538, and Li et al., "Reinforcement Learning with Action Chunking",
arXiv 2507.07969. A flow v imitates the data; a one-step policy mu(s, z) is distilled from it and ascends Q.

    python qc_fql.py --env-id cube-double-play-singletask-task2-v0 --dataset-path data/cube-double-play-v0.npz
    python qc_fql.py --env-id can --dataset-path low_dim_v15.hdf5 --horizon-length 1
    tensorboard --logdir runs
"""

# Symbols: s observation, a chunk of h actions in [-1, 1], d = h * action dimension, B batch size, z ~ N(0, I),
# v velocity of the imitating flow, mu one-step policy.
import copy
import errno
import glob
import importlib.metadata
import importlib.util
import io
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal

import gymnasium as gym
import numpy as np
import psutil
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "cube-double-play-singletask-task2-v0"  # an OGBench cube or scene task, or lift, can or square
    dataset_path: str | None = None  # OGBench .npz, folder of such shards, or robomimic .hdf5; default the official one
    seed: int = 1  # seed of the networks, the noise, the replay sampling and the environment
    offline_steps: int = 1_000_000  # updates on the dataset before the first environment step
    total_timesteps: int = 1_000_000  # environment steps after those
    learning_starts: int = 5000  # environment steps before the first online update
    horizon_length: int = 5  # h, actions of a chunk, executed open loop
    buffer_size: int = 2_000_000  # replay capacity in steps, the dataset's included; more where it needs that
    batch_size: int = 256  # chunks per update
    gamma: float = 0.99  # discount per environment step
    learning_rate: float = 3e-4  # Adam step size of all networks
    tau: float = 0.005  # target smoothing per update
    critic_hidden_dim: int = 512  # width of the critics' four hidden layers
    normalize_obs: bool = False  # observations to mean 0 and deviation 1 over the dataset (a folder's first shard)
    sparse: bool | None = None  # OGBench reward -1 until all is right, not the number of wrong items; default by task
    step_limit: int | None = None  # environment steps after which an episode is truncated; default by task
    success_timing: Literal["pre", "post"] = "pre"  # OGBench reward and end of s (as in the data), or of s'
    shard_steps: int = 1000  # offline updates on one shard of a folder
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # torch.compile the losses, a minute or two at first; a CPU needs a C++ compiler for it
    eval_frequency: int = 100_000  # offline updates or environment steps between evaluations, 0 for none
    eval_episodes: int = 50  # noise-free episodes per evaluation
    log_frequency: int = 1000  # offline updates or environment steps between writes of losses and statistics
    run_dir: str = "runs"  # folder that receives the run's own folder
    checkpoint_frequency: int = 5000  # updates or steps between checkpoints; 0: only at the end and when interrupted
    resume: str | None = None  # run folder to go on in; flags come from its checkpoint, --total-timesteps may be raised
    exp_name: str = "o2o_" + os.path.splitext(os.path.basename(__file__))[0]  # name in the run's folder
    capture_video: bool = False  # film one episode of every evaluation; without a display set MUJOCO_GL=egl
    track: bool = False  # send the run to Weights & Biases; its project and team: WANDB_PROJECT, WANDB_ENTITY
    distill: float | None = None  # weight of the distillation from the flow, mean over the chunk; default by task
    flow_steps: int = 10  # Euler steps of the flow that is distilled
    policy_hidden_dim: int = 512  # width of the four hidden layers of flow and one-step policy

    def __post_init__(self):
        if self.distill is None and self.horizon_length == 1 and self.env_id not in ROBOMIMIC:
            self.distill = 300.0  # FQL's on every OGBench task


class Actor(nn.Module):
    """The imitating flow and the one-step policy that is distilled from it, both over chunks."""

    def __init__(self, obs_dim: int, action_dim: int, args):
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

    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise for `batch` chunks: drawn outside the compiled functions, so that they are pure."""
        return torch.randn(batch, self.action_dim, generator=generator, device=generator.device)

    def forward(self, obs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The one-step policy's chunk (B, d), not clipped: distillation sees what lies beyond the bounds."""
        return self.one_step(torch.cat([self.norm(obs), z], dim=1))

    def act(self, obs: torch.Tensor, z: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Chunks (B, d) within the bounds. A sample either way: but for z there is no noise to leave out."""
        return self(obs, z).clamp(-1, 1)


def gelu_mlp(sizes: list[int], norm: bool) -> nn.Sequential:
    """Linear layers of these sizes with GELU, and LayerNorm behind it, in between; Glorot-uniform, zero biases."""
    layers = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU("tanh")] + [nn.LayerNorm(fan_out, eps=1e-6)] * norm
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


def frozen_view(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode and without gradients, on the same storage: it follows every in-place update.

    Views act, make the targets, and judge the actor's actions.
    """
    view = copy.deepcopy(module).eval().requires_grad_(False)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        for mine, original in zip(tensors(view), tensors(module), strict=True):
            mine.data = original.data
    return view


def critic_loss(critic, target_critic, actor, batch, z, discount):
    """Bellman error of whole chunks, and the mean Q. The actor is a frozen view."""
    # Target.
    next_value = target_critic(batch["next_obs"], actor.act(batch["next_obs"], z)).mean(0)
    target = (batch["reward"] + discount * batch["mask"] * next_value).detach()
    # Critic.
    q = critic(batch["obs"], batch["action"])
    return ((q - target).square() * batch["valid"][:, -1]).mean(), q.detach().mean()


def actor_loss(actor, actor_view, critic, batch, x_0, t, z, distill):
    """Flow matching of valid steps, distillation with ascent of Q: their sum, then each; view and critic are frozen."""
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


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor):
    """One step of the optimizer's parameters on the loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main(args: Args) -> str:
    """Pretrain and train, or go on with a run; returns the run's folder."""
    args = with_presets(args)
    device = prepare(args)
    compiles = args.compile and has_compiler(device)
    lock = hold(args.resume) if args.resume else None
    checkpoint = load_checkpoint(args.resume) if args.resume else None
    start, episode, episode_start, success, metrics, queue = 0, -1, 0, 0.0, {}, []
    obs, episode_return, ended = None, 0.0, False
    if checkpoint:
        was, queue = checkpoint["device"], list(checkpoint["queue"].numpy())
        require(was == device.type, f"--device {device.type}: the checkpoint is of a run on {was}; resume it there")
        start, (_, episode, episode_start, success, metrics, _) = checkpoint["step"], checkpoint["counters"]
    last_step = args.offline_steps + args.total_timesteps
    files = find_dataset(args)
    env = make_env(args)
    eval_env = make_env(args, args.capture_video) if args.eval_frequency else env
    obs_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    loaded = shard(args, files, start)
    buffer = open_buffer(args, files, loaded, env, device)
    same = not checkpoint or buffer.fingerprint == checkpoint["data"]
    require(same, f"--resume {args.resume}: {loaded} has changed since; restore it")

    # Networks and optimizers.
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    chunk_dim, discount = args.horizon_length * action_dim, args.gamma**args.horizon_length
    critic = Critic(obs_dim, chunk_dim, args.critic_hidden_dim).to(device)
    target_critic = copy.deepcopy(critic).requires_grad_(False)
    actor = Actor(obs_dim, chunk_dim, args).to(device)
    for part in (actor, critic, target_critic) if args.normalize_obs else ():
        part.norm.fit(buffer.dataset("obs"))
    actor_view, critic_view = frozen_view(actor), frozen_view(critic)
    # The authors' code has one Adam and one summed loss: there the actor follows the critic of before this update.
    actor_optimizer, critic_optimizer = (
        torch.optim.Adam(part.parameters(), lr=args.learning_rate, fused=True) for part in (actor, critic)
    )
    functions = critic_loss, actor_loss
    if compiles:
        functions = [torch.compile(function, dynamic=False) for function in functions]
    critic_loss_fn, actor_loss_fn = functions

    def update(online: bool) -> dict[str, torch.Tensor]:
        """One update, the same offline and online; returns tag -> value to log, on the device."""
        batch = buffer.sample(args.batch_size, args.horizon_length, args.gamma, generator)
        # Critic.
        z = actor.draw_noise(args.batch_size, generator)
        loss, q = critic_loss_fn(critic, target_critic, actor_view, batch, z, discount)
        descend(critic_optimizer, loss)
        with torch.no_grad():  # or the targets would drag along the graph of all their updates
            torch._foreach_lerp_(list(target_critic.parameters()), list(critic.parameters()), args.tau)
        metrics = {"losses/qf_loss": loss.detach(), "losses/qf_values": q}
        # Actor.
        x_0, z = actor.draw_noise(args.batch_size, generator), actor.draw_noise(args.batch_size, generator)
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
            actions = actor_view.act(obs, actor.draw_noise(len(obs), own))
        return {"policy/std": actions.unflatten(0, (16, 16)).std(1).mean()}

    if compiles:
        # Compile before the loop, on a batch of its own: the losses are pure and leave no trace, and Ctrl-C has nothing
        # to lose. The batch is drawn as all are, because another layout in memory would compile again.
        began, own = time.perf_counter(), torch.Generator(device).manual_seed(0)
        print("compiling, a minute or two at first, seconds from the cache; --no-compile does without")
        batch = buffer.sample(args.batch_size, args.horizon_length, args.gamma, own)
        x_0, z = actor.draw_noise(args.batch_size, own), actor.draw_noise(args.batch_size, own)
        t = torch.zeros(args.batch_size, 1, device=device)
        loss = critic_loss_fn(critic, target_critic, actor_view, batch, z, discount)[0]
        loss = loss + actor_loss_fn(actor, actor_view, critic_view, batch, x_0, t, z, args.distill)[0]
        loss.backward()
        print(f"compiled in {time.perf_counter() - began:.0f} s")

    parts = {"actor": actor}
    # A checkpoint is these parts, the generator, the counters, the rest of a chunk, and online steps in their own file.
    parts |= {"critic": critic, "target_critic": target_critic}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    if checkpoint:
        rows = restore(args.resume, checkpoint, parts, buffer, generator)
        if len(rows):  # of the episode in progress
            obs, episode_return, ended = replay_episode(env, buffer.split(rows), episode_seed(args.seed, episode))
            if obs is None:  # the next episode does not follow from its last row
                buffer.split(buffer.rows[(buffer.count - 1) % len(buffer.rows)])["terminal"].fill_(1)
    path, writer, lock = start_run(args, device, start, lock)
    # Online steps, one after the other: a checkpoint has their number and checksum; what is behind them is cut off.
    replay = open(f"{path}/replay.bin", "ab")  # noqa: SIM115
    replay.truncate(4 * buffer.rows.shape[1] * buffer.count)

    # With miniters=1 its rate, and thus the remaining time, is that of the moment; disable=None: on a terminal alone.
    progress = tqdm(total=last_step, initial=start, miniters=1, disable=None, leave=False)
    clock, clock_step = time.perf_counter(), start
    for step in range(start, last_step + 1):  # as many steps have been taken
        # Log: reading from the device waits for it. A run that resumes here writes once more what is about this step.
        if ended:
            writer.add_scalar("charts/episodic_return", episode_return, step)
            writer.add_scalar("charts/episodic_length", buffer.count - episode_start, step)
            writer.add_scalar("charts/success", success, step)
        if due(step, args.log_frequency, last_step):
            if metrics:
                metrics |= statistics(step)
            require_finite(step, metrics)
            for tag, value in metrics.items():
                writer.add_scalar(tag, value, step)
            if step > clock_step:
                writer.add_scalar("charts/SPS", (step - clock_step) / (time.perf_counter() - clock), step)
            clock, clock_step = time.perf_counter(), step

        # Evaluate.
        if args.eval_frequency and (step == args.offline_steps or due(step, args.eval_frequency, last_step)):
            began = time.perf_counter()
            film = f"{path}/videos/step-{step}.mp4" if args.capture_video else None
            scores = evaluate(actor_view, eval_env, args, device, film)
            if not STOP:  # which cuts it short: a run that resumes here evaluates once more
                for name, value in scores.items():
                    writer.add_scalar(f"eval/{name}", value, step)
                text = f"success {scores['success']:.2f}  eval return {scores['episodic_return']:.1f}"
                tqdm.write(f"step {step}/{last_step} {'online' if step > args.offline_steps else 'offline'}  {text}")
            clock += time.perf_counter() - began  # steps/s leaves it out

        # Write a checkpoint.
        stopping, last = bool(STOP), step == last_step  # a signal that comes later counts at the next step
        if stopping or due(step, args.checkpoint_frequency, last_step):
            require_finite(step, metrics | {name: total(part) for name, part in parts.items() if name != "temperature"})
            writer.flush()
            state = {name: part.state_dict() for name, part in parts.items()} | {"args": asdict(args), "step": step}
            state |= {"generator": generator.get_state(), "data": buffer.fingerprint, "device": device.type}
            state |= {"queue": torch.as_tensor(np.array(queue)), "crc": buffer.crc}
            state["made_from"] = getattr(env.unwrapped, "made_from", None)
            state["counters"] = buffer.count, episode, episode_start, success, metrics, last and not stopping
            save_checkpoint(path, state, replay)
        if stopping or last:
            break

        # Act, the first actions of a chunk without looking again, and update.
        if shard(args, files, step + 1) != loaded:
            loaded = shard(args, files, step + 1)
            buffer.load(load_dataset(args, loaded, env))
        online, metrics, phase = step >= args.offline_steps, {}, "pretraining"  # what is not computed now is not logged
        if not online or step >= args.offline_steps + args.learning_starts:
            metrics = update(online)
        if online:
            phase = "training" if metrics else "acting"
            if ended or obs is None:  # and not earlier: relabelling a shard resets env too
                episode, episode_start, episode_return, queue = episode + 1, buffer.count, 0.0, []
                obs, _ = env.reset(seed=episode_seed(args.seed, episode))
            queue = queue or next_chunk(actor_view, obs, args, generator)
            action = queue.pop(0)
            next_obs, reward, terminated, truncated, info = env.step(action.copy())
            ended, success = terminated or truncated, float(info["success"])
            row = {"obs": obs, "action": action, "reward": reward, "next_obs": next_obs}
            replay.write(buffer.add(**row, mask=1 - terminated, terminal=ended))
            obs, episode_return = next_obs, episode_return + float(reward)
        progress.set_description(phase, refresh=False)
        progress.update()
    for opened in {progress, writer, lock, replay, env, eval_env}:  # without evaluations the last two are one
        opened.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process may be a notebook's, and go on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if stopping:
        print(f"interrupted; go on with: {shlex.join([sys.executable, sys.argv[0], '--resume', path])}")
        raise SystemExit(128 + STOP[0])
    return path


# Housekeeping: whoever reads for the algorithm stops here.
FORMAT = "offline to online 3"  # of a checkpoint: another one's cannot be resumed
ROBOMIMIC = {"lift": "Lift", "can": "PickPlaceCan", "square": "NutAssemblySquare"}
OGBENCH = re.compile(r"(cube-(?:single|double|triple|quadruple)|scene)-(play|noisy)-singletask(-task[1-5])?-v0")
OBS_KEYS = "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"  # in a robomimic file
PRESETS = {  # the papers' tables for h = 5
    "cube-single": dict(distill=300.0, sparse=False, step_limit=200),
    "cube-double": dict(distill=300.0, sparse=False, step_limit=500),
    "cube-triple": dict(distill=100.0, sparse=False, step_limit=1000),
    "cube-quadruple": dict(distill=100.0, sparse=False, step_limit=1000),
    "scene": dict(distill=300.0, sparse=True, step_limit=750),
    "lift": dict(distill=10_000.0, sparse=False, step_limit=500),
    "can": dict(distill=10_000.0, sparse=False, step_limit=500),
    "square": dict(distill=10_000.0, sparse=False, step_limit=500),
}
LIMITS = {"seed": (0, 2**32 - 1)}  # of a larger one PyTorch's generator for CPUs takes the last 32 bits
LIMITS |= {"gamma": (0, 1), "tau": (0, 1), "critic_hidden_dim": (2, 2**14)}


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


def with_presets(args: Args) -> Args:
    """Fill in the flags that were left to the task."""
    named = OGBENCH.fullmatch(args.env_id)
    remedy = f"choose {', '.join(ROBOMIMIC)}, or one as cube-double-play-singletask-task2-v0"
    require(named or args.env_id in ROBOMIMIC, f"--env-id {args.env_id}: unknown; {remedy}")
    official = f"~/.robomimic/{args.env_id}/mh/low_dim_v15.hdf5"
    official = f"~/.ogbench/data/{named[1]}-{named[2]}-v0.npz" if named else official
    preset = PRESETS[named[1] if named else args.env_id] | {"dataset_path": official}
    return replace(args, **{name: value for name, value in preset.items() if getattr(args, name) is None})


def prepare(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy, and set PyTorch up; returns the device."""
    from_zero = "offline_steps", "total_timesteps", "learning_starts", "critic_warmup"
    from_zero += "eval_frequency", "checkpoint_frequency"
    for name, value in asdict(args).items():
        usual = (0, 1e9) if type(value) is float else (0 if name in from_zero else 1, 2**62)
        low, high = LIMITS.get(name, usual)
        fine = type(value) not in (int, float) or low <= value <= high
        require(fine, f"--{name.replace('_', '-')} {value}: choose a number from {low} to {high}")
    place = os.path.abspath(os.path.expanduser(args.run_dir))
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    devices = ["cpu"] + ["mps"] * torch.backends.mps.is_available() + ["cuda"] * torch.cuda.is_available()
    device = {"auto": "cuda" if "cuda" in devices else "cpu"}.get(args.device, args.device)
    for flag, fine, remedy in (
        ("total_timesteps", args.offline_steps + args.total_timesteps, "nothing to do; raise it or --offline-steps"),
        ("device", device in devices, f"not available here; choose auto, {', '.join(devices)}"),
        ("run_dir", args.resume or os.access(place, os.W_OK | os.X_OK), "no folder to write to; choose another"),
        ("track", not args.track or importlib.util.find_spec("wandb"), "pip install wandb first"),
        ("capture_video", not args.capture_video or importlib.util.find_spec("imageio_ffmpeg"), "needs imageio-ffmpeg"),
        ("capture_video", not args.capture_video or args.eval_frequency, "films evaluations; give --eval-frequency"),
    ):
        require(fine, f"--{flag.replace('_', '-')} {getattr(args, flag)}: {remedy}")
    if args.compile and not has_compiler(torch.device(device)):
        print("no compiler or no Python.h found: running without torch.compile, slower")
    # "medium" sends float32 products on a CPU to oneDNN, twice as fast with AVX-512. With AMX, and on Arm, it would
    # make bfloat16 of them. "high" is TF32 on CUDA.
    processor = torch.cpu.get_capabilities()
    exact = processor.get("architecture") == "x86_64" and not processor.get("amx_bf16")
    on_cpu = "medium" if exact else "highest"
    torch.set_float32_matmul_precision(on_cpu if device == "cpu" else "high")
    return torch.device(device)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds Python.h and its compiler: of C++ on a CPU, of C, for Triton's launchers, on CUDA."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    names = [os.environ.get("CXX", usual)] if device.type == "cpu" else [os.environ.get("CC", "gcc"), "clang"]
    return os.path.exists(sysconfig.get_path("include") + "/Python.h") and any(map(shutil.which, names))


class Robosuite(gym.Env):
    """A robosuite task with robomimic's low-dimensional observation. Reward r - 1; success of s' terminates."""

    render_mode, metadata = "rgb_array", {"render_fps": 20}

    def __init__(self, args: Args, made_from: dict, film: bool):
        """made_from: a robomimic file's env_args."""
        logging.disable(logging.WARNING)  # it warns of missing extras whenever it is imported
        import robosuite

        logging.disable(logging.NOTSET)
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
        kwargs = made_from["env_kwargs"] | {"has_renderer": False, "use_camera_obs": False, "hard_reset": False}
        kwargs |= {"has_offscreen_renderer": film, "ignore_done": True, "reward_shaping": False}
        # The seed is also that of the sizes of objects, drawn when it is made.
        self.env = robosuite.make(made_from["env_name"], **kwargs | {"seed": args.seed})
        self.made_from, self.step_limit = made_from, args.step_limit
        size = len(self._observe(self.env.reset()))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,))
        self.action_space = gym.spaces.Box(*(np.float32(bound) for bound in self.env.action_spec))

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


class Manipspace(gym.Wrapper):
    """An OGBench task that repeats itself, and whose success is that of s or s'."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        core = env.unwrapped
        # A reset takes random actions from a space that is made anew, unseeded, at every access: keep one.
        core.__class__ = type(type(core).__name__, (type(core),), {"action_space": core.action_space})

    def reset(self, *, seed=None, options=None):
        self.unwrapped.action_space.seed(seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        # Timed "pre", OGBench's own is that of s, and misses what the last step before the limit solves.
        info["success"] = bool(info["success"] or self.unwrapped._success)
        return obs, reward, terminated, truncated, info


def make_env(args: Args, film: bool = False, made_from: dict | None = None) -> gym.Env:
    """The task's environment: of its reset's seed and the actions since, everything is a function. A robosuite task is
    built from made_from, by default the env_args of the dataset. Observations are float32 copies."""
    warnings.filterwarnings("ignore", message=".*(precision lowered|GLFW|DISPLAY).*")
    try:
        if args.env_id in ROBOMIMIC:
            env = Robosuite(args, made_from or read_env_args(args), film)
        else:
            import ogbench.manipspace  # noqa: F401

            limits = {"max_episode_steps": args.step_limit, "success_timing": args.success_timing}
            name = re.sub("-(play|noisy)-", "-", args.env_id)
            env = Manipspace(gym.make(name, disable_env_checker=True, **limits))
    except ImportError as error:
        remedy = "pip install -r requirements.txt of offline_to_online, and --no-deps robosuite==1.5.2"
        require(False, f"--env-id {args.env_id}: {error}; {remedy}")
    except Exception as error:  # whatever robosuite makes of an older version's flags
        remedy = f"its env_args build no environment ({error!r}); choose a file made for robosuite 1.5"
        require(args.env_id not in ROBOMIMIC, f"--dataset-path {args.dataset_path}: {remedy}")
        raise
    if args.sparse and args.env_id not in ROBOMIMIC:
        env = gym.wrappers.TransformReward(env, lambda reward: -float(reward != 0))
    if film:
        try:
            env.reset(seed=0)
            env.render()  # fails here, and not at the first evaluation, where there is no display
        except Exception as error:  # whatever the renderer makes of it
            sys.unraisablehook = lambda _: None  # a half-made renderer complains when it is deleted
            require(False, f"--capture-video: {error}; without a display set MUJOCO_GL=egl")
    return gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, np.float32), env.observation_space)


def episode_seed(seed: int, episode: int) -> int:
    """Of a training episode: with it and the actions since, exact resume needs no state of the simulator."""
    return int(np.random.SeedSequence((seed, episode)).generate_state(1)[0])


def replay_episode(env: gym.Env, rows: dict[str, torch.Tensor], seed: int) -> tuple[np.ndarray | None, float, bool]:
    """Reset env and take it to where the run stands, by its episode's actions once more: observation, return so far,
    and whether it ended. The observation is None where what comes differs from what is stored."""
    (obs, _), episode_return, ended = env.reset(seed=seed), 0.0, False
    columns = [rows[name].numpy() for name in ("obs", "action", "reward", "next_obs")]
    for before, action, paid, after in zip(*columns, strict=True):
        repeats = np.array_equal(obs, before)
        obs, reward, terminated, truncated, _ = env.step(action)
        if not repeats or np.float32(reward) != paid or not np.array_equal(obs, after):
            print("the episode could not be repeated: a new one begins")
            return None, 0.0, False
        episode_return, ended = episode_return + float(reward), terminated or truncated
    return obs, episode_return, ended


def find_dataset(args: Args) -> list[str]:
    """The files of --dataset-path; ends the program, with a remedy, where there are none to train on."""
    path, end = os.path.expanduser(args.dataset_path), ".hdf5" if args.env_id in ROBOMIMIC else ".npz"
    files = sorted(glob.glob(f"{glob.escape(path)}/*.npz")) if os.path.isdir(path) else [path]
    files = [file for file in files if not file.endswith("-val.npz")]  # validation data: not read
    fine = files and all(os.path.exists(file) and file.endswith(end) for file in files)
    source = "OGBench's .npz" if end == ".npz" else "robomimic's multi-human low_dim_v15.hdf5"
    own = files and path.endswith(end) and path == args.dataset_path  # else made data would pass for official ones
    new = path if own else "data/" + re.sub("-singletask(-task.)?-", "-", args.env_id) + end
    make = f"python offline_to_online/make_dataset.py --env-id {args.env_id} --path {new}"
    there = f"--dataset-path {args.dataset_path}: no {end} data to train on there"
    require(fine, f"{there}; download {source}, or make some: {make}")
    widths = set()
    for file in files if end == ".npz" else ():
        try:
            # Of the observations the header alone: a hundred shards would take minutes.
            with np.load(file) as arrays, arrays.zip.open("observations.npy") as member:
                np.lib.format.read_magic(member)
                widths.add(np.lib.format.read_array_header_1_0(member)[0][1:])
                arrays["terminals"]  # whole, with its checksum
        except Exception as error:  # whatever a damaged archive makes the reader raise
            require(False, f"--dataset-path {file}: damaged, or not OGBench's ({error}); download or make it again")
    require(len(widths) < 2, f"--dataset-path {args.dataset_path}: shards of different tasks; take one task's")
    return files


def read_env_args(args: Args) -> dict:
    """What a robomimic file's environment is built from, with the robot and controller that made the data."""
    import h5py

    path, wanted = os.path.expanduser(args.dataset_path), ROBOMIMIC[args.env_id]
    try:
        with h5py.File(path, "r") as file:
            made_from = json.loads(file["data"].attrs["env_args"])
        name = made_from["env_name"]
    except Exception as error:  # whatever it holds instead
        require(False, f"--dataset-path {path}: not robomimic's low_dim format ({error!r}); download or make it again")
    require(name == wanted, f"--dataset-path {path}: of {name}, not of {wanted}; choose another file or --env-id")
    return made_from


def load_ogbench(args: Args, file: str, env: gym.Env) -> dict[str, np.ndarray]:
    """Steps of an OGBench file, relabelled for the task: name -> (N, n) or (N,). Rewards are those of s. Resets env."""
    import ogbench.relabel_utils
    import ogbench.utils

    raw = ogbench.utils.load_dataset(file, add_info=True)
    shapes = raw["observations"].shape[1:], raw["qpos"].shape[1:]
    wanted = env.observation_space.shape, (env.unwrapped.model.nq,)
    if shapes != wanted or not np.isfinite(raw["qpos"]).all():
        raise ValueError(f"observations and qpos of shapes {shapes}, not {wanted}, or not finite")
    ogbench.relabel_utils.relabel_dataset(args.env_id, env, raw)
    reward = -(raw["rewards"] != 0).astype(np.float32) if args.sparse else raw["rewards"]
    data = {"obs": raw["observations"], "action": raw["actions"], "reward": reward, "mask": raw["masks"]}
    return data | {"terminal": raw["terminals"], "next_obs": raw["next_observations"]}


def load_robomimic(args: Args, file: str, env: gym.Env) -> dict[str, np.ndarray]:
    """Steps of a robomimic file, demonstrations in the order of their numbers: name -> (N, n) or (N,)."""
    import h5py

    columns, failed = {name: [] for name in ("obs", "action", "reward", "mask", "terminal", "next_obs")}, 0
    with h5py.File(file, "r") as archive:
        demos = [name for name in archive["data"] if re.fullmatch(r"demo_\d+", name)]
        demos.sort(key=lambda name: int(name.removeprefix("demo_")))
        for demo in demos:
            group = archive[f"data/{demo}"]
            reward, done = group["rewards"][()], group["dones"][()].astype(bool)
            # A failed demonstration is done at its end too: no success, so that its end has a value like any state.
            step = {"action": group["actions"][()], "reward": reward - 1.0, "mask": 1.0 - (done & (reward == 1))}
            # Official files go on for some steps that are all done: no chunk goes on behind the first.
            step["terminal"] = done | (np.arange(len(done)) == len(done) - 1)
            for side in ("obs", "next_obs"):
                step[side] = np.concatenate([group[f"{side}/{key}"] for key in OBS_KEYS], axis=1)
            lengths = {len(values) for values in step.values()}  # which may differ here and add up over the file
            if reward.ndim > 1 or done.ndim > 1 or len(lengths) > 1 or 0 in lengths:
                raise ValueError(f"{demo} has no steps, or arrays of different lengths")
            for name, values in step.items():
                columns[name].append(values)
            failed += not reward.any()
    print(f"{file}: {len(demos)} demonstrations" + f", of which {failed} failed: their ends bootstrap" * (failed > 0))
    return {name: np.concatenate(values, dtype=np.float32, casting="unsafe") for name, values in columns.items()}


def load_dataset(args: Args, file: str, env: gym.Env) -> dict[str, np.ndarray]:
    """Steps in the order of the file: obs (N, n), action (N, m), reward, mask (0: no bootstrap), terminal (last step of
    its episode) (N,), next_obs (N, n), float32. Uses env to relabel."""
    robomimic = args.env_id in ROBOMIMIC
    try:
        data = (load_robomimic if robomimic else load_ogbench)(args, file, env)
    except MemoryError:  # no fault of the file
        raise
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        require(False, f"--dataset-path {file}: not readable, or of another task ({error!r}); choose another")
    bad = ", ".join(name for name, values in data.items() if not np.isfinite(values).all())
    count, largest = len(data["reward"]), np.abs(data["action"]).max(initial=0)
    lengths = {len(values) for values in data.values()}
    shapes = [data["obs"].shape[1:], data["action"].shape[1:]]
    wanted = [env.observation_space.shape, env.action_space.shape]
    for fine, problem in (
        (shapes == wanted, f"observations and actions of shapes {shapes}, not of {args.env_id}, which has {wanted}"),
        (not bad, f"{bad} not finite (NaN or infinite); download or make it again"),
        (lengths == {count}, "its last row ends no episode; download or make it again"),
        (count > args.horizon_length, f"{count} steps are fewer than a chunk; lower --horizon-length"),
        (not robomimic or np.isin(data["reward"], (-1, 0)).all(), "rewards besides 0 and 1; choose sparse ones"),
        (largest <= 1 + 1e-5, f"an action of {largest:.3g}, beyond 1; choose another file"),
    ):
        require(fine, f"--dataset-path {file}: {problem}")
    data["action"] = data["action"].clip(-1, 1)
    return data


class ReplayBuffer:
    """Ring of environment steps, one row each, on one device: online step i is in row i modulo the capacity, and the
    dataset before step 0, at the end: what grows old, and is overwritten, first."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: torch.device):
        self.widths = {"obs": obs_dim, "action": action_dim, "reward": 1, "mask": 1, "terminal": 1, "next_obs": obs_dim}
        needed = 4 * capacity * sum(self.widths.values())
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
        print(f"replay buffer: {capacity} steps, {needed / 2**30:.2f} GiB of {free / 2**30:.1f} GiB free")
        most = int(0.8 * free / needed * capacity)
        flag = f"--buffer-size, or the steps of --dataset-path, {capacity}"
        require(needed <= free, f"{flag}: more than the free memory; {most} would fit")
        self.rows = torch.empty(capacity, sum(self.widths.values()), device=device)
        self.offline = 0  # rows of the dataset
        self.count, self.crc = 0, 0  # of all online steps, which replay.bin holds

    def load(self, data: dict[str, np.ndarray]):
        """Take in a dataset, or its next shard. Only before the first online step."""
        self.offline = len(data["reward"])
        for name in self.widths:
            self.dataset(name)[:] = torch.from_numpy(data[name].reshape(self.offline, -1)).to(self.rows.device)
        # What tells the dataset, or its shard, from another: the ring may overwrite it later.
        self.fingerprint = [self.offline, self.rows[-self.offline :].view(torch.int32).sum().item()]

    def dataset(self, name: str) -> torch.Tensor:
        """A column (N, n) of the dataset's steps."""
        return self.split(self.rows[-self.offline :])[name]

    def add(self, **step) -> np.ndarray:
        """Store one online step, given by name as NumPy arrays and numbers; returns its row, for replay.bin. Ends the
        run where one is not finite."""
        row = np.concatenate([np.atleast_1d(step[name]) for name in self.widths], dtype=np.float32)
        if not np.isfinite(row).all():
            bad = ", ".join(name for name, value in step.items() if not np.isfinite(np.float32(value)).all())
            raise SystemExit(f"error: online step {self.count + 1}: {bad} not finite; any checkpoint stays")
        self.rows[self.count % len(self.rows)] = torch.from_numpy(row)
        self.count, self.crc = self.count + 1, zlib.crc32(row, self.crc)
        return row

    def split(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows (.., width) -> name -> (.., n)."""
        return dict(zip(self.widths, rows.split(list(self.widths.values()), dim=-1), strict=True))

    def sample(self, batch: int, length: int, gamma: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Chunks that start uniformly among the steps in the order they were made, so that none spans the ring's seam:
        obs (B, n), action (B, length m), reward (B,) discounted within the chunk, mask (B,) the least, next_obs (B, n)
        of the last step, valid (B, length), 0 behind the end of an episode."""
        stored = min(self.offline + self.count, len(self.rows))
        start = torch.randint(stored - length + 1, (batch,), generator=generator, device=generator.device)
        steps = start[:, None] + torch.arange(length, device=start.device) + self.count - stored
        drawn = (steps % len(self.rows)).flatten()
        rows = self.split(self.rows.index_select(0, drawn).unflatten(0, steps.shape))  # rows[steps] is slower
        ended = rows["terminal"].squeeze(2).cumsum(1) > 0
        valid = torch.cat([torch.ones_like(ended[:, :1]), ~ended[:, :-1]], dim=1).float()
        discounts = gamma ** torch.arange(length, device=start.device)
        chunk = {"obs": rows["obs"][:, 0], "action": rows["action"].flatten(1), "valid": valid}
        chunk |= {"reward": (rows["reward"].squeeze(2) * discounts).sum(1), "mask": rows["mask"].squeeze(2).amin(1)}
        return chunk | {"next_obs": rows["next_obs"][:, -1]}


def shard(args: Args, files: list[str], step: int) -> str:
    """The file that update number `step` is made on; the last update's stays for what follows."""
    return files[max(min(step, args.offline_steps) - 1, 0) // args.shard_steps % len(files)]


def open_buffer(args: Args, files: list[str], file: str, env: gym.Env, device: torch.device) -> ReplayBuffer:
    """A replay buffer of --buffer-size rows, or more to have room for the largest file, with the file's steps in it."""
    data = load_dataset(args, file, env)
    at_success = (data["reward"] == 0).sum()
    print(f"{file}: {len(data['reward'])} steps, of which {at_success} are at a success of {args.env_id}")
    largest = max([len(data["reward"])] + [len(np.load(other)["terminals"]) for other in files if len(files) > 1])
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    buffer = ReplayBuffer(max(args.buffer_size, largest + 1), *sizes, device)
    buffer.load(data)
    return buffer


@torch.no_grad()
def next_chunk(actor, obs: np.ndarray, args: Args, generator: torch.Generator, deterministic=False) -> list[np.ndarray]:
    """The actions (m,) of the next chunk."""
    obs_tensor = torch.as_tensor(obs, device=generator.device)[None]
    chunk = actor.act(obs_tensor, actor.draw_noise(1, generator), deterministic)
    if not chunk.isfinite().all():
        raise SystemExit("error: the action is not finite; any checkpoint stays")
    return list(chunk.view(args.horizon_length, -1).cpu().numpy())


def evaluate(actor, env: gym.Env, args: Args, device: torch.device, film: str | None = None) -> dict[str, float]:
    """Success rate, mean return and length of --eval-episodes noise-free episodes, the first one filmed; cut
    short by a signal to stop. Success is the last step's. Same seed: same start states, one stream of noise."""
    generator, totals, writer = torch.Generator(device).manual_seed(10_000 + args.seed), np.zeros(3), None
    if film:
        import imageio

        os.makedirs(os.path.dirname(film), exist_ok=True)
        writer = imageio.get_writer(film, fps=env.metadata.get("render_fps", 20), macro_block_size=2)
    for episode in range(args.eval_episodes):
        if STOP:
            break
        (obs, _), queue, running = env.reset(seed=10_000 * args.seed + episode), [], True
        while running and not STOP:
            queue = queue or next_chunk(actor, obs, args, generator, deterministic=True)
            obs, reward, terminated, truncated, info = env.step(queue.pop(0))
            running = not (terminated or truncated)
            totals += info["success"] * (not running), reward, 1
            if film and episode == 0:
                writer.append_data(env.render())
    if film:
        writer.close()
    names = "success", "episodic_return", "episodic_length"
    return dict(zip(names, (totals / args.eval_episodes).tolist(), strict=True))


STOP = []  # the signal that asked the run to end, once one has, and when


def give_up(number: int, _):
    """Signal handler before the loop: nothing is lost, and the run ends at once. But a library that is half linked, an
    empty file, would stay in Inductor's cache: later runs would fail to load it, or do without vector instructions."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", os.devnull)  # which Inductor sets
    for path in glob.glob(f"{glob.escape(cache)}/*/*.so"):
        with suppress(OSError):  # its linker, which is ending too, may have removed it
            if os.path.getsize(path) == 0:
                os.remove(path)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def stop(number: int, _):
    """Signal handler: the run ends with a checkpoint at its next step, or at once on a signal that comes a second later
    (some launchers send two together)."""
    if not STOP:
        STOP.extend((number, time.monotonic()))
        with suppress(OSError):  # Ctrl-C ends the reader of a pipe as well
            os.write(1, b"stopping at the next step; the same signal again ends the run without a checkpoint\n")
    elif time.monotonic() - STOP[1] > 1:
        os._exit(128 + number)


def due(step: int, frequency: int, last: int) -> bool:
    """Whether what is done every so many steps is done at this one; at the last it always is, with 0 at no other."""
    return step == last or (step > 0 and frequency > 0 and step % frequency == 0)


def total(part: nn.Module | torch.optim.Optimizer) -> torch.Tensor:
    """The sum of all weights, or of all that Adam remembers, which is finite only where they are."""
    tables = [dict(part.named_parameters())] if isinstance(part, nn.Module) else part.state.values()
    return sum((tensor.detach().sum() for table in tables for tensor in table.values()), torch.zeros(()))


def require_finite(step: int, values: dict[str, torch.Tensor]):
    """Ends the run before a number that is not finite is stored or reaches a checkpoint."""
    bad = [name for name, value in values.items() if not value.isfinite().all()]
    if bad:
        raise SystemExit(f"error: step {step}: {', '.join(bad)} not finite; any checkpoint stays")


def save_checkpoint(run: str, state: dict, replay: io.BufferedWriter):
    """Send all transitions to the disk, then swap checkpoint.pt: a crash in between leaves the last one whole."""
    replay.flush()
    os.fsync(replay.fileno())
    blob = io.BytesIO()  # torch.save itself meets a full disk with an error of its own
    torch.save(state | {"format": FORMAT, "script": os.path.basename(__file__)}, blob)
    with open(f"{run}/checkpoint.pt.tmp", "wb") as file:
        file.write(blob.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{run}/checkpoint.pt.tmp", f"{run}/checkpoint.pt")


def read_checkpoint(path: str, flag: str) -> dict:
    """What a checkpoint or a policy file holds; nothing in the file can execute."""
    try:
        if zipfile.ZipFile(path).testzip():
            raise ValueError("a checksum differs")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a missing, damaged or foreign file makes the readers raise
        require(False, f"{flag}: {os.path.basename(path)} is missing, damaged or foreign ({error})")


def load_checkpoint(run: str) -> dict:
    """The state that `save_checkpoint` was given."""
    state, subject = read_checkpoint(f"{run}/checkpoint.pt", f"--resume {run}"), f"--resume {run}: checkpoint.pt is"
    script, version = state.get("script"), (state.get("format"), state.get("args", {}).keys())
    require(script == os.path.basename(__file__), f"{subject} written by {script}; resume it with that script")
    require(version == (FORMAT, asdict(Args()).keys()), f"{subject} of another version; resume it with that version")
    return state


def restore(run: str, checkpoint: dict, parts: dict, buffer: ReplayBuffer, generator: torch.Generator) -> torch.Tensor:
    """Put the networks and optimizers back, the generator, and the transitions that the buffer held; returns the rows
    of the episode in progress."""
    try:
        generator.set_state(checkpoint["generator"])
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
    except Exception as error:  # other networks under the same flags, or a GPU's random numbers
        kinds = "another version of the script or the task, or of another kind of device"
        require(False, f"--resume {run}: checkpoint.pt is of {kinds} ({error})")
    buffer.count, buffer.crc = checkpoint["counters"][0], checkpoint["crc"]
    capacity, width = buffer.rows.shape
    stored = np.empty((0, width), np.float32)
    with suppress(OSError, ValueError):  # no such file, or one that is too short
        stored = np.memmap(f"{run}/replay.bin", np.float32, "c", shape=(buffer.count, width))
    intact = zlib.crc32(stored) == buffer.crc
    require(intact, f"--resume {run}: replay.bin is missing or damaged; start a new run")
    rows = torch.from_numpy(stored[-capacity:])
    steps = buffer.split(rows)  # an episode that could not be repeated ended without a sign of it
    steps["terminal"][:-1][(steps["next_obs"][:-1] != steps["obs"][1:]).any(1)] = 1
    buffer.rows[torch.arange(buffer.count - len(rows), buffer.count) % capacity] = rows.to(buffer.rows.device)
    return torch.from_numpy(np.array(stored[checkpoint["counters"][2] :]))


def hold(run: str) -> io.BufferedWriter:
    """Keeps other processes from going on with the run while this file is open: two would destroy it."""
    try:
        file = open(f"{run}/lock", "ab")  # noqa: SIM115
    except OSError as error:
        require(False, f"--resume {run}: {error.strerror}; copy it to a folder that can be written")
    with suppress(ImportError, OSError):  # no such locks on Windows, nor on some file systems
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            require(False, f"--resume {run}: another process trains it; stop that first")
    return file


def start_run(args: Args, device: torch.device, step: int, lock=None) -> tuple[str, SummaryWriter, io.BufferedWriter]:
    """Make the run's folder and record what is needed to repeat the run; with --resume go on in it at `step`.
    From here on a signal to stop means a checkpoint."""
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns() // 1_000_000}"
    name = re.sub(r"[^\w.=-]+", "-", name)  # a folder of its own, and an id for Weights & Biases
    path = args.resume or os.path.join(os.path.expanduser(args.run_dir), name)
    if args.track:
        import wandb

        run = os.path.basename(os.path.abspath(path))
        os.environ.setdefault("WANDB_PROJECT", "sac-flow")
        try:
            wandb.init(config=asdict(args), sync_tensorboard=True, resume="allow", id=run, name=run)
        except Exception as error:  # whatever the tracker raises
            require(False, f"--track: {error}; WANDB_MODE=offline needs no account and no network")
    os.makedirs(path, exist_ok=bool(args.resume))
    lock = lock or hold(path)
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    git = subprocess.run(command, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    versions = {}
    for name in ("torch", "gymnasium", "mujoco", "numpy", "dm_control", "ogbench", "robosuite"):
        with suppress(importlib.metadata.PackageNotFoundError):  # no task needs all of them
            versions[name] = importlib.metadata.version(name)
    versions |= {"python": sys.version.split()[0], "git": git or "unknown", "device": str(device)}
    writer = SummaryWriter(path, purge_step=step)  # readers drop what is written again
    for title, table in (("hyperparameters", asdict(args)), ("versions", versions)):
        rows = "\n".join(f"|{key}|{value}|" for key, value in table.items())
        writer.add_text(title, "|name|value|\n|-|-|\n" + rows, step)
    print(f"run: {path}")
    STOP.clear()  # of an earlier run in this process
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return path, writer, lock


def read_args(argv: list[str] | None = None) -> Args:
    """The command line's flags, over those of the checkpoint, which they must not contradict; its data may move."""
    words = sys.argv[1:] if argv is None else argv
    for flag, value in zip(words, words[1:], strict=False):
        name = flag.removeprefix("--no-").removeprefix("--")
        switch = isinstance(getattr(Args, name.replace("-", "_"), None), bool)
        fine = not switch or value not in ("True", "False")
        require(fine, f"{flag} {value}: write --{name} or --no-{name}, without a value")
    given = tyro.cli(Args, args=argv)
    if given.resume is None:
        return given
    checkpoint = load_checkpoint(given.resume)
    default = Args(**checkpoint["args"])
    args = tyro.cli(Args, args=argv, default=default)
    for name, value in asdict(args).items():
        old, flag = getattr(default, name), "--" + name.replace("_", "-")
        fine = value == old or name in ("resume", "checkpoint_frequency", "dataset_path")
        fine = fine or (name == "total_timesteps" and value > old)
        require(fine, f"{flag} {value}: the checkpoint has {old}; leave the flag out or start a new run")
    last_step = args.offline_steps + args.total_timesteps
    done = checkpoint["step"] == last_step and checkpoint["counters"][-1]
    require(not done, "--resume: finished; raise --total-timesteps")
    return args


if __name__ == "__main__":
    with suppress(AttributeError):  # a notebook's has none
        sys.stdout.reconfigure(line_buffering=True)  # a log file or pipe has each line at once
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, give_up)
    # What stops TensorBoard's thread, a full disk, is raised again by the next event, here.
    threading.excepthook = lambda failed: None if failed.exc_type is OSError else threading.__excepthook__(failed)
    try:
        main(read_args())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where what was printed last may find no room or reader either
        if error.errno == errno.EPIPE:  # Ctrl-C ends the reader of a pipe as well
            raise SystemExit(128 + STOP[0] if STOP else "error: what read the output ended; --resume the run") from None
        raise SystemExit("error: no space left on the disk; make room, then --resume the run") from None
