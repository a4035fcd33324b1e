"""SAC Flow-G: soft actor-critic whose policy is a K-step flow with a GRU-gated velocity network.

Zhang et al., "SAC Flow: Sample-Efficient RL of Flow-Based Policies via Velocity-Reparameterized Sequential Modeling",
arXiv 2509.25756. Equation numbers in parentheses are the paper's; the velocity network is (6):
    v = g * (c - A),  g = sigmoid(z(t, A, s)),  so that a step A + v dt is a gated recurrent update.

    python sac_flow_g.py --env-id Humanoid-v4
    python sac_flow_g.py --env-id HalfCheetah-v4 --size small
    tensorboard --logdir runs
"""

# sync: symbols
# Symbols: s observation, a action in environment units, d action dimension, B batch size, K sampling steps, dt = 1/K,
# t_k = k dt, A_k intermediate action (B, d), A_0 ~ N(0, I), v velocity, b drift, sigma_k = exp(log_std) noise scale,
# a = scale * tanh(A_K) + bias, alpha temperature in reward per nat. Log-densities are in nats.
# sync: imports
import copy
import difflib
import hashlib
import importlib.util
import inspect
import io
import math
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace

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


# sync: args
@dataclass
class Args:
    env_id: str = "Humanoid-v4"  # Gymnasium task with flat Box observations and a bounded Box action space
    size: str = "full"  # full: the paper's; small: for a CPU core, see SIZES; a flag given beside it overrides it
    seed: int = 1  # seed of the networks, the noise, the replay sampling and the environment
    total_timesteps: int = 1_000_000  # environment steps
    learning_starts: int = 50_000  # environment steps with uniformly random actions before the first update
    buffer_size: int = 1_000_000  # replay capacity in transitions
    batch_size: int = 512  # transitions per update
    gamma: float = 0.99  # discount per environment step
    policy_lr: float = 3e-4  # Adam step size of the actor
    q_lr: float = 1e-3  # Adam step size of the critics
    alpha_lr: float = 1e-3  # Adam step size of log alpha
    adam_beta1: float = 0.5  # Adam's first-moment decay in all three optimizers (CrossQ: 0.5, elsewhere 0.9)
    policy_frequency: int = 3  # critic updates per actor and temperature update
    crossq: bool = True  # BatchRenorm critics without target networks, or plain critics with target networks
    tau: float = 0.005  # target smoothing per update, used with --no-crossq only
    critic_hidden_dim: int = 1024  # width of the critics' two hidden layers
    normalize_obs: bool = True  # BatchRenorm on the actor's observation
    autotune: bool = True  # adapt alpha so that the policy's entropy meets --target-entropy
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # torch.compile losses and acting, a minute or two at first; a CPU needs a C++ compiler for it
    cuda_graph: bool = False  # on CUDA replay each kind of update as one captured graph (not yet run)
    bf16: bool = False  # bfloat16 matrix products in the losses; densities, normalisation and Adam stay in float32
    eval_frequency: int = 10_000  # environment steps between evaluations, with one at the end; 0 for none
    eval_episodes: int = 10  # noise-free episodes per evaluation
    log_frequency: int = 1000  # environment steps between writes of losses, policy and gradient statistics
    run_dir: str = "runs"  # folder that receives the run's own folder
    checkpoint_frequency: int = 50_000  # environment steps between checkpoints, 0 for none but on SIGINT and SIGTERM
    resume: str | None = None  # run folder to go on in; flags come from its checkpoint, --total-timesteps may be raised
    eval_only: bool = False  # with --resume: print the mean and deviation of --eval-episodes returns, and end
    exp_name: str = os.path.splitext(os.path.basename(__file__))[0]  # name of the experiment in the run's folder
    save_model: bool = False  # write model.pt (networks with their running statistics, arguments) at the end
    capture_video: bool = False  # record one episode of every evaluation; without a display set MUJOCO_GL=egl
    track: bool = False  # send the run to Weights & Biases as well
    wandb_project_name: str = "sac-flow"  # Weights & Biases project
    wandb_entity: str | None = None  # Weights & Biases team

    # What --size changes. Small starts without compiling; --compile pays for itself after 20 000 to 45 000 steps.
    SIZES = {
        "full": {},
        "small": {"critic_hidden_dim": 256, "batch_size": 256, "learning_starts": 5000, "compile": False},
    }

    # sync: flow-args
    alpha: float = 0.01  # initial (with --no-autotune constant) temperature, reward per nat
    target_entropy: float = 0.0  # target of the path entropy -log p(A_0..A_K), nats in environment action units
    sampling_steps: int = 4  # K, steps of the rollout
    drift_correction: bool = False  # drift (14), which keeps a flow-matching field's marginals, instead of b = v
    log_std_min: float = -5.0  # lower bound of log sigma
    log_std_max: float = 2.0  # upper bound of log sigma
    # sync: end
    # Variant.
    hidden_dim: int = 512  # width of the gate, the candidate and the noise head
    candidate_layers: int = 2  # hidden layers of the candidate (the authors' code: 1)
    bounded_candidate: bool = False  # bound the candidate c by tanh, as the paper writes it and its code does not


# sync: require
def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", message.replace("\n", " "), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


# sync: environment
def make_env(args: Args, video_dir: str | None = None) -> gym.Env:
    """One plain environment: the caller resets it, so that no stored step can cross an episode's end. With video_dir it
    can render, and records every episode there unless that is ""."""
    env = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the literature's tasks are v4
            env = gym.make(args.env_id, **({"render_mode": "rgb_array"} if video_dir is not None else {}))
        if video_dir is not None:
            env.reset()
            env.render()  # fails here, and not at the first evaluation, where there is no display
    except Exception as error:  # no such id, a missing package, an outdated task: whatever its author raises
        problem = str(error).partition("\n")[0]
        sys.unraisablehook = lambda _: None  # a half-made renderer complains when it is deleted
        require(env is None, f"--capture-video: {problem}; without a display set MUJOCO_GL=egl")
        close = difflib.get_close_matches(args.env_id, set(gym.registry) - {args.env_id}, n=3, cutoff=0.5)
        remedy = f"choose another; the closest ids are: {', '.join(close) or 'none'}"
        require(False, f"--env-id {args.env_id}: {problem}; {remedy}")
    box, space = env.action_space, env.observation_space
    fits = isinstance(box, gym.spaces.Box) and len(box.shape) == 1
    fits = fits and ((box.low < box.high) & (box.high - box.low < np.inf)).all()
    require(fits, f"--env-id {args.env_id}: actions are {box}; choose a task with a bounded one-dimensional Box")
    flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    require(flat, f"--env-id {args.env_id}: observations are {space}, not a flat Box; wrap it in FlattenObservation")
    env = gym.wrappers.TransformObservation(env, np.array, space)  # copies: some tasks change one array in place
    return gym.wrappers.RecordVideo(env, video_dir, episode_trigger=lambda _: True) if video_dir else env


# sync: check
def has_bf16() -> bool:
    """Whether this processor has instructions for bfloat16: without them a step takes several times as long."""
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def check(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy; returns the device."""
    inf, stored = math.inf, min(args.learning_starts, args.buffer_size)
    drift = getattr(args, "drift_correction", False)
    limits = dict.fromkeys(("learning_starts", "policy_lr", "q_lr", "alpha_lr"), (0, inf)) | {"seed": (0, 2**62)}
    limits |= dict.fromkeys(("hidden_dim", "d_model"), (1, 2**14))
    limits |= dict.fromkeys(("eval_frequency", "checkpoint_frequency"), (0, inf))
    limits |= {"log_std_min": (-20, inf), "log_std_max": (-inf, 10), "critic_hidden_dim": (2, 2**14)}
    limits |= {"gamma": (0, 1), "tau": (0, 1), "adam_beta1": (0, 0.999), "alpha": (1e-9 if args.autotune else 0, inf)}
    for field in fields(args):
        low, high = limits.get(field.name, (1 if field.type is int else -inf, inf))
        value, flag = getattr(args, field.name), "--" + field.name.replace("_", "-")
        fine = field.type not in (int, float) or (low <= value <= high and abs(value) < inf)
        require(fine, f"{flag} {value}: choose a number from {low} to {high}")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    device = ("cuda" if "cuda" in devices else "cpu") if args.device == "auto" else args.device
    for flag, fine, remedy in (
        ("log_std_min", args.log_std_min < args.log_std_max, "must be below --log-std-max"),
        ("log_std_max", args.log_std_max <= 2 or not drift, "must be at most 2, or --drift-correction overflows"),
        ("learning_starts", args.learning_starts < args.total_timesteps, "must be below --total-timesteps"),
        ("batch_size", args.batch_size <= stored, f"the first update has {stored} steps; raise --learning-starts"),
        ("device", device in devices, f"not available here; choose auto, {', '.join(devices)}"),
        ("eval_only", not args.eval_only or args.resume, "name the run's folder with --resume"),
        ("cuda_graph", not args.cuda_graph or args.eval_only or device == "cuda", "needs --device cuda"),
        ("track", not args.track or args.eval_only or importlib.util.find_spec("wandb"), "pip install wandb first"),
        ("capture_video", not args.capture_video or importlib.util.find_spec("moviepy"), "pip install moviepy first"),
    ):
        require(fine, f"--{flag.replace('_', '-')} {getattr(args, flag)}: {remedy}")
    if args.bf16 and device == "cpu" and not has_bf16():
        print("--bf16: this processor has no bfloat16 instructions and will be slower with it, not faster", flush=True)
    return torch.device(device)


# sync: relu
def relu(x: torch.Tensor) -> torch.Tensor:
    """ReLU. Behind frozen weights F.relu saves a boolean mask, whose stores Inductor does not vectorise."""
    return 0.5 * (x + x.abs()) if torch.compiler.is_compiling() else F.relu(x)


# sync: critic
class BatchRenorm(nn.Module):
    """Batch renormalization (Ioffe, 2017) over the first dimension of (B, n), with the constants of CrossQ.

    Training mode normalises with the batch's statistics, corrected towards the running ones by r and d; the first
    `warmup` training calls are plain batch normalization. Evaluation mode uses the running statistics. They move in
    `track`, after the backward pass, and not in `forward`: a compiled backward pass recomputes r and d from them, and
    with moved statistics its gradients are silently wrong (pytorch/pytorch#197039).
    """

    def __init__(self, n: int, momentum=0.99, eps=1e-3, r_max=3.0, d_max=5.0, warmup=100_000):
        super().__init__()
        self.momentum, self.eps, self.r_max, self.d_max, self.warmup = momentum, eps, r_max, d_max, warmup
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # a tensor: a Python int would recompile
        self.batch_mean = self.batch_var = torch.zeros(n)

    @torch.no_grad()
    def track(self):
        """Move the running statistics towards those of the last training batch."""
        self.running_mean.lerp_(self.batch_mean, 1 - self.momentum)
        self.running_var.lerp_(self.batch_var, 1 - self.momentum)
        self.steps += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        fuse = torch.compiler.is_compiling()  # op by op var_mean takes 30 times as long as PyTorch's own statistics
        if fuse:
            var, mean = torch.var_mean(x, dim=0, correction=0)
        else:
            mean, var = torch.batch_norm_update_stats(x, None, None, 0)
        std = (var + self.eps).sqrt()
        with torch.no_grad():  # r and d are constants to the gradient
            warm, running_std = self.steps >= self.warmup, (self.running_var + self.eps).sqrt()
            r = torch.where(warm, (std / running_std).clamp(1 / self.r_max, self.r_max), 1.0)
            d = torch.where(warm, ((mean - self.running_mean) / running_std).clamp(-self.d_max, self.d_max), 0.0)
        self.batch_mean, self.batch_var = mean.detach(), var.detach()
        if fuse:
            return ((x - mean) * (r / std) + d) * self.weight + self.bias
        weight, bias = self.weight * r, self.weight * d + self.bias
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0, self.eps)[0]  # F's refuses a batch of one


class Critic(nn.Module):
    """Two Q-functions: obs (B, n), action (B, d) -> (2, B), in units of return."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: int, crossq: bool):
        super().__init__()
        widths = (obs_dim + action_dim, hidden, hidden, 1)
        # Two separate heads: on a CPU as fast as batched products, and easier to read.
        self.layers = nn.ModuleList(nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:])) for _ in range(2))
        self.norms = nn.ModuleList(nn.ModuleList(map(BatchRenorm, widths[:-1])) for _ in range(2)) if crossq else None

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        q = []
        for head, layers in enumerate(self.layers):
            x = torch.cat([obs, action], dim=1)
            for i, layer in enumerate(layers):
                x = relu(x) if i else x
                x = self.norms[head][i](x) if self.norms is not None else x
                # One output is a weighted sum: as a matrix product its gradient is slow on a CPU.
                last = i == len(layers) - 1
                x = (x * layer.weight).sum(1) + layer.bias if last else layer(x).to(x.dtype)
            q.append(x)
        return torch.stack(q)


# sync: bounded
def bounded(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Any real number, smoothly into [low, high]: for log sigma."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # densities need more than bfloat16's eight bits
    return low + 0.5 * (high - low) * (torch.tanh(x) + 1)


# sync: velocity-g
class Velocity(nn.Module):
    """GRU-gated velocity (6): v = g * (c - A). The noise head sees s alone, so log sigma is the same at every step.

    The gate starts at sigmoid(5) = .993 (the authors' code): a step is then close to A + (c - A) dt, a contraction.
    """

    def __init__(self, obs_dim: int, action_dim: int, args):
        super().__init__()
        hidden, time_dim, self.bounded_candidate = args.hidden_dim, 32, args.bounded_candidate
        self.limits = args.log_std_min, args.log_std_max
        self.register_buffer("frequency", torch.exp(-math.log(1e4) / 15 * torch.arange(16)))
        self.time = nn.Sequential(nn.Linear(time_dim, 64), nn.SiLU(), nn.Linear(64, time_dim))
        # First layers of gate and candidate in one, stored by input: W [s; A; t] = W_s s + W_A A + W_t t.
        fan_in = (obs_dim, action_dim, time_dim)
        parts = [nn.Linear(n, 2 * hidden, bias=i == 0) for i, n in enumerate(fan_in)]
        for part in parts:  # initialised as the one layer they are
            nn.init.uniform_(part.weight, -(sum(fan_in) ** -0.5), sum(fan_in) ** -0.5)
        self.from_obs, from_x, self.from_time = parts
        self.from_x = nn.Parameter(from_x.weight.detach().t().contiguous())  # (d, n): its gradient is faster this way
        self.deeper = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(args.candidate_layers - 1))
        self.gate, self.candidate = nn.Linear(hidden, action_dim), nn.Linear(hidden, action_dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 5.0)
        widths = ((obs_dim, hidden), (hidden, hidden), (hidden, action_dim))
        first, second, last = (nn.Linear(*width) for width in widths)
        self.noise = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def precompute(self, obs: torch.Tensor, t: torch.Tensor) -> tuple:
        """All that does not depend on A, for the times t (K, B or 1, 1) at once: the rollout's loop is only `step`."""
        angle = t * self.frequency
        time = self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return self.from_obs(obs), self.from_time(time), bounded(self.noise(obs), *self.limits)

    def step(self, context: tuple, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """v and log sigma (B, d) at A_k = x, for the k-th time given to `precompute`."""
        from_obs, from_time, log_std = context
        gate, candidate = F.silu(torch.addmm(from_obs + from_time[k], x, self.from_x)).chunk(2, dim=-1)
        for layer in self.deeper:
            candidate = F.silu(layer(candidate))
        candidate = self.candidate(candidate)
        candidate = torch.tanh(candidate) if self.bounded_candidate else candidate
        return torch.sigmoid(self.gate(gate)) * (candidate - x), log_std

    def forward(self, obs: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (B, n), x = A_t (B, d), t (B or 1, 1) in [0, 1] -> v (B, d), log sigma (B, d)."""
        return self.step(self.precompute(obs, t[None]), x, 0)


# sync: actor
class Actor(nn.Module):
    """Flow policy: noise-augmented K-step rollout (13) of `Velocity`, squashed into the action box."""

    def __init__(self, obs_dim: int, box: gym.spaces.Box, args):
        super().__init__()
        self.action_dim, self.K, self.drift_correction = box.shape[0], args.sampling_steps, args.drift_correction
        self.noise_factors = self.K + 1  # independent Gaussian factors of the path density: A_0 and one per step
        self.norm = BatchRenorm(obs_dim) if args.normalize_obs else nn.Identity()
        self.velocity = Velocity(obs_dim, self.action_dim, args)
        self.register_buffer("t", torch.arange(self.K).view(-1, 1, 1) / self.K)
        self.register_buffer("scale", torch.as_tensor((box.high - box.low) / 2, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor((box.high + box.low) / 2, dtype=torch.float32))

    # sync: rollout
    def rollout(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> tuple[list, list]:
        """obs (B, n), noise (K + 1, B, d) ~ N(0, I) -> [A_0, .., A_K], [log sigma_0, .., log sigma_{K-1}], each (B, d).

        deterministic: sigma = 0, the Euler integration of v from A_0 = noise[0].
        """
        dt, context = 1 / self.K, self.velocity.precompute(self.norm(obs), self.t)
        path, log_stds = [noise[0]], []
        for k in range(self.K):
            t, x = k * dt, path[-1]
            v, log_std = (out.to(x.dtype) for out in self.velocity.step(context, x, k))
            if deterministic:
                path.append(x + v * dt)
                continue
            if self.drift_correction:  # (14), in the form that is regular at t = 0
                var = torch.exp(2 * log_std)
                v = ((1 - t + t * var / 2) * v - var / 2 * x) / (1 - t)
            path.append(x + v * dt + torch.exp(log_std) * math.sqrt(dt) * noise[k + 1])
            log_stds.append(log_std)
        return path, log_stds

    # sync: path-density
    def log_prob(self, path: list, log_stds: list, noise: torch.Tensor) -> torch.Tensor:
        """Log-density (B,) of the path and its action. The A_k were drawn from the noise, so no residual is recomputed;
        every factor keeps its -log(sigma sqrt(dt)), the term by which entropy asks for more noise."""
        gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(dim=(0, 2))
        step_scale = sum(log_stds).sum(-1) - 0.5 * self.K * self.action_dim * math.log(self.K)
        return gaussian - step_scale - self.log_det(path[-1])

    # sync: squash
    def log_det(self, x: torch.Tensor) -> torch.Tensor:
        """log |da/dA_K| (B,) in the form that stays finite; scale is inside: entropy is in environment action units."""
        return (self.scale.log() + 2 * (math.log(2) - x - F.softplus(-2 * x))).sum(-1)

    def squash(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.tanh(x) + self.bias

    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise for `batch` actions: drawn outside the compiled functions, so that they are pure."""
        return torch.randn(self.noise_factors, batch, self.action_dim, generator=generator, device=generator.device)

    def forward(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions (B, d) in environment units and their log-density (B,)."""
        path, log_stds = self.rollout(obs, noise)
        return self.squash(path[-1]), self.log_prob(path, log_stds, noise)

    def act(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Actions (B, d) alone, in environment units."""
        return self.squash(self.rollout(obs, noise, deterministic)[0][-1])


# sync: replay-buffer
class ReplayBuffer:
    """Ring of transitions, one row each, on one device. Only termination is an end: a time limit bootstraps."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: torch.device):
        self.widths = {"obs": obs_dim, "action": action_dim, "reward": 1, "next_obs": obs_dim, "terminated": 1}
        needed = 4 * capacity * sum(self.widths.values())
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
        print(f"replay buffer: {capacity} transitions, {needed / 2**30:.2f} GiB of {free / 2**30:.1f} GiB free")
        most = int(0.8 * free / needed * capacity)
        require(needed <= free, f"--buffer-size {capacity}: more than the free memory; {most} would fit")
        self.rows, self.count = torch.empty(capacity, sum(self.widths.values()), device=device), 0
        self.stored = torch.zeros((), device=device)  # a tensor, because a captured graph samples too

    def add(self, **transition) -> bool:
        """Store one transition, given by name as NumPy arrays and numbers; False if it is not finite in float32."""
        row = np.concatenate([np.atleast_1d(transition[name]) for name in self.widths], dtype=np.float32)
        self.rows[self.count % len(self.rows)] = torch.from_numpy(row)
        self.count += 1
        self.stored.fill_(min(self.count, len(self.rows)))
        return np.isfinite(row).all()

    def read(self, start: int) -> np.ndarray:
        """Rows of the transitions number start, .., count - 1, of which the ring must hold all."""
        size, first = len(self.rows), start % len(self.rows)  # by slices: indexing would copy on a full device
        parts = self.rows[first : first + self.count - start], self.rows[: max(first + self.count - start - size, 0)]
        return torch.cat([part.cpu() for part in parts]).numpy()

    def write(self, end: int, rows: np.ndarray):
        """Put back what `read` returned when `count` was end."""
        index = torch.arange(end - len(rows), end) % len(self.rows)
        self.rows[index] = torch.from_numpy(rows).to(self.rows.device)
        self.count = end
        self.stored.fill_(min(self.count, len(self.rows)))

    def sample(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Uniform draw with replacement: name -> (B, n), for rewards and ends (B,)."""
        index = (torch.rand(batch, generator=generator, device=generator.device) * self.stored).long()
        batch = dict(zip(self.widths, self.rows[index].split(list(self.widths.values()), dim=1), strict=True))
        return batch | {name: batch[name].squeeze(1) for name in ("reward", "terminated")}


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


# sync: flatten
def flatten(module: nn.Module) -> nn.Parameter:
    """One tensor of all parameters, which become views of it: an optimizer then makes one call where it would make
    four for every parameter."""
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    pieces = flat.detach().split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.data = piece.view_as(parameter)
    return flat


# sync: losses
def critic_loss(critic, target_critic, actor, batch, noise, alpha, gamma):
    """Soft Bellman error, and the mean Q. The actor is a frozen view; without a target critic the loss is CrossQ's."""
    # Target.
    next_action, next_log_prob = actor(batch["next_obs"], noise)
    if target_critic is None:  # one joint pass, so that the batch's statistics cover both distributions
        obs = torch.cat([batch["obs"], batch["next_obs"]])
        q, next_q = critic(obs, torch.cat([batch["action"], next_action])).chunk(2, dim=1)
    else:
        q, next_q = critic(batch["obs"], batch["action"]), target_critic(batch["next_obs"], next_action)
    next_value = next_q.amin(0) - alpha * next_log_prob
    target = (batch["reward"] + gamma * (1 - batch["terminated"]) * next_value).detach()
    # Critic.
    return 0.5 * (q - target).square().mean(1).sum(), q.detach().mean()


def actor_loss(actor, critic, obs, noise, alpha):
    """Mean of alpha * log p - min Q, and the mean log p. Q sees the action, the gradient runs through every step."""
    action, log_prob = actor(obs, noise)
    return (alpha * log_prob - critic(obs, action).amin(0)).mean(), log_prob.detach().mean()


def path_statistics(actor, critic, obs, noise, alpha) -> dict[str, torch.Tensor]:
    """Mean sigma of each step, and the batch mean of || d loss_b / d A_k || where loss_b is one sample's actor loss
    without A_0's own density, and the later noise is held: the gradient norms of the paper's Figure 6. Takes frozen
    views."""
    path, log_stds = actor.rollout(obs, noise.clone().requires_grad_())
    loss = alpha * actor.log_prob(path, log_stds, noise) - critic(obs, actor.squash(path[-1])).amin(0)
    gradients = torch.autograd.grad(loss.sum(), path)
    stds = torch.stack(log_stds).detach().exp().mean((1, 2))
    tags = {"policy/std": stds.mean()} | {f"policy/std_step_{k}": std for k, std in enumerate(stds) if len(stds) > 1}
    return tags | {f"gradients/step_{k}": gradient.norm(dim=1).mean() for k, gradient in enumerate(gradients)}


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


# sync: evaluate
@blas_products()
def evaluate(actor, envs: list[gym.Env], seed: int, device: torch.device) -> np.ndarray:
    """Undiscounted returns (n,) of one deterministic episode per environment. Same seed: same start states and A_0."""
    generator, box = torch.Generator(device).manual_seed(seed), envs[0].action_space
    returns, running = np.zeros(len(envs)), np.ones(len(envs), dtype=bool)
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    while running.any():
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)
        actions = actor.act(obs_tensor, actor.draw_noise(len(envs), generator), deterministic=True)
        actions = actions.cpu().numpy().clip(box.low, box.high)
        for i in np.flatnonzero(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += reward
            running[i] = not (terminated or truncated)
    return returns


# sync: checkpoint
def capture_env(env: gym.Env) -> dict:
    """What an environment needs to go on in the middle of an episode. MuJoCo's: the integration state, and the derived
    arrays too, because rewards read positions that lag behind it by a substep."""
    core, limited = env.unwrapped, env.has_wrapper_attr("_elapsed_steps")
    state = {"rng": core.np_random.bit_generator.state, "elapsed": limited and env.get_wrapper_attr("_elapsed_steps")}
    if isinstance(getattr(core, "data", None), mujoco.MjData):
        physics = np.empty(mujoco.mj_stateSize(core.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(core.model, core.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        derived = inspect.getmembers(core.data, lambda x: isinstance(x, np.ndarray) and x.dtype != object)
        state["physics"] = torch.from_numpy(physics)
        state["derived"] = {name: torch.from_numpy(array.copy()) for name, array in derived}
    return state


def restore_env(env: gym.Env, state: dict) -> bool:
    """Inverse of `capture_env`, for an environment just reset; False where the episode has to start again."""
    core = env.unwrapped
    core.np_random.bit_generator.state = state["rng"]
    if "physics" in state:
        mujoco.mj_setState(core.model, core.data, state["physics"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
        for name, array in state["derived"].items():
            own = getattr(core.data, name)
            if own.shape == tuple(array.shape):  # those of constraints vary in size, and the next step makes them anew
                own[...] = array.numpy()
        if env.has_wrapper_attr("_elapsed_steps"):
            env.set_wrapper_attr("_elapsed_steps", state["elapsed"])
    return "physics" in state


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


# sync: main
def main(args: Args) -> str:
    """Train, or go on with a run, or only evaluate it; returns the run's folder."""
    device = check(args)
    checkpoint = load_checkpoint(args.resume) if args.resume else {"step": 0, "segments": []}
    was = checkpoint.get("device", device.type)
    same = was == device.type or args.eval_only
    require(same, f"--device {device.type}: the checkpoint is of a run on {was}; resume it there")
    require(checkpoint["step"] < args.total_timesteps or args.eval_only, "--resume: finished; raise --total-timesteps")
    env = make_env(args, "" if args.capture_video else None)
    obs_dim, box = env.observation_space.shape[0], env.action_space
    if not args.eval_only:
        buffer = ReplayBuffer(args.buffer_size, obs_dim, box.shape[0], device)

    # Networks and optimizers.
    # "medium" sends float32 products to oneDNN on a CPU: twice as fast with AVX-512, no faster with AVX2, and bfloat16
    # only where the CPU has AMX. "high" is TF32 on CUDA.
    torch.set_float32_matmul_precision("medium" if device.type == "cpu" else "high")
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    actor = Actor(obs_dim, box, args).to(device)
    critic = Critic(obs_dim, box.shape[0], args.critic_hidden_dim, args.crossq).to(device)
    target_critic = None if args.crossq else copy.deepcopy(critic).requires_grad_(False)
    temperature = nn.ParameterDict({"log_alpha": torch.tensor(args.alpha, device=device).log()})
    flat_actor, flat_critic, flat_temperature = flatten(actor), flatten(critic), flatten(temperature)
    actor_view, critic_view, log_alpha = frozen_view(actor), frozen_view(critic), temperature["log_alpha"]
    target_entropy = -box.shape[0] if args.target_entropy is None else args.target_entropy
    cuda_graph = args.cuda_graph and device.type == "cuda"
    adam = {"betas": (args.adam_beta1, 0.999), "fused": True, "capturable": cuda_graph}
    actor_optimizer = torch.optim.Adam([flat_actor], lr=args.policy_lr, **adam)
    critic_optimizer = torch.optim.Adam([flat_critic], lr=args.q_lr, **adam)
    alpha_optimizer = torch.optim.Adam([flat_temperature], lr=args.alpha_lr, **adam)
    functions = critic_loss, actor_loss, actor_view.act
    if args.compile and has_compiler(device):
        # Checking at every call that no module has changed costs some per cent at small size. None does here; a fork
        # that switches train() and eval(), or compiles one method of two modules, must drop this or run stale code.
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        functions = (torch.compile(function, dynamic=False, options=options) for function in functions)
    elif args.compile:
        print("no compiler or no Python.h found: running without torch.compile, slower")
    critic_loss_fn, actor_loss_fn, act_fn = functions
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)

    @hold_signals()
    def act(obs: np.ndarray) -> np.ndarray:
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)[None]
        with blas_products():
            action = act_fn(obs_tensor, actor.draw_noise(1, generator))[0]
        return action.cpu().numpy().clip(box.low, box.high)  # rounding may pass a bound by one unit

    def descend(optimizer: torch.optim.Optimizer, flat: nn.Parameter, loss: torch.Tensor, module: nn.Module):
        """One step on the module's loss, by way of its flat parameters; then its running statistics follow."""
        gradients = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
        flat.grad = torch.cat([gradient.flatten() for gradient in gradients])
        optimizer.step()
        for norm in module.modules():
            if isinstance(norm, BatchRenorm):
                norm.track()

    @hold_signals()
    def update(with_actor: bool) -> dict[str, torch.Tensor]:
        """Update the critic and, with_actor, actor and temperature; returns tag -> value to log, on the device."""
        batch, noise = buffer.sample(args.batch_size, generator), actor.draw_noise(args.batch_size, generator)
        alpha = log_alpha.detach().exp()
        # Critic.
        with autocast:
            loss, q = critic_loss_fn(critic, target_critic, actor_view, batch, noise, alpha, args.gamma)
        descend(critic_optimizer, flat_critic, loss, critic)
        if target_critic is not None:
            with torch.no_grad():  # or the targets would drag along the graph of all their updates
                torch._foreach_lerp_(list(target_critic.parameters()), list(critic.parameters()), args.tau)
        metrics = {"losses/qf_loss": loss.detach(), "losses/qf_values": q, "losses/alpha": alpha}
        if with_actor:
            # Actor.
            noise = actor.draw_noise(args.batch_size, generator)
            with autocast:
                loss, log_prob = actor_loss_fn(actor, critic_view, batch["obs"], noise, alpha)
            descend(actor_optimizer, flat_actor, loss, actor)
            metrics |= {"losses/actor_loss": loss.detach(), "policy/log_prob": log_prob}
        if with_actor and args.autotune:
            # Temperature: an entropy -log_prob below its target raises alpha.
            loss = log_alpha.exp() * (-log_prob - target_entropy)
            descend(alpha_optimizer, flat_temperature, loss, temperature)
            metrics["losses/alpha_loss"] = loss.detach()
        return metrics

    graphs, warm_ups = {}, {True: 0, False: 0}

    def replay(with_actor: bool) -> dict[str, torch.Tensor]:
        """`update` as a CUDA graph, captured after ten plain calls of its kind, which compile and allocate."""
        if warm_ups[with_actor] < 10:
            warm_ups[with_actor] += 1
            return update(with_actor)
        if with_actor not in graphs:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                graphs[with_actor] = graph, update(with_actor)
        graph, metrics = graphs[with_actor]
        graph.replay()
        return metrics

    # A checkpoint is these parts, the generators, the environment, the counters and the replay buffer.
    parts = {"actor": actor, "critic": critic, "temperature": temperature}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    parts |= {"alpha_optimizer": alpha_optimizer} | ({} if target_critic is None else {"target_critic": target_critic})
    try:
        for name in parts if args.resume else ():
            parts[name].load_state_dict(checkpoint[name])
    except Exception as error:
        reason = str(error).splitlines()[0]
        require(False, f"--resume {args.resume}: of another version of the script or of {args.env_id} ({reason})")
    segments = checkpoint["segments"]
    for name, end, digest in () if args.eval_only else segments:
        rows = read_file(args.resume, name, digest).view(np.float32)
        buffer.write(end, rows.reshape(-1, buffer.rows.shape[1]))

    # The run's folder: bad input has ended the program by now.
    path, writer = (args.resume, None) if args.eval_only else start_run(args, device, checkpoint["step"])
    video_dirs = [None] * args.eval_episodes * (args.eval_frequency > 0 or args.eval_only)
    if args.capture_video and video_dirs:
        video_dirs[0] = os.path.join(path, "videos", str(int(time.time())))  # a resumed run keeps its earlier ones
    eval_envs = [make_env(args, video_dir) for video_dir in video_dirs]
    if args.eval_only:
        returns = evaluate(actor_view, eval_envs, 10_000 + args.seed, device)
        print(f"step {checkpoint['step']}  eval return {returns.mean():.1f} +- {returns.std():.1f}")
        for finished in (env, *eval_envs):  # this writes the video
            finished.close()
        return path
    obs, _ = env.reset(seed=args.seed)
    box.seed(args.seed)
    episode_return, episode_length, last_return, metrics = 0.0, 0, math.nan, {}
    if args.resume:
        generator.set_state(checkpoint["generator"])
        box.np_random.bit_generator.state = checkpoint["box"]
        episode_return, episode_length, last_return, metrics = checkpoint["counters"]
        if restore_env(env, checkpoint["env"]):
            obs = checkpoint["obs"].numpy()
        else:
            say(f"the state of {args.env_id} cannot be restored: its episode starts again")
            obs, episode_return, episode_length = env.reset()[0], 0.0, 0

    def require_finite(**named):
        """End the run before what is not finite reaches the replay buffer or a checkpoint."""
        named = metrics | {"losses/qf_loss": loss_sum} | named
        bad = [k for k, value in named.items() if not torch.as_tensor(value, dtype=torch.float32).isfinite().all()]
        if bad:
            fail(f"{', '.join(bad)}: not finite")

    def fail(problem: str):
        writer.close()
        last = f"the last checkpoint, of step {segments[-1][1]}, is in {path}" if segments else "no checkpoint yet"
        print(f"error: step {step}: {problem}; {last}", file=sys.stderr)
        raise SystemExit(1)

    @contextmanager
    def guard(what: str):
        try:
            yield
        except Exception as error:  # whatever an environment's author raises
            fail(f"{what} raised {error!r}")

    loss_sum = torch.zeros((), device=device)  # of the critics: not finite from the first such loss on
    burn_in = max(buffer.count, args.learning_starts)  # steps/s of a window that begins later has no compilation in it
    window_start, window_step, steps_per_second = time.perf_counter(), buffer.count, math.nan
    progress = tqdm(total=args.total_timesteps, initial=buffer.count, unit="step", disable=not sys.stderr.isatty())
    for step in range(buffer.count + 1, args.total_timesteps + 1):
        # Act: uniformly at first, as the literature does.
        action = box.sample() if step <= args.learning_starts else act(obs)
        if step > args.learning_starts:  # before the environment, so that a GPU works while the environment steps
            with_actor = (step - args.learning_starts) % args.policy_frequency == 0
            metrics |= replay(with_actor) if cuda_graph else update(with_actor)
            loss_sum += metrics["losses/qf_loss"]
        if not np.isfinite(action).all():
            require_finite(obs=obs, action=action)
        with guard("the environment"):
            next_obs, reward, terminated, truncated, _ = env.step(action)
        transition = {"obs": obs, "action": action, "reward": reward, "next_obs": next_obs, "terminated": terminated}
        if not buffer.add(**transition):
            require_finite(**transition)
        obs, episode_return, episode_length = next_obs, episode_return + float(reward), episode_length + 1
        if terminated or truncated:
            writer.add_scalar("charts/episodic_return", episode_return, step)
            writer.add_scalar("charts/episodic_length", episode_length, step)
            with guard("the environment"):
                obs, _ = env.reset()
            last_return, episode_return, episode_length = episode_return, 0.0, 0

        # Log and evaluate: the only place that reads from the device, besides acting.
        progress.update()
        last = step == args.total_timesteps
        if step % args.log_frequency == 0 or last:
            now, warm = time.perf_counter(), window_step > burn_in
            steps_per_second = (step - window_step) / (now - window_start)
            window_start, window_step = now, step
            if metrics:
                own = torch.Generator(device).manual_seed(step)  # logging must not move the training's random numbers
                batch, noise = buffer.sample(args.batch_size, own), actor.draw_noise(args.batch_size, own)
                metrics |= path_statistics(actor_view, critic_view, batch["obs"], noise, log_alpha.detach().exp())
            require_finite()
            for tag, value in metrics.items():
                writer.add_scalar(tag, value.item(), step)
            if warm or last:
                writer.add_scalar("charts/SPS", steps_per_second, step)
            progress.set_postfix(episodic_return=f"{last_return:.1f}", refresh=False)
        if eval_envs and (step % args.eval_frequency == 0 or last):
            start = time.perf_counter()
            with guard("the evaluation"):
                returns = evaluate(actor_view, eval_envs, 10_000 + args.seed, device)
            writer.add_scalar("eval/episodic_return", returns.mean(), step)
            writer.add_scalar("eval/episodic_return_std", returns.std(), step)
            scores = f"eval return {returns.mean():.1f} +- {returns.std():.1f}  train return {last_return:.1f}"
            rate = "" if math.isnan(steps_per_second) else f"{steps_per_second:.0f} steps/s"
            say(f"step {step}/{args.total_timesteps}  {scores}  {rate}")
            window_start += time.perf_counter() - start  # steps/s is of training alone

        # The model, then a checkpoint: that of the last step says that all is done.
        if args.save_model and last:
            state = {"actor": actor.state_dict(), "critic": critic.state_dict(), "log_alpha": log_alpha.detach()}
            with guard("writing model.pt"):
                torch.save(state | {"args": asdict(args)}, os.path.join(path, "model.pt"))
        due = args.checkpoint_frequency and (step % args.checkpoint_frequency == 0 or last)
        if due or STOP:
            require_finite()
            writer.flush()
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step, "args": asdict(args)}
            state["device"] = device.type
            state |= {"generator": generator.get_state(), "box": box.np_random.bit_generator.state}
            state |= {"env": capture_env(env), "obs": torch.as_tensor(obs)}
            state["counters"] = (episode_return, episode_length, last_return, metrics)
            segments = save_checkpoint(path, state, buffer, segments)
        if STOP:
            break
    progress.close()
    writer.close()
    for finished in (env, *eval_envs):
        finished.close()
    if STOP and step < args.total_timesteps:
        say(f"interrupted; go on with: python {sys.argv[0]} --resume {path}" if segments else "interrupted")
        raise SystemExit(128 + STOP[0])
    return path


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    main(read_args())
