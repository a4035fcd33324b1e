"""QSM: Q-score matching, a diffusion policy whose score is the critic's action gradient, a baseline of the SAC flows.

Psenka et al., "Learning a Diffusion Model Policy from Rewards via Q-Score Matching", arXiv 2312.11752, with the
constants of the authors' released code; the random start is that of sac_flow_g.py. The denoising network learns -M
dQ/da, so that sampling climbs Q; no gradient passes through the sampler.

    python baselines/qsm.py --env-id HalfCheetah-v4
    python baselines/qsm.py --env-id Hopper-v4 --critic-hidden-dim 256 --learning-starts 5000
    python baselines/qsm.py --published --learning-starts 10000                # the authors' own numbers

The sampler climbs a Q of curvature c with M c between 1 and 3. From 4.5 on it lands in the box's corners if the maximum
is at the box's centre, and with a third of the samples or more if it is not. M = 50 is meant for the authors' tasks:
PRESETS scales MuJoCo's rewards and has an M per task, --published leaves both as the authors have them.
"""

# Symbols: s observation, u action in [-1, 1] (B, d), a = scale * u + bias, T diffusion steps, u_k noisy action, k =
# T - 1 the noisiest, alpha_k and abar_k the schedule, eps the denoising network, M the scale of the critic's gradient.
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
import torch.nn.functional as F
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
    policy_lr: float = 3e-4  # Adam step size of the denoising network at the start
    policy_decay_steps: int = 2_000_000  # updates over which a cosine takes it to 0
    q_lr: float = 3e-4  # Adam step size of the critics
    tau: float = 0.005  # target smoothing per update
    critic_hidden_dim: int = 512  # width of the critics' two hidden layers
    hidden_dim: int = 512  # width of the denoising network's two hidden layers
    sampling_steps: int = 5  # T
    exploration_noise: float = 0.1  # deviation of the noise on acting's and the target's actions, in units of u
    noise_free_evaluation: bool = False  # evaluate without the sampler's noise behind its start; the authors' keeps it
    q_grad_coeff: float | None = None  # M, per scaled return: goes with --reward-scale; None: preset, else 50
    reward_scale: float | None = None  # factor on the rewards in the losses; None is the task's preset, else 1

    def __post_init__(self):
        """Flags left at None take the task's value, or the published one where the task has none."""
        values = PUBLISHED if self.published else PRESETS.get(self.env_id.rpartition(":")[2].split("-v")[0], PUBLISHED)
        for name in values:
            if getattr(self, name) is None:
                setattr(self, name, values[name])


class Actor(nn.Module):
    """Denoising diffusion sampler in [-1, 1]^d, whose network eps(s, u_k, k) is trained to -M dQ/du."""

    def __init__(self, obs_dim: int, box: gym.spaces.Box, args: Args):
        super().__init__()
        self.action_dim, self.T, hidden = box.shape[0], args.sampling_steps, args.hidden_dim
        self.noise_factors = self.T + 1  # the start, one per step but the last, and the exploration noise
        self.exploration_noise, self.noise_free_evaluation = args.exploration_noise, args.noise_free_evaluation
        # Variance-preserving schedule with beta from 0.1 to 10.
        k = torch.arange(1, self.T + 1)
        alpha = torch.exp(-0.1 / self.T - 0.5 * (10 - 0.1) * (2 * k - 1) / self.T**2)
        self.register_buffer("alpha", alpha)
        self.register_buffer("abar", alpha.cumprod(0))
        self.frequency = nn.Parameter(0.2 * torch.randn(32))
        self.time = nn.Sequential(nn.Linear(64, 128), Mish(), nn.Linear(128, 128))
        # First layer by input, W [u; s; k] = W_u u + W_s s + W_k k: only W_u has to be applied at every step.
        fan_in = (obs_dim, self.action_dim, 128)
        self.from_obs, self.from_u, self.from_time = (nn.Linear(n, hidden, bias=i == 0) for i, n in enumerate(fan_in))
        self.net = nn.Sequential(Mish(), nn.Linear(hidden, hidden), Mish(), nn.Linear(hidden, self.action_dim))
        initialised(self.time), initialised(self.net)
        for part in (self.from_obs, self.from_u, self.from_time):  # initialised as the one layer they are
            nn.init.uniform_(part.weight, -((6 / (sum(fan_in) + hidden)) ** 0.5), (6 / (sum(fan_in) + hidden)) ** 0.5)
        nn.init.zeros_(self.from_obs.bias)
        self.register_buffer("scale", torch.as_tensor((box.high - box.low) / 2, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor((box.high + box.low) / 2, dtype=torch.float32))

    def embed(self) -> torch.Tensor:
        """The first layer's part (T, hidden) for the whole numbers k = 0, .., T - 1."""
        angle = 2 * math.pi * torch.arange(self.T, device=self.frequency.device)[:, None] * self.frequency
        return self.from_time(self.time(torch.cat([angle.cos(), angle.sin()], dim=1)))

    def denoise(self, u: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """eps (B, d) at u = u_k (B, d), with context = from_obs(s) + embed()[k], (B, hidden)."""
        return self.net(context + self.from_u(u)).float()

    def add_noise(self, u: torch.Tensor, k: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """u_k (B, d) for the steps k (B,). Not clipped, unlike the sampler's."""
        abar = self.abar[k][:, None]
        return abar.sqrt() * u + (1 - abar).sqrt() * noise

    def sample(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """obs (B, n), noise (T + 1, B, d) -> u (B, d), without exploration noise. Its own noise stays in evaluation."""
        u, from_obs, embedded = noise[0], self.from_obs(obs), self.embed()
        for k in reversed(range(self.T)):
            eps = self.denoise(u, from_obs + embedded[k])
            u = (u - (1 - self.alpha[k]) / (1 - self.abar[k]).sqrt() * eps) / self.alpha[k].sqrt()
            if k > 0:
                u = u + (1 - self.alpha[k]).sqrt() * noise[self.T - k]
            u = u.clamp(-1, 1)
        return u

    def explore(self, u: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Sampled u (B, d) as it acts in training, and in the critic's target too."""
        return (u + self.exploration_noise * noise[-1]).clamp(-1, 1)

    def act(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Actions (B, d) in environment units."""
        if deterministic and self.noise_free_evaluation:
            noise = torch.cat([noise[:1], torch.zeros_like(noise[1:])])
        u = self.sample(obs, noise)
        return self.to_env(u if deterministic else self.explore(u, noise))

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


def relu(x: torch.Tensor) -> torch.Tensor:
    """ReLU. Behind frozen weights F.relu saves a boolean mask, whose stores Inductor does not vectorise."""
    return 0.5 * (x + x.abs()) if torch.compiler.is_compiling() else F.relu(x)


class Critic(nn.Module):
    """Two Q-functions: obs (B, n), u (B, d) -> (2, B), in units of the scaled return."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: int):
        super().__init__()
        widths = (obs_dim + action_dim, hidden, hidden, 1)
        self.layers = nn.ModuleList(nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:])) for _ in range(2))
        initialised(self)

    def forward(self, obs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        q = []
        for *hidden, last in self.layers:
            x = torch.cat([obs, u], dim=1)
            for layer in hidden:
                x = relu(layer(x))
            q.append((x * last.weight).sum(1) + last.bias)  # as a matrix product its gradient is slow on a CPU
        return torch.stack(q).float()


class Mish(nn.Module):
    """x tanh(softplus(x)) by one exponential: compiled several times as fast as torch's on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = x.clamp(max=20).exp()
        n = e * (e + 2)
        return x * (n / (n + 2))


def frozen_view(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode and without gradients, on the same storage: it follows every in-place update."""
    view = copy.deepcopy(module).eval().requires_grad_(False)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        for mine, original in zip(tensors(view), tensors(module), strict=True):
            mine.data = original.data
    return view


def critic_loss(critic, target_critic, actor, batch, noise, args):
    """Bellman error without entropy, and tag -> value to log. The actor is a frozen view."""
    # Target.
    next_u = actor.sample(batch["next_obs"], noise)
    next_value = target_critic(batch["next_obs"], actor.explore(next_u, noise)).amin(0)
    target = (args.reward_scale * batch["reward"] + args.gamma * (1 - batch["terminated"]) * next_value).detach()
    # Critic.
    q = critic(batch["obs"], actor.to_unit(batch["action"]))
    corner = (next_u.abs() > 0.999).to(q.dtype).mean()  # share of coordinates at a bound
    return (q - target).square().mean(1).sum(), {"losses/qf_values": q.detach().mean(), "policy/at_bounds": corner}


def mean_q(critic, obs, u):
    """Sum over the batch of the heads' mean: its gradient by u (B, d) holds every sample's own."""
    return critic(obs, u).mean(0).sum()


def actor_loss(actor, obs, noisy, k, target):
    """Score matching, the paper's (31) and (32): eps(s, u_k, k) to the target -M dQ/du at that same noisy action."""
    return (actor.denoise(noisy, actor.from_obs(obs) + actor.embed()[k]) - target).square().mean()


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
    critic = Critic(obs_dim, box.shape[0], args.critic_hidden_dim).to(device)
    target_critic = copy.deepcopy(critic).requires_grad_(False)
    actor_view, critic_view = frozen_view(actor), frozen_view(critic)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=args.policy_lr, fused=True)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.q_lr, fused=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    functions = critic_loss, mean_q, actor_loss, actor_view.act
    if compiles:
        functions = [torch.compile(function, dynamic=False) for function in functions]
    critic_loss_fn, mean_q_fn, actor_loss_fn, act_fn = functions

    def act(obs: np.ndarray) -> np.ndarray:
        obs_tensor = torch.as_tensor(obs, device=device)[None]
        action = act_fn(obs_tensor, actor.draw_noise(1, generator))[0]
        return into_box(action.cpu().numpy(), box)

    def actor_pass(batch: dict, k: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The actor's loss at the noisy actions u_k, and the M dQ/du (B, d) there."""
        noisy = actor.add_noise(actor.to_unit(batch["action"]), k, noise).requires_grad_()
        with autocast:
            (gradient,) = torch.autograd.grad(mean_q_fn(critic_view, batch["obs"], noisy), noisy)
            gradient = args.q_grad_coeff * gradient
            return actor_loss_fn(actor, batch["obs"], noisy.detach(), k, -gradient), gradient

    def update(number: int) -> dict[str, torch.Tensor]:
        """Update number `number`, from 1, of critic and actor; returns tag -> value to log, on the device."""
        batch, noise = buffer.sample(args.batch_size, generator), actor.draw_noise(args.batch_size, generator)
        # Critic.
        with autocast:
            loss, metrics = critic_loss_fn(critic, target_critic, actor_view, batch, noise, args)
        descend(critic_optimizer, loss)
        with torch.no_grad():
            torch._foreach_lerp_(list(target_critic.parameters()), list(critic.parameters()), args.tau)
        metrics |= {"losses/qf_loss": loss.detach()}
        # Actor.
        k = torch.randint(actor.T, (args.batch_size,), generator=generator, device=device)
        loss, gradient = actor_pass(batch, k, actor.draw_noise(args.batch_size, generator)[0])
        for group in actor_optimizer.param_groups:
            done = min((number - 1) / args.policy_decay_steps, 1)
            group["lr"] = args.policy_lr * 0.5 * (1 + math.cos(math.pi * done))
        descend(actor_optimizer, loss)
        return metrics | {"losses/actor_loss": loss.detach(), "gradients/scaled_q": gradient.abs().median()}

    if compiles:
        # Compile on zeros, before the loop: the losses are pure and leave no trace, and Ctrl-C has nothing to lose.
        began = time.perf_counter()
        print("compiling, a minute or two at first, seconds from the cache; --no-compile does without")
        batch = buffer.split(torch.zeros(args.batch_size, buffer.rows.shape[1], device=device))
        noise = torch.zeros(actor.noise_factors, args.batch_size, box.shape[0], device=device)
        with autocast:
            loss, _ = critic_loss_fn(critic, target_critic, actor_view, batch, noise, args)
        other, _ = actor_pass(batch, torch.zeros(args.batch_size, dtype=torch.int64, device=device), noise[0])
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
# The scale takes a trained agent's reward per step to about 1, as in the authors' tasks. M on HalfCheetah, Hopper
# and Walker2d is the best of those tried, and elsewhere a guess (baselines/README.md).
PUBLISHED = {"q_grad_coeff": 50.0, "reward_scale": 1.0}
PRESETS = {
    "InvertedPendulum": {"q_grad_coeff": 0.3, "reward_scale": 1.0},
    "Hopper": {"q_grad_coeff": 5.0, "reward_scale": 0.3},
    "Walker2d": {"q_grad_coeff": 20.0, "reward_scale": 0.2},
    "HalfCheetah": {"q_grad_coeff": 30.0, "reward_scale": 0.1},
    "Ant": {"q_grad_coeff": 5.0, "reward_scale": 0.15},
    "Humanoid": {"q_grad_coeff": 5.0, "reward_scale": 0.1},
    "HumanoidStandup": {"q_grad_coeff": 5.0, "reward_scale": 0.003},
}


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


def prepare(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy, and set PyTorch up; returns the device."""
    zeros = "eval_frequency", "checkpoint_frequency"
    limits = dict.fromkeys(zeros, (0, 2**62)) | dict.fromkeys(("gamma", "tau", "policy_lr", "q_lr"), (0, 1))
    limits |= dict.fromkeys(("critic_hidden_dim", "hidden_dim", "sampling_steps"), (1, 2**14))
    limits |= dict.fromkeys(("exploration_noise", "q_grad_coeff"), (0, 1e6)) | {"reward_scale": (1e-9, 1e6)}
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
