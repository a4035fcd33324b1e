"""DIME: maximum-entropy RL with a diffusion policy, a baseline of the SAC flows.

Celik et al., "DIME: Diffusion-Based Maximum Entropy Reinforcement Learning", arXiv 2502.02316, with the constants of
the authors' released code; critic width, batch and random start as in sac_flow_g.py. The policy is a controlled
Langevin chain of N steps, and its entropy's lower bound takes the entropy's place in soft actor-critic.

    python baselines/dime.py --env-id HalfCheetah-v4
    python baselines/dime.py --env-id Hopper-v4 --critic-hidden-dim 256 --batch-size 256 --learning-starts 5000
    python baselines/dime.py --published --critic-hidden-dim 2048 --batch-size 256 --learning-starts 5000    # its code

The critic's atoms span +-200 in that code, which rewards of at most 1 never leave. MuJoCo's values pass it by far, and
a value beyond the last atom cannot be told from it: PRESETS has wider atoms or smaller rewards per task.
"""

# Symbols: s observation, u action in [-1, 1] (B, d), a = scale * u + bias, x_n state of the chain (B, d), u =
# tanh(x_N), f control, eta step size (d,), alpha temperature in reward per nat. Log-densities are in nats of u.

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


# sync: baseline-args
@dataclass
class Args:
    env_id: str = "Humanoid-v4"  # Gymnasium task with flat Box observations and a bounded Box action space
    seed: int = 1  # seed of the networks, the noise, the sampling and the environment
    total_timesteps: int = 1_000_000  # environment steps
    gamma: float = 0.99  # discount per environment step
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # compile losses and acting with torch.compile; on a CPU this needs a C++ compiler
    bf16: bool = False  # bfloat16 autocast in the losses, network outputs included; weights and Adam stay in float32
    eval_frequency: int = 10_000  # environment steps between evaluations, with one at the end; 0 for none
    eval_episodes: int = 10  # episodes per evaluation
    log_frequency: int = 1000  # environment steps between writes of losses and policy statistics
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
    # sync: off-policy-args
    learning_starts: int = 50_000  # environment steps with uniformly random actions before the first update
    buffer_size: int = 1_000_000  # replay capacity in transitions
    published: bool = False  # where a flag is left to the task's preset, take the released code's value instead
    # sync: end
    # Variant.
    batch_size: int = 512  # transitions per critic update
    policy_lr: float = 3e-4  # Adam step size of the actor
    q_lr: float = 3e-4  # Adam step size of the critics
    alpha_lr: float = 1e-3  # Adam step size of log alpha, with first-moment decay 0.9
    adam_beta1: float = 0.5  # Adam's first-moment decay of actor and critics
    updates_per_step: int = 2  # critic updates per environment step
    policy_frequency: int = 3  # critic updates per actor and temperature update
    critic_hidden_dim: int = 1024  # width of the critics' two hidden layers (the authors' code: 2048)
    hidden_dim: int = 256  # width of the control network's three hidden layers and of its time embedding
    sampling_steps: int = 16  # N, steps of the chain
    alpha: float = 1.0  # initial (with --no-autotune constant) temperature, scaled reward per nat
    autotune: bool = True  # adapt alpha so that the entropy meets --target-entropy
    target_entropy: float | None = None  # target of the bound without the prior's term, nats of u; None is -4 d
    distributional: bool = True  # categorical critics, or the scalar ones that the paper's (29) prints
    atoms: int = 101  # M, atoms of a categorical critic
    v_max: float | None = None  # atoms evenly on [-v_max, v_max], scaled return; None is the task's preset, else 200
    atom_entropy_coef: float = 0.005  # weight of the entropy of the atoms' probabilities in the critic loss
    noise_free_evaluation: bool = False  # evaluate the chain without its noise; the authors' evaluation keeps it
    reward_scale: float | None = None  # factor on the rewards in the losses; None is the task's preset, else 1

    # sync: presets
    def __post_init__(self):
        """Flags left at None take the task's value, or the published one where the task has none."""
        values = PUBLISHED if self.published else PRESETS.get(self.env_id.split("-v")[0], PUBLISHED)
        for name in values:
            if getattr(self, name) is None:
                setattr(self, name, values[name])


# sync: end
# Either a scale takes a trained agent's reward per step to about 1, as in the authors' tasks, and its return-to-go to
# about 100, half of where the atoms end, or the rewards stay and the atoms end at about 1.5 times the largest
# return-to-go. The initial temperature weighs less in the second. On HalfCheetah it learned faster and ended higher
# (two seeds), on Hopper and Walker2d it did not (one seed, 30 000 steps). The other tasks' values are not searched.
PUBLISHED = {"reward_scale": 1.0, "v_max": 200.0}
PRESETS = {
    "InvertedPendulum": {"reward_scale": 1.0, "v_max": 200.0},
    "Hopper": {"reward_scale": 0.3, "v_max": 200.0},
    "Walker2d": {"reward_scale": 0.2, "v_max": 200.0},
    "HalfCheetah": {"reward_scale": 1.0, "v_max": 1500.0},
    "Ant": {"reward_scale": 0.15, "v_max": 200.0},
    "Humanoid": {"reward_scale": 0.1, "v_max": 200.0},
    "HumanoidStandup": {"reward_scale": 0.003, "v_max": 200.0},
}
LIMITS = dict.fromkeys(("learning_starts", "policy_lr", "q_lr", "alpha_lr", "eval_frequency"), (0, math.inf))
LIMITS |= dict.fromkeys(("checkpoint_frequency", "atom_entropy_coef"), (0, math.inf))
LIMITS |= {"seed": (0, 2**62), "gamma": (0, 1), "adam_beta1": (0, 0.999), "atoms": (2, math.inf)}
LIMITS |= dict.fromkeys(("alpha", "v_max", "reward_scale"), (1e-9, math.inf))


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


# sync: baseline-check
def has_bf16() -> bool:
    """Whether this processor has instructions for bfloat16: without them a step takes several times as long."""
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def check(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy; returns the device."""
    for field in fields(args):
        low, high = LIMITS.get(field.name, (1 if field.type is int else -math.inf, math.inf))
        value, flag = getattr(args, field.name), "--" + field.name.replace("_", "-")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fine = not number or (low <= value <= high and abs(value) < math.inf)
        require(fine, f"{flag} {value}: choose a number from {low} to {high}")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    device = ("cuda" if "cuda" in devices else "cpu") if args.device == "auto" else args.device
    for flag, fine, remedy in (
        *conflicts(args),
        ("device", device in devices, f"not available here; choose auto, {', '.join(devices)}"),
        ("eval_only", not args.eval_only or args.resume, "name the run's folder with --resume"),
        ("track", not args.track or args.eval_only or importlib.util.find_spec("wandb"), "pip install wandb first"),
        ("capture_video", not args.capture_video or importlib.util.find_spec("moviepy"), "pip install moviepy first"),
    ):
        require(fine, f"--{flag.replace('_', '-')} {getattr(args, flag)}: {remedy}")
    if args.bf16 and device == "cpu" and not has_bf16():
        print("--bf16: this processor has no bfloat16 instructions and will be slower with it, not faster", flush=True)
    return torch.device(device)


# sync: off-policy-check
def conflicts(args: Args) -> tuple:
    """(flag, whether it goes with the others, remedy) of the flags that limit each other."""
    stored = min(args.learning_starts, args.buffer_size)
    return (
        ("learning_starts", args.learning_starts < args.total_timesteps, "must be below --total-timesteps"),
        ("batch_size", args.batch_size <= stored, f"the first update has {stored} steps; raise --learning-starts"),
    )


# sync: critic/batch-renorm
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


# sync: end
def lecun_normal(weight: torch.Tensor, fan_in: int):
    """Flax's default: a normal distribution of variance 1 / fan_in that is cut off at two deviations."""
    std = fan_in**-0.5 / 0.87962566
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def initialised(module: nn.Module) -> nn.Module:
    """`lecun_normal` weights and zero biases in every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            lecun_normal(layer.weight, layer.in_features)
            nn.init.zeros_(layer.bias)
    return module


class Critic(nn.Module):
    """Two Q-functions: obs (B, n), u (B, d) -> logits (2, B, M) of the atoms; with one output the value itself.

    BatchRenorm on the input and after each ReLU (CrossQ): the batch then needs no target network.
    """

    def __init__(self, obs_dim: int, action_dim: int, args: Args):
        super().__init__()
        atoms, hidden = (args.atoms if args.distributional else 1), args.critic_hidden_dim
        widths = (obs_dim + action_dim, hidden, hidden, atoms)
        self.layers = nn.ModuleList(nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:])) for _ in range(2))
        initialised(self.layers)
        self.norms = nn.ModuleList(nn.ModuleList(map(BatchRenorm, widths[:-1])) for _ in range(2))
        self.register_buffer("atoms", torch.linspace(-args.v_max, args.v_max, atoms))

    def forward(self, obs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        heads = []
        for layers, norms in zip(self.layers, self.norms, strict=True):
            x = torch.cat([obs, u], dim=1)
            for i, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
                x = 0.5 * (x + x.abs()) if i else x  # ReLU as in sac_flow_g.py, whose gradient vectorises
                x = layer(norm(x)).float()  # the statistics need more than bfloat16's eight bits
            heads.append(x)
        return torch.stack(heads)

    def value(self, logits: torch.Tensor) -> torch.Tensor:
        """Expected return (2, B)."""
        return logits.squeeze(-1) if logits.shape[-1] == 1 else logits.softmax(-1) @ self.atoms


class GELU(nn.Module):
    """GELU in the tanh approximation, by a sigmoid: compiled faster than torch's on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


class Actor(nn.Module):
    """Langevin chain from the fixed prior N(0, PRIOR_STD^2 I), controlled by a network, and its entropy's bound."""

    PRIOR_STD = 2.5

    def __init__(self, obs_dim: int, box: gym.spaces.Box, args: Args):
        super().__init__()
        self.action_dim, self.N, hidden = box.shape[0], args.sampling_steps, args.hidden_dim
        self.noise_factors = self.N + 1  # x_0 and one per step
        self.noise_free_evaluation = args.noise_free_evaluation
        # Steps: a scalar and one friction per dimension are learned, the cosine schedule takes the large steps first.
        self.step_size = nn.Parameter(torch.tensor(math.log(math.expm1(0.1))))  # softplus(step_size) = 0.1
        self.friction = nn.Parameter(torch.full((self.action_dim,), math.log(math.expm1(1.0))))
        left = (1.008 - (self.N - torch.arange(self.N)) / self.N) / 1.008
        self.register_buffer("schedule", 0.999 * torch.cos(math.pi / 2 * left).square() + 0.001)
        # Control f(x, s, n), with n embedded as the raw step number.
        self.register_buffer("frequency", torch.linspace(0.1, 100, hidden))
        self.phase, gelu = nn.Parameter(torch.zeros(hidden)), GELU()
        self.time = initialised(nn.Sequential(nn.Linear(2 * hidden, hidden), gelu, nn.Linear(hidden, hidden)))
        # First layer by input, W [x; s; t] = W_x x + W_s s + W_t t: only W_x has to be applied at every step.
        fan_in = (obs_dim, self.action_dim, hidden)
        self.from_obs, self.from_x, self.from_time = (nn.Linear(n, hidden, bias=i == 0) for i, n in enumerate(fan_in))
        for part in (self.from_obs, self.from_x, self.from_time):  # initialised as the one layer they are
            lecun_normal(part.weight, sum(fan_in))
        nn.init.zeros_(self.from_obs.bias)
        second, third, last = (nn.Linear(hidden, n) for n in (hidden, hidden, self.action_dim))
        self.net = initialised(nn.Sequential(gelu, second, gelu, third, gelu, last))
        nn.init.constant_(last.weight, 1e-8)  # not 0, which would keep the other layers from learning
        self.register_buffer("scale", torch.as_tensor((box.high - box.low) / 2, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor((box.high + box.low) / 2, dtype=torch.float32))

    def step(self, x, context, eta, noise) -> tuple[torch.Tensor, torch.Tensor]:
        """x_{n+1} = x_n + eta (f - x_n / std^2) + sqrt(2 eta) noise, all (B, d), and the log weight (B,) of the step.

        The weight is log N(x_n; x_{n+1} - eta x_{n+1} / std^2, 2 eta) - log N(x_{n+1}; ..), the uncontrolled chain run
        backwards against the one that acts. Both have the variance 2 eta, so that their normalisations cancel.
        """
        precision = self.PRIOR_STD**-2
        control = self.net(context + self.from_x(x)).to(x.dtype).clamp(-1e4, 1e4)
        new = x + eta * (control - precision * x) + (2 * eta).sqrt() * noise
        back = new - eta * precision * new
        return new, (0.5 * noise.square() - (x - back).square() / (4 * eta)).sum(1)

    def rollout(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (B, n), noise (N + 1, B, d) -> x_N (B, d) and the sum of the steps' log weights (B,)."""
        steps = F.softplus(self.step_size) * self.schedule[:, None] / F.softplus(self.friction)
        angle = torch.arange(self.N, device=obs.device)[:, None] * self.frequency + self.phase
        time = self.from_time(self.time(torch.cat([angle.sin(), angle.cos()], dim=1)))
        from_obs, x, log_weight = self.from_obs(obs), self.PRIOR_STD * noise[0], 0.0
        for n, eta in enumerate(steps):
            x, step_weight = self.step(x, from_obs + time[n], eta, noise[n + 1])
            log_weight = log_weight + step_weight
        return x, log_weight

    def forward(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """u (B, d), the running cost (B,), and ell (B,) = running + terminal cost, the surrogate of log pi(u|s):
        its mean is at least E[log pi], because the rest is the KL divergence of the backward chain to the true one."""
        x, log_weight = self.rollout(obs, noise)
        running = -log_weight - 2 * (math.log(2) - x - F.softplus(-2 * x)).sum(1)
        start = -0.5 * (noise[0].square() + math.log(2 * math.pi * self.PRIOR_STD**2)).sum(1)
        return torch.tanh(x), running, running + start

    def act(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Actions (B, d) alone, in environment units."""
        if deterministic and self.noise_free_evaluation:
            noise = torch.cat([noise[:1], torch.zeros_like(noise[1:])])
        return self.to_env(torch.tanh(self.rollout(obs, noise)[0]))

    # sync: action-box
    def to_env(self, u: torch.Tensor) -> torch.Tensor:
        """Actions from [-1, 1] to environment units."""
        return self.scale * u + self.bias

    def to_unit(self, action: torch.Tensor) -> torch.Tensor:
        """Inverse of `to_env`: the replay buffer holds environment units."""
        return (action - self.bias) / self.scale

    # sync: squash/noise
    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise for `batch` actions: drawn outside the compiled functions, so that they are pure."""
        return torch.randn(self.noise_factors, batch, self.action_dim, generator=generator, device=generator.device)


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


# sync: end
def project(probabilities: torch.Tensor, values: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    """Distribution with mass probabilities (B, M) at values (B, M), moved to the evenly spaced atoms (M,) (C51).

    Mass between two atoms is shared by closeness, mass beyond the ends goes to the end. A value on an atom has
    fraction 0, so that its lower neighbour gets all: no case of its own.
    """
    last = len(atoms) - 1
    place = ((values - atoms[0]) * (last / (atoms[-1] - atoms[0]))).clamp(0, last)
    low = place.floor()
    fraction, low = place - low, low.long()
    out = torch.zeros_like(probabilities).scatter_add(1, low, probabilities * (1 - fraction))
    return out.scatter_add(1, (low + 1).clamp(max=last), probabilities * fraction)


def critic_loss(critic, batch, u, next_u, next_log_prob, alpha, args):
    """Cross-entropy to the projected soft return, and tag -> value to log."""
    # Target.
    obs = torch.cat([batch["obs"], batch["next_obs"]])  # one joint pass: the statistics cover both distributions
    logits, next_logits = critic(obs, torch.cat([u, next_u])).chunk(2, dim=1)
    next_logits, bonus = next_logits.detach(), (-alpha * next_log_prob)[:, None]
    reward, discount = args.reward_scale * batch["reward"][:, None], args.gamma * (1 - batch["terminated"])[:, None]
    metrics = {"losses/qf_values": critic.value(logits.detach()).mean(), "policy/log_prob": next_log_prob.mean()}
    # Critic.
    if not args.distributional:  # the mean of the heads, as the distributions are averaged below
        target = reward + discount * (critic.value(next_logits).mean(0)[:, None] + bonus)
        return 0.5 * (logits - target).square().mean(1).sum(), metrics
    # The heads' targets are averaged. They share their values, so that their probabilities may be, before projecting.
    target = project(next_logits.softmax(-1).mean(0), reward + discount * (critic.atoms + bonus), critic.atoms)
    log_p = logits.log_softmax(-1)
    loss = -(target * log_p).sum(-1).mean(1).sum()
    metrics["losses/end_atoms"] = target[:, 0].mean() + target[:, -1].mean()  # large if v_max is too small
    return loss + args.atom_entropy_coef * (log_p.exp() * log_p).sum(-1).mean(1).sum(), metrics


def mean_value(critic, obs, u):
    """Mean (B,) of both heads' values: the authors' actor uses no minimum."""
    return critic.value(critic(obs, u)).mean(0)


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


# sync: main/open
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
    # sync: end
    critic = Critic(obs_dim, box.shape[0], args).to(device)
    actor_view, critic_view = frozen_view(actor), frozen_view(critic)
    log_alpha = nn.Parameter(torch.tensor(args.alpha, device=device).log())
    target_entropy = -4 * box.shape[0] if args.target_entropy is None else args.target_entropy
    adam = {"betas": (args.adam_beta1, 0.999), "fused": True}
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=args.policy_lr, **adam)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.q_lr, **adam)
    alpha_optimizer = torch.optim.Adam([log_alpha], lr=args.alpha_lr, fused=True)
    parts = {"actor": actor, "critic": critic, "temperature": nn.ParameterList([log_alpha])}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    parts |= {"alpha_optimizer": alpha_optimizer}
    # The chain step by step: as one graph of N steps it would compile for minutes.
    functions = critic_loss, mean_value, actor.step, actor_view.step
    if args.compile and has_compiler(device):
        # With all guards, unlike the other scripts: one method of two modules is compiled.
        # Evaluation and the spread call them too, and compile again for their batches: signals wait there too.
        functions = (hold_signals()(torch.compile(function, dynamic=False)) for function in functions)
    elif args.compile:
        print("no compiler or no Python.h found: running without torch.compile, slower")
    critic_loss_fn, mean_value_fn, actor.step, actor_view.step = functions
    act_fn = actor_view.act
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)

    # sync: main/act
    @hold_signals()
    def act(obs: np.ndarray) -> np.ndarray:
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)[None]
        with blas_products():
            action = act_fn(obs_tensor, actor.draw_noise(1, generator))[0]
        return action.cpu().numpy().clip(box.low, box.high)  # rounding may pass a bound by one unit

    # sync: end
    def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, module: nn.Module | None = None):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for norm in module.modules() if module else ():
            if isinstance(norm, BatchRenorm):
                norm.track()

    def update_once(number: int) -> dict[str, torch.Tensor]:
        """Critic update `number`, from 1, and every --policy-frequency-th time actor and temperature."""
        batch, noise = buffer.sample(args.batch_size, generator), actor.draw_noise(args.batch_size, generator)
        alpha = log_alpha.detach().exp()
        # Critic.
        with autocast:
            u, (next_u, _, next_log_prob) = actor.to_unit(batch["action"]), actor_view(batch["next_obs"], noise)
            loss, metrics = critic_loss_fn(critic, batch, u, next_u, next_log_prob, alpha, args)
        descend(critic_optimizer, loss, critic)
        metrics |= {"losses/qf_loss": loss.detach(), "losses/alpha": alpha}
        if number % args.policy_frequency == 0:
            # Actor, through the whole chain.
            noise = actor.draw_noise(args.batch_size, generator)
            with autocast:
                u, running, log_prob = actor(batch["obs"], noise)
                loss = (alpha * log_prob - mean_value_fn(critic_view, batch["obs"], u)).mean()
            actor_optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(actor.parameters(), 1.0)  # element by element, as in the code: not the norm
            for parameter in actor.parameters():
                parameter.grad.nan_to_num_(0.0)
            actor_optimizer.step()
            running = running.detach().mean()
            metrics |= {"losses/actor_loss": loss.detach(), "policy/running_cost": running}
        if number % args.policy_frequency == 0 and args.autotune:
            # Temperature: an entropy below its target raises alpha. The prior's term is left out, as in the code.
            loss = log_alpha.exp() * (-running - target_entropy)
            descend(alpha_optimizer, loss)
            metrics["losses/alpha_loss"] = loss.detach()
        return metrics

    @hold_signals()
    def update(number: int) -> dict[str, torch.Tensor]:
        """The updates of the number-th step with updates, from 1; returns tag -> value to log, on the device."""
        metrics = {}
        for i in range(args.updates_per_step):
            metrics |= update_once((number - 1) * args.updates_per_step + i + 1)
        return metrics

    # sync: main/restore
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
            # sync: end
            metrics |= update(step - args.learning_starts)
            # sync: main/step
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
            # sync: spread
            if metrics:  # of the acting policy at one state, by 16 draws at each of 16 states
                own = torch.Generator(device).manual_seed(step)  # logging must not move the training's random numbers
                states = buffer.sample(16, own)["obs"].repeat_interleave(16, dim=0)
                with torch.no_grad():
                    u = actor.to_unit(actor_view.act(states, actor.draw_noise(256, own)))
                metrics["policy/std"] = u.view(16, 16, -1).std(dim=1).mean()
            # sync: end
            require_finite()
            # sync: main/finish
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
