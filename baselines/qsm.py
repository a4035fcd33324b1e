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
    q_grad_coeff: float | None = None  # M, per unit of the scaled return; None is the task's preset, else 50
    reward_scale: float | None = None  # factor on the rewards in the losses; None is the task's preset, else 1

    # sync: presets
    def __post_init__(self):
        """Flags left at None take the task's value, or the published one where the task has none."""
        values = PUBLISHED if self.published else PRESETS.get(self.env_id.split("-v")[0], PUBLISHED)
        for name in values:
            if getattr(self, name) is None:
                setattr(self, name, values[name])


# sync: end
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
LIMITS = dict.fromkeys(("learning_starts", "policy_lr", "q_lr", "eval_frequency"), (0, math.inf)) | {"seed": (0, 2**62)}
LIMITS |= dict.fromkeys(("checkpoint_frequency", "exploration_noise", "q_grad_coeff"), (0, math.inf))
LIMITS |= {"gamma": (0, 1), "tau": (0, 1), "reward_scale": (1e-9, math.inf)}


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


# sync: initialised
def initialised(module: nn.Module) -> nn.Module:
    """Xavier-uniform weights and zero biases in every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


# sync: end
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
                x = layer(x)
                x = 0.5 * (x + x.abs())  # ReLU as in sac_flow_g.py, whose gradient vectorises
            q.append((x * last.weight).sum(1) + last.bias)  # as a matrix product its gradient is slow on a CPU
        return torch.stack(q).float()


class Mish(nn.Module):
    """x tanh(softplus(x)) by one exponential: compiled several times as fast as torch's on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = x.clamp(max=20).exp()
        n = e * (e + 2)
        return x * (n / (n + 2))


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
    critic = Critic(obs_dim, box.shape[0], args.critic_hidden_dim).to(device)
    target_critic = copy.deepcopy(critic).requires_grad_(False)
    actor_view, critic_view = frozen_view(actor), frozen_view(critic)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=args.policy_lr, fused=True)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.q_lr, fused=True)
    parts = {"actor": actor, "critic": critic, "target_critic": target_critic}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    functions = critic_loss, mean_q, actor_loss, actor_view.act
    # sync: main/compile
    if args.compile and has_compiler(device):
        # Checking at every call that no module has changed costs some per cent at small size. None does here; a fork
        # that switches train() and eval(), or compiles one method of two modules, must drop this or run stale code.
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        functions = (torch.compile(function, dynamic=False, options=options) for function in functions)
    elif args.compile:
        print("no compiler or no Python.h found: running without torch.compile, slower")
    # sync: end
    critic_loss_fn, mean_q_fn, actor_loss_fn, act_fn = functions
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)

    # sync: main/act
    @hold_signals()
    def act(obs: np.ndarray) -> np.ndarray:
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)[None]
        with blas_products():
            action = act_fn(obs_tensor, actor.draw_noise(1, generator))[0]
        return action.cpu().numpy().clip(box.low, box.high)  # rounding may pass a bound by one unit

    # sync: end
    def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @hold_signals()
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
        u, noise = actor.to_unit(batch["action"]), actor.draw_noise(args.batch_size, generator)[0]
        noisy = actor.add_noise(u, k, noise).requires_grad_()
        with autocast:
            (gradient,) = torch.autograd.grad(mean_q_fn(critic_view, batch["obs"], noisy), noisy)
            gradient = args.q_grad_coeff * gradient
            loss = actor_loss_fn(actor, batch["obs"], noisy.detach(), k, -gradient)
        for group in actor_optimizer.param_groups:
            done = min((number - 1) / args.policy_decay_steps, 1)
            group["lr"] = args.policy_lr * 0.5 * (1 + math.cos(math.pi * done))
        descend(actor_optimizer, loss)
        metrics |= {"losses/actor_loss": loss.detach(), "gradients/scaled_q": gradient.abs().median()}
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
            # sync: end
            state = {"actor": actor.state_dict(), "critic": critic.state_dict()}
            # sync: main/save
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
