"""FlowRL: a flow policy that climbs Q while it stays near the buffer's better actions, a baseline of the SAC flows.

Lv et al., "Flow-Based Policy for Online Reinforcement Learning", arXiv 2506.12811, with the constants of the authors'
released code; the random start is that of sac_flow_g.py. A second critic learns, by expectile regression, the value of
the best actions in the replay buffer; where it passes the policy's, the policy is drawn to the buffer's action.

    python baselines/flowrl.py --env-id HalfCheetah-v4
    python baselines/flowrl.py --env-id Hopper-v4 --critic-hidden-dim 256 --learning-starts 5000
    python baselines/flowrl.py --published --learning-starts 5000               # the authors' own numbers

Their loss adds -Q in reward units to a flow-matching error of order 1, on tasks whose rewards are at most 1. PRESETS
scales MuJoCo's rewards to that size, and has a weight lambda and a target smoothing per task; --published leaves all
three as the authors have them.
"""

# Symbols: s observation, a action in environment units (B, d), x pre-tanh action, v velocity, x_0 the flow's start,
# Q of the policy, Q* and V of the buffer's better actions, lambda the weight of the flow-matching error.
import copy
import errno
import glob
import importlib.metadata
import importlib.util
import io
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
from dataclasses import asdict, dataclass

import gymnasium as gym
import numpy as np
import psutil
import torch
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "Humanoid-v4"  # Gymnasium task; observations: Boxes; actions: a bounded Box
    seed: int = 1  # seed of the networks, the noise, the replay sampling and the environment
    total_timesteps: int = 1_000_000  # environment steps
    learning_starts: int = 50_000  # environment steps with uniformly random actions before the first update
    buffer_size: int = 1_000_000  # replay capacity in transitions
    gamma: float = 0.99  # discount per environment step
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # torch.compile losses and acting, a minute or two at first; a CPU needs a C++ compiler for it
    bf16: bool = False  # bfloat16 autocast in the losses, outputs included; slower on a CPU without instructions for it
    eval_frequency: int = 10_000  # environment steps between evaluations, with one at the end; 0 for none
    eval_episodes: int = 10  # episodes per evaluation
    log_frequency: int = 1000  # environment steps between writes of losses and policy statistics
    run_dir: str = "runs"  # folder that receives the run's own folder
    checkpoint_frequency: int = 5000  # environment steps between checkpoints; 0: only at the end and when interrupted
    resume: str | None = None  # run folder to go on in; flags come from its checkpoint, --total-timesteps may be raised
    exp_name: str = os.path.splitext(os.path.basename(__file__))[0]  # name of the experiment in the run's folder
    capture_video: bool = False  # film one episode of every evaluation; without a display set MUJOCO_GL=egl
    track: bool = False  # send the run to Weights & Biases; its project and team: WANDB_PROJECT, WANDB_ENTITY
    published: bool = False  # where a flag is left to the task's preset, take the released code's value instead
    # Variant.
    batch_size: int = 256  # transitions per update
    policy_lr: float = 3e-4  # Adam step size of the velocity network
    q_lr: float = 3e-4  # Adam step size of both critics and of V
    policy_frequency: int = 2  # critic updates per update of the policy and of the target networks
    critic_hidden_dim: int = 512  # width of the hidden layers of the critics and of V
    hidden_dim: int = 512  # width of the velocity network's two hidden layers
    expectile: float = 0.9  # of Q* that V learns, 0.5 is the mean
    recent_fraction: float = 0.2  # share of a batch that is drawn from the most recent transitions
    recent_window: int = 2048  # how many those are
    per_sample_weights: bool = False  # weigh each sample's flow-matching error (the paper), not their mean (the code)
    pre_tanh_endpoint: bool = False  # match the flow to arctanh of the action, where the policy ends, not to the action
    tau: float | None = None  # the online network's share in a target's update; None is the task's preset, else 0.95
    bc_coeff: float | None = None  # lambda, factor of the weights (clamped to [0.001, 1]); None: preset, else 0.1
    reward_scale: float | None = None  # factor on the rewards in the losses; None is the task's preset, else 1

    def __post_init__(self):
        """Flags left at None take the task's value, or the published one where the task has none."""
        values = PUBLISHED if self.published else PRESETS.get(self.env_id.rpartition(":")[2].split("-v")[0], PUBLISHED)
        for name in values:
            if getattr(self, name) is None:
                setattr(self, name, values[name])


class Actor(nn.Module):
    """One midpoint step of the flow dx/dt = v(s, x, t) from x_0 = clip(N(0, I), -1, 1), squashed into the box."""

    def __init__(self, obs_dim: int, box: gym.spaces.Box, args: Args):
        super().__init__()
        self.action_dim, self.noise_factors, hidden = box.shape[0], 1, args.hidden_dim
        first, second = nn.Linear(obs_dim + self.action_dim + 1, hidden), nn.Linear(hidden, hidden)
        last, norms = nn.Linear(hidden, self.action_dim), (nn.LayerNorm(hidden), nn.LayerNorm(hidden))
        self.net = initialised(nn.Sequential(first, norms[0], nn.ELU(), second, norms[1], nn.ELU(), last))
        self.register_buffer("scale", torch.as_tensor((box.high - box.low) / 2, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor((box.high + box.low) / 2, dtype=torch.float32))

    def velocity(self, obs: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """obs (B, n), x (B, d), t (B, 1) in [0, 1] -> v (B, d)."""
        return self.net(torch.cat([obs, x, t], dim=1)).float()

    def flow(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """noise (1, B, d) -> x_1 (B, d), by the midpoint rule with one step: two evaluations of v."""
        x, t = noise[0].clamp(-1, 1), torch.zeros_like(noise[0, :, :1])
        return x + self.velocity(obs, x + 0.5 * self.velocity(obs, x, t), t + 0.5)

    def act(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Actions (B, d) in environment units; x_0 is all the randomness, in evaluation as well."""
        return self.to_env(torch.tanh(self.flow(obs, noise)))

    def to_env(self, u: torch.Tensor) -> torch.Tensor:
        """Actions from [-1, 1] to environment units."""
        return self.scale * u + self.bias

    def to_unit(self, action: torch.Tensor) -> torch.Tensor:
        """Inverse of `to_env`: the replay buffer holds environment units."""
        return (action - self.bias) / self.scale

    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise for `batch` actions: drawn outside the compiled functions, so that they are pure."""
        return torch.randn(self.noise_factors, batch, self.action_dim, generator=generator, device=generator.device)


def initialised(module: nn.Module) -> nn.Module:
    """Xavier-uniform weights and zero biases in every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


def value_net(n: int, hidden: int) -> nn.Sequential:
    """(B, n) -> (B, 1): four layers, normalised each, the first and the last without an activation."""
    layers = []
    for i in range(4):
        layers += [nn.Linear(hidden if i else n, hidden), nn.LayerNorm(hidden)] + [nn.GELU()] * (i in (1, 2))
    return initialised(nn.Sequential(*layers, nn.Linear(hidden, 1)))


class Critic(nn.Module):
    """Two Q-functions: obs (B, n), action (B, d) in environment units -> (2, B), in units of the scaled return."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: int):
        super().__init__()
        self.heads = nn.ModuleList(value_net(obs_dim + action_dim, hidden) for _ in range(2))

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([obs, action], dim=1)
        return torch.stack([head(x).squeeze(1) for head in self.heads]).float()


def frozen_view(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode and without gradients, on the same storage: it follows every in-place update."""
    view = copy.deepcopy(module).eval().requires_grad_(False)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        for mine, original in zip(tensors(view), tensors(module), strict=True):
            mine.data = original.data
    return view


def sample_recent(buffer, size: int, window: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """`ReplayBuffer.sample` from the last `window` transitions alone."""
    window = min(window, buffer.count, len(buffer.rows))
    age = torch.randint(window, (size,), generator=generator, device=generator.device)
    return buffer.split(buffer.rows[(buffer.count - 1 - age) % len(buffer.rows)])


def expectile_loss(error: torch.Tensor, expectile: float) -> torch.Tensor:
    """Asymmetric square of error = target - prediction (B,): its minimiser is the target's expectile."""
    return ((expectile - (error < 0).to(error.dtype)).abs() * error.square()).mean()


def critic_loss(critic, target_critic, actor, batch, noise, args):
    """Losses of Q, Q* and V, and tag -> value to log. They share no parameter: one backward pass serves the three."""
    obs, next_obs, action = batch["obs"], batch["next_obs"], batch["action"]
    reward, discount = args.reward_scale * batch["reward"], args.gamma * (1 - batch["terminated"])
    # Q of the policy.
    next_action = actor.act(next_obs, noise)
    next_q = target_critic["q"](next_obs, next_action).amin(0)
    q = critic["q"](obs, action)
    loss = (q - (reward + discount * next_q).detach()).square().mean(1).sum()
    # Q* and V of the buffer's better actions (IQL).
    buffer_q, next_value = critic["buffer_q"](obs, action), critic["value"](next_obs).squeeze(1).float()
    buffer_loss = (buffer_q - (reward + discount * next_value).detach()).square().mean(1).sum()
    value = critic["value"](obs).squeeze(1).float()
    value_loss = expectile_loss(target_critic["buffer_q"](obs, action).amin(0) - value, args.expectile)
    metrics = {"losses/qf_loss": loss.detach(), "losses/qf_values": q.detach().mean()}
    metrics |= {"losses/buffer_qf_loss": buffer_loss.detach(), "losses/buffer_qf_values": buffer_q.detach().mean()}
    metrics["policy/at_bounds"] = (actor.to_unit(next_action).abs() > 0.999).to(q.dtype).mean()
    return loss + buffer_loss + value_loss, buffer_q.detach().amin(0), metrics


def weights(buffer_q: torch.Tensor, q: torch.Tensor, bc_coeff: float) -> torch.Tensor:
    """Weights (B,) of the flow-matching errors: large where the buffer's action promises more than the policy's."""
    gain = (buffer_q - q).relu()
    return (bc_coeff * (gain - gain.mean()).exp()).clamp(1e-3, 1)  # after exp, which may overflow to inf


def actor_loss(actor, critic, batch, buffer_q, noise, start, t, args):
    """-Q of the policy's action plus the weighted flow-matching error of the buffer's, the paper's (28)."""
    obs, action = batch["obs"], batch["action"]
    # Policy.
    q = critic["q"](obs, actor.act(obs, noise)).amin(0)
    # Flow matching. The action, in the box's units, is not where the flow ends, which is before tanh; as in the code.
    end = torch.atanh(actor.to_unit(action).clamp(-0.999, 0.999)) if args.pre_tanh_endpoint else action
    start = start.clamp(-1, 1)
    error = (actor.velocity(obs, t * end + (1 - t) * start, t) - (end - start)).square().mean(1)
    # Weights. The code averages the errors before it weighs them: only the weights' mean then acts.
    weight = weights(buffer_q, q.detach(), args.bc_coeff)
    matching = (weight * error).mean() if args.per_sample_weights else weight.mean() * error.mean()
    metrics = {"losses/flow_matching": error.detach().mean(), "losses/weight": weight.mean()}
    return matching - q.mean(), metrics


def spread(actor, obs, noise) -> torch.Tensor:
    """Mean deviation of u at one state: of 16 draws at each of the 16 states obs (16, n), noise for 256 actions."""
    u = actor.to_unit(actor.act(obs.repeat_interleave(16, dim=0), noise))
    return u.view(16, 16, -1).std(dim=1).mean()


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main(args: Args) -> str:
    """Train, or go on with a run; returns the run's folder."""
    device = prepare(args)
    compiles = args.compile and has_compiler(device)
    lock = hold(args.resume) if args.resume else None
    checkpoint = load_checkpoint(args.resume) if args.resume else None
    env = make_env(args, introduce=True)
    episodes = range(args.eval_episodes if args.eval_frequency else 0)
    eval_envs = [make_env(args, film=args.capture_video and i == 0) for i in episodes]
    obs_dim, box = env.observation_space.shape[0], env.action_space
    box.seed(args.seed)
    buffer = ReplayBuffer(args.buffer_size, obs_dim, box.shape[0], device)

    # Networks and optimizers.
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    actor = Actor(obs_dim, box, args).to(device)
    sizes = obs_dim, box.shape[0], args.critic_hidden_dim
    critic = nn.ModuleDict({"q": Critic(*sizes), "buffer_q": Critic(*sizes)}).to(device)
    critic["buffer_q"].load_state_dict(critic["q"].state_dict())  # as the authors start it
    target_critic = copy.deepcopy(critic).requires_grad_(False)
    pairs = list(target_critic.parameters()), list(critic.parameters())
    critic["value"] = value_net(obs_dim, args.critic_hidden_dim).to(device)
    actor_view, critic_view = frozen_view(actor), frozen_view(critic)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=args.policy_lr, fused=True)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.q_lr, fused=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    functions = critic_loss, actor_loss, actor_view.act
    if compiles:
        functions = [torch.compile(function, dynamic=False) for function in functions]
    critic_loss_fn, actor_loss_fn, act_fn = functions

    def act(obs: np.ndarray) -> np.ndarray:
        obs_tensor = torch.as_tensor(obs, device=device)[None]
        action = act_fn(obs_tensor, actor.draw_noise(1, generator))[0]
        return into_box(action.cpu().numpy(), box)

    def update(number: int) -> dict[str, torch.Tensor]:
        """Update number `number`, from 1; returns tag -> value to log, on the device."""
        recent = round(args.recent_fraction * args.batch_size)
        batch = buffer.sample(args.batch_size - recent, generator)
        extra = sample_recent(buffer, recent, args.recent_window, generator)
        batch = {name: torch.cat([batch[name], extra[name]]) for name in batch}
        # Critics.
        noise = actor.draw_noise(args.batch_size, generator)
        with autocast:
            loss, buffer_q, metrics = critic_loss_fn(critic, target_critic, actor_view, batch, noise, args)
        descend(critic_optimizer, loss)
        if number % args.policy_frequency == 0:
            # Actor.
            noise, start = (actor.draw_noise(args.batch_size, generator) for _ in range(2))
            t = torch.rand(args.batch_size, 1, generator=generator, device=device)
            with autocast:
                loss, more = actor_loss_fn(actor, critic_view, batch, buffer_q, noise, start[0], t, args)
            descend(actor_optimizer, loss)
            metrics |= more | {"losses/actor_loss": loss.detach()}
            with torch.no_grad():
                torch._foreach_lerp_(*pairs, args.tau)
        return metrics

    if compiles:
        # Compile on zeros, before the loop: the losses are pure and leave no trace, and Ctrl-C has nothing to lose.
        began = time.perf_counter()
        print("compiling, a minute or two at first, seconds from the cache; --no-compile does without")
        batch = buffer.split(torch.zeros(args.batch_size, buffer.rows.shape[1], device=device))
        batch = {name: column.contiguous() for name, column in batch.items()}  # as torch.cat leaves a true one
        noise = torch.zeros(actor.noise_factors, args.batch_size, box.shape[0], device=device)
        with autocast:
            loss, buffer_q, _ = critic_loss_fn(critic, target_critic, actor_view, batch, noise, args)
            t = torch.zeros(args.batch_size, 1, device=device)
            other, _ = actor_loss_fn(actor, critic_view, batch, buffer_q, noise, noise[0], t, args)
        (loss + other).backward()
        act_fn(torch.zeros(1, obs_dim, device=device), torch.zeros(actor.noise_factors, 1, box.shape[0], device=device))
        print(f"compiled in {time.perf_counter() - began:.0f} s")

    # What a checkpoint holds of networks and optimizers.
    parts = {"actor": actor, "critic": critic, "target_critic": target_critic}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    start, episode, episode_start, last_return, metrics, rows = 0, 0, 0, math.nan, {}, buffer.rows[:0].cpu()
    if checkpoint:
        rows = restore(args.resume, checkpoint, parts, buffer, generator)
        start, episode, episode_start, last_return, metrics, _ = checkpoint["counters"]
        box.np_random.bit_generator.state = checkpoint["box"]
    obs, episode_return, ended = replay_episode(env, buffer.split(rows), episode_seed(args.seed, episode))
    path, writer, lock = start_run(args, device, start, lock)
    # Every transition, one after the other: a checkpoint has their number and checksum; what is behind them is cut off.
    replay = open(f"{path}/replay.bin", "ab")  # noqa: SIM115
    replay.truncate(4 * buffer.rows.shape[1] * buffer.count)

    # With miniters=1 its rate, and thus the remaining time, is that of the moment; disable=None: on a terminal alone.
    progress = tqdm(total=args.total_timesteps, initial=start, miniters=1, disable=None, leave=False)
    clock, clock_step = time.perf_counter(), start
    for step in range(start, args.total_timesteps + 1):  # as many steps have been taken
        # Log: reading from the device waits for it. A run that resumes here writes once more what is about this step.
        if ended:
            writer.add_scalar("charts/episodic_return", episode_return, step)
            writer.add_scalar("charts/episodic_length", step - episode_start, step)
            last_return = episode_return
        if due(step, args.log_frequency, args.total_timesteps):
            if metrics:
                own = torch.Generator(device).manual_seed(step)  # logging must not move the training's random numbers
                states, noise = buffer.sample(16, own)["obs"], actor.draw_noise(256, own)
                metrics["policy/std"] = spread(actor_view, states, noise)
            require_finite(step, metrics)
            for tag, value in metrics.items():
                writer.add_scalar(tag, value, step)
            if step > clock_step:
                writer.add_scalar("charts/SPS", (step - clock_step) / (time.perf_counter() - clock), step)
            progress.set_postfix(episodic_return=f"{last_return:.1f}", refresh=False)
            clock, clock_step = time.perf_counter(), step

        # Evaluate.
        if eval_envs and due(step, args.eval_frequency, args.total_timesteps):
            began = time.perf_counter()
            film = f"{path}/videos/step-{step}.mp4" if args.capture_video else None
            returns = evaluate(actor_view, eval_envs, episode_seed(args.seed, 10**9), device, film)
            if not STOP:  # which cuts it short: a run that resumes here evaluates once more
                writer.add_scalar("eval/episodic_return", returns.mean(), step)
                writer.add_scalar("eval/episodic_return_std", returns.std(), step)
                scores = f"eval return {returns.mean():.1f} +- {returns.std():.1f}  train return {last_return:.1f}"
                tqdm.write(f"step {step}/{args.total_timesteps}  {scores}")
            clock += time.perf_counter() - began  # steps/s leaves it out

        # Write a checkpoint: the parts, the generators, the counters; the transitions are in replay.bin.
        stopping, last = bool(STOP), step == args.total_timesteps  # a signal that comes later counts at the next step
        if stopping or due(step, args.checkpoint_frequency, args.total_timesteps):
            require_finite(step, metrics | {name: total(part) for name, part in parts.items()})
            writer.flush()
            state = {name: part.state_dict() for name, part in parts.items()} | {"args": asdict(args)}
            state |= {"generator": generator.get_state(), "box": box.np_random.bit_generator.state, "crc": buffer.crc}
            state["counters"] = step, episode, episode_start, last_return, metrics, last and not stopping
            save_checkpoint(path, state, replay)
        if stopping or last:
            break

        # Act: uniformly at first, as the literature does.
        if ended or obs is None:
            episode, episode_start, episode_return = episode + 1, step, 0.0
            obs, _ = env.reset(seed=episode_seed(args.seed, episode))
        if step < args.learning_starts:
            action = into_box(box.sample(), box)
        else:
            action = act(obs)
            metrics |= update(step + 1 - args.learning_starts)
        next_obs, reward, terminated, truncated, _ = env.step(action.copy())  # a task may change it
        transition = {"obs": obs, "action": action, "reward": reward, "next_obs": next_obs, "terminated": terminated}
        replay.write(buffer.add(**transition))
        obs, episode_return, ended = next_obs, episode_return + float(reward), terminated or truncated
        progress.set_description("training" if step >= args.learning_starts else "random actions", refresh=False)
        progress.update()
    for opened in (progress, writer, lock, replay, env, *eval_envs):
        opened.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process may be a notebook's, and go on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if stopping:
        print(f"interrupted; go on with: {shlex.join([sys.executable, sys.argv[0], '--resume', path])}")
        raise SystemExit(128 + STOP[0])
    return path


# Housekeeping: whoever reads for the algorithm stops here.
FORMAT = 4  # of a checkpoint: another one's cannot be resumed
LONGEST_EPISODE = 10_000  # steps, where a task is registered without a limit
# The scale takes a trained agent's reward per step to about 1, as in the authors' tasks. tau is theirs but on
# HalfCheetah, where the policy lost half for 30 000 steps; on Hopper 0.005 was no better (one seed each).
PUBLISHED = {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 1.0}
PRESETS = {
    "InvertedPendulum": {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 1.0},
    "Hopper": {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 0.3},
    "Walker2d": {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 0.2},
    "HalfCheetah": {"tau": 0.005, "bc_coeff": 0.1, "reward_scale": 0.1},
    "Ant": {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 0.15},
    "Humanoid": {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 0.1},
    "HumanoidStandup": {"tau": 0.95, "bc_coeff": 0.1, "reward_scale": 0.003},
}


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


def prepare(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy, and set PyTorch up; returns the device."""
    zeros = "eval_frequency", "checkpoint_frequency"
    units = "gamma", "tau", "policy_lr", "q_lr", "expectile", "recent_fraction"
    limits = dict.fromkeys(zeros, (0, 2**62)) | dict.fromkeys(units, (0, 1))
    limits |= dict.fromkeys(("critic_hidden_dim", "hidden_dim"), (1, 2**14))
    limits |= {"bc_coeff": (1e-3, 1e6), "reward_scale": (1e-9, 1e6)}
    limits |= {"seed": (0, 2**32 - 1)}  # of a larger one PyTorch's generator for CPUs takes the last 32 bits
    for name, value in asdict(args).items():
        low, high = limits.get(name, (1, 2**62))
        fine = type(value) not in (int, float) or low <= value <= high
        require(fine, f"--{name.replace('_', '-')} {value}: choose a number from {low} to {high}")
    place = os.path.abspath(os.path.expanduser(args.run_dir))
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    devices = ["cpu"] + ["mps"] * torch.backends.mps.is_available() + ["cuda"] * torch.cuda.is_available()
    device = {"auto": "cuda" if "cuda" in devices else "cpu"}.get(args.device, args.device)
    for flag, fine, remedy in (
        ("device", device in devices, f"not available here; choose auto, {', '.join(devices)}"),
        ("learning_starts", args.learning_starts < args.total_timesteps, "must be below --total-timesteps"),
        ("batch_size", args.batch_size <= args.learning_starts, "the first update has fewer; raise --learning-starts"),
        ("batch_size", args.batch_size <= args.buffer_size, "more than the buffer holds; raise --buffer-size"),
        ("run_dir", args.resume or os.access(place, os.W_OK | os.X_OK), "no folder to write to; choose another"),
        ("track", not args.track or importlib.util.find_spec("wandb"), "pip install wandb first"),
        ("capture_video", not args.capture_video or importlib.util.find_spec("imageio_ffmpeg"), "needs imageio-ffmpeg"),
        ("capture_video", not args.capture_video or args.eval_frequency, "films evaluations; give --eval-frequency"),
    ):
        require(fine, f"--{flag.replace('_', '-')} {getattr(args, flag)}: {remedy}")
    if args.compile and not has_compiler(torch.device(device)):
        print("no compiler or no Python.h found: running without torch.compile, slower")
    processor = torch.cpu.get_capabilities()
    # "medium" sends float32 products on a CPU to oneDNN, twice as fast with AVX-512. With AMX, and on Arm, it would
    # make bfloat16 of them, which --bf16 alone may do. "high" is TF32 on CUDA.
    exact = processor.get("architecture") == "x86_64" and not processor.get("amx_bf16")
    on_cpu = "medium" if exact else "highest"
    torch.set_float32_matmul_precision(on_cpu if device == "cpu" else "high")
    return torch.device(device)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds Python.h and its compiler: of C++ on a CPU, of C, for Triton's launchers, on CUDA."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    names = [os.environ.get("CXX", usual)] if device.type == "cpu" else [os.environ.get("CC", "gcc"), "clang"]
    return os.path.exists(sysconfig.get_path("include") + "/Python.h") and any(map(shutil.which, names))


def make_env(args: Args, film: bool = False, introduce: bool = False) -> gym.Env:
    """One environment, tried for a step in place of Gymnasium's checks, whose observations are flat float32 copies:
    some tasks change one array in place. The caller resets it, so that no stored step can cross an episode's end.
    introduce: say what was done to the task so that it fits."""
    flag, remedy = f"--env-id {args.env_id}", "choose another task, or the latest version"
    if film:
        flag, remedy = "--capture-video", "choose a task that renders rgb_array; without a display set MUJOCO_GL=egl"
    warnings.simplefilter("ignore", DeprecationWarning)  # the literature's tasks are v4
    warnings.filterwarnings("ignore", ".*(GLFW|DISPLAY|render_modes|precision|overflow).*")  # our errors say it
    try:
        env = gym.make(args.env_id, disable_env_checker=True, **({"render_mode": "rgb_array"} if film else {}))
        changes = []
        if isinstance(env.observation_space, gym.spaces.Dict):
            changes.append(f"observations are flattened in the order {', '.join(env.observation_space)}")
            env = gym.wrappers.FlattenObservation(env)
        if env.spec.max_episode_steps is None:
            changes.append(f"no step limit is registered; an episode that reaches {LONGEST_EPISODE} steps is truncated")
            env = gym.wrappers.TimeLimit(env, LONGEST_EPISODE)
        box, space = env.action_space, env.observation_space
        fits = isinstance(box, gym.spaces.Box) and len(box.shape) == 1 and box.dtype.kind == "f"
        fits = fits and ((np.float32(box.low) < np.float32(box.high)) & (np.float64(box.high) - box.low < 1e38)).all()
        require(fits, f"{flag}: actions are {box}; choose a task with a bounded one-dimensional Box of floats")
        flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        require(flat, f"{flag}: observations are {space}, not a flat Box; wrap it in FlattenObservation")
        env = gym.wrappers.TransformReward(env, lambda reward: float(np.asarray(reward).item()))  # of an array of one
        env = gym.wrappers.TransformObservation(env, lambda obs: np.array(obs, np.float32).reshape(space.shape), space)
        box.seed(0)  # a wrapper's statistics may outlive the episode
        env.reset(seed=0)
        env.step(box.sample())
        if film and hasattr(env.unwrapped, "mujoco_renderer") and env.unwrapped.model.ncam:
            env.unwrapped.mujoco_renderer.camera_id = 0  # which follows the body: Gymnasium's own view loses it
        if film:
            env.render().shape[2]  # noqa: B018
    except Exception as error:  # no such id, a missing package, no display: whatever its author raises
        sys.unraisablehook = lambda _: None  # a half-made renderer complains when it is deleted
        require(False, f"{flag}: {str(error) or repr(error)}; {remedy}")
    args.env_id = "".join(args.env_id.rpartition(":")[:2]) + env.unwrapped.spec.id  # with its version
    for change in changes if introduce else ():
        print(f"{args.env_id}: {change}")
    return env


def into_box(action: np.ndarray, box: gym.spaces.Box) -> np.ndarray:
    """The action in float32, inside the box: one beyond a bound becomes the float just within it."""
    if not np.isfinite(action).all():
        raise SystemExit("error: the action is not finite; any checkpoint stays")
    action = action.astype(np.float32)
    action = np.where(action > box.high, np.nextafter(box.high, -np.inf, dtype=np.float32), action)
    return np.where(action < box.low, np.nextafter(box.low, np.inf, dtype=np.float32), action)


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


class ReplayBuffer:
    """Ring of transitions, one row each, on one device. Only termination is an end: a time limit bootstraps."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: torch.device):
        self.widths = {"obs": obs_dim, "action": action_dim, "reward": 1, "next_obs": obs_dim, "terminated": 1}
        needed = 4 * capacity * sum(self.widths.values())
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
        print(f"replay buffer: {capacity} transitions, {needed / 2**30:.2f} GiB of {free / 2**30:.1f} GiB free")
        most = int(0.8 * free / needed * capacity)
        require(needed <= free, f"--buffer-size {capacity}: more than the free memory; {most} would fit")
        self.rows = torch.empty(capacity, sum(self.widths.values()), device=device)
        self.count, self.crc = 0, 0  # of all rows ever added, which replay.bin holds

    def add(self, **transition) -> np.ndarray:
        """Store one transition, given by name as NumPy arrays and numbers; returns its row, for replay.bin. Ends the
        run where one is not finite."""
        row = np.concatenate([np.atleast_1d(transition[name]) for name in self.widths], dtype=np.float32)
        if not np.isfinite(row).all():
            require_finite(self.count + 1, self.split(torch.from_numpy(row[None])))
        self.rows[self.count % len(self.rows)] = torch.from_numpy(row)
        self.count, self.crc = self.count + 1, zlib.crc32(row, self.crc)
        return row

    def split(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows -> name -> (B, n), for rewards and ends (B,)."""
        batch = dict(zip(self.widths, rows.split(list(self.widths.values()), dim=1), strict=True))
        return batch | {name: batch[name].squeeze(1) for name in ("reward", "terminated")}

    def sample(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Uniform draw with replacement."""
        size = min(self.count, len(self.rows))
        drawn = torch.randint(size, (batch,), generator=generator, device=generator.device)
        return self.split(self.rows.index_select(0, drawn))  # on a CPU two to six times as fast as rows[drawn]


def evaluate(actor, envs: list[gym.Env], seed: int, device: torch.device, film: str | None = None) -> np.ndarray:
    """Undiscounted returns (n,) of one episode per environment, the first one filmed; cut short by a signal to stop.
    Same seed: same start states and noise."""
    generator, box, writer = torch.Generator(device).manual_seed(seed), envs[0].action_space, None
    returns, running = np.zeros(len(envs)), np.ones(len(envs), dtype=bool)
    if film:
        import imageio

        os.makedirs(os.path.dirname(film), exist_ok=True)
        writer = imageio.get_writer(film, fps=envs[0].metadata.get("render_fps", 30), macro_block_size=2)
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    while running.any() and not STOP:
        obs_tensor = torch.as_tensor(obs, device=device)
        actions = actor.act(obs_tensor, actor.draw_noise(len(envs), generator), deterministic=True)
        for i in np.flatnonzero(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(into_box(actions[i].cpu().numpy(), box))
            returns[i] += reward
            running[i] = not (terminated or truncated)
            if film and i == 0:
                writer.append_data(envs[0].render())
    if film:
        writer.close()
    return returns


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


def load_checkpoint(run: str) -> dict:
    """The state that `save_checkpoint` was given; nothing in the file can execute."""
    path, subject = f"{run}/checkpoint.pt", f"--resume {run}: checkpoint.pt is"
    try:
        if zipfile.ZipFile(path).testzip():
            raise ValueError("a checksum differs")
        state = torch.load(path, map_location="cpu", weights_only=True)
        script, version = state["script"], (state.get("format"), state["args"].keys())
    except Exception as error:  # whatever a missing, damaged or foreign file makes the readers raise
        require(False, f"{subject} missing, damaged or foreign ({error})")
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
    """The command line's flags, or the checkpoint's, which they must not contradict."""
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
        fine = value == old or name in ("resume", "checkpoint_frequency") or (name == "total_timesteps" and value > old)
        require(fine, f"{flag} {value}: the checkpoint has {old}; leave the flag out or start a new run")
    step, *_, finished = checkpoint["counters"]
    require(step < args.total_timesteps or not finished, "--resume: finished; raise --total-timesteps")
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
