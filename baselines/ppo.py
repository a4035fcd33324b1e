"""PPO: proximal policy optimisation with a diagonal Gaussian policy, the on-policy baseline of the SAC flows.

Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347, with the settings of CleanRL's
ppo_continuous_action.py (Huang et al., JMLR 2022), which the SAC Flow paper names as its PPO.

    python baselines/ppo.py --env-id HalfCheetah-v4
    tensorboard --logdir runs

The PPO in the SAC Flow authors' released code differs: 16 environments of 2048 steps (here one of as many steps in all)
make one batch, so that a million steps are 30 updates. Its settings:

    python baselines/ppo.py --num-steps 32768 --num-minibatches 1 --policy-lr 5e-4 --no-anneal-lr --ent-coef 0.01 \
        --no-clip-value --max-grad-norm 12 --hidden-dim 128 --squash --no-normalize-obs --no-normalize-reward
"""

# Symbols: s observation, x the Gaussian's sample (B, d), a the action in environment units: x clipped to the box, or
# with --squash scale * tanh(x) + bias. V value, A advantage, both in units of the normalised reward. T rollout length.

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
    # sync: end
    # Variant.
    num_steps: int = 2048  # T, environment steps per rollout, which one update uses up
    num_minibatches: int = 32  # minibatches per pass over the rollout
    update_epochs: int = 10  # passes over the rollout per update
    policy_lr: float = 3e-4  # Adam step size of policy and value function
    anneal_lr: bool = True  # step size linearly to 0 at --total-timesteps
    gae_lambda: float = 0.95  # decay of the multi-step advantages
    clip_coef: float = 0.2  # clip range of the probability ratio, with --clip-value of the value's change as well
    clip_value: bool = True  # clip the value's change too (not in the paper)
    ent_coef: float = 0.0  # weight of the entropy of x, in nats
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # norm to which the joint gradient is clipped
    normalize_obs: bool = True  # running standardisation of the observation, clipped to +-10
    normalize_reward: bool = True  # divide rewards by the deviation of the running discounted return, clipped to +-10
    squash: bool = False  # actions tanh(x) in the box's units instead of x clipped to the box
    bootstrap_time_limits: bool = False  # value of the last observation at a time limit; CleanRL takes it as terminal
    hidden_dim: int = 64  # width of the two hidden layers of policy and value function

    @property
    def buffer_size(self) -> int:
        """Transitions stored: a rollout's."""
        return self.num_steps


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


# sync: end
LIMITS = dict.fromkeys(("eval_frequency", "checkpoint_frequency", "policy_lr", "ent_coef"), (0, math.inf))
LIMITS |= dict.fromkeys(("vf_coef", "max_grad_norm", "clip_coef"), (0, math.inf))
LIMITS |= dict.fromkeys(("gamma", "gae_lambda"), (0, 1)) | {"seed": (0, 2**62)}


def conflicts(args: Args) -> tuple:
    """(flag, whether it goes with the others, remedy) of the flags that limit each other."""
    size = args.num_steps // args.num_minibatches
    whole = size >= 2 and size * args.num_minibatches == args.num_steps
    return (
        ("num_steps", args.num_steps <= args.total_timesteps, "no update would be made; raise --total-timesteps"),
        ("num_minibatches", whole, f"choose a divisor of --num-steps {args.num_steps}, at most its half"),
    )


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


# sync: end
class RunningMoments(nn.Module):
    """Mean and variance (n,) of all the vectors it was shown, one at a time, from 1e-4 imagined ones of N(0, I)."""

    def __init__(self, n: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))
        self.register_buffer("count", torch.tensor(1e-4))

    def update(self, x: torch.Tensor):
        """Count x (n,), in place: frozen views share the buffers."""
        delta, total = x - self.mean, self.count + 1
        self.mean += delta / total
        self.var.copy_((self.var * self.count + delta.square() * self.count / total) / total)
        self.count += 1


class RewardScaler(nn.Module):
    """Rewards over the deviation of their running discounted sum, clipped to +-10: values of order 1 on any task."""

    def __init__(self, gamma: float):
        super().__init__()
        self.gamma, self.moments = gamma, RunningMoments(1)
        self.register_buffer("discounted", torch.zeros(1))

    def forward(self, reward: float, terminated: bool) -> float:
        # As in Gymnasium's wrapper, the terminal reward starts the new sum, and a time limit does not end the old one.
        self.discounted.mul_(self.gamma * (1 - terminated)).add_(reward)
        self.moments.update(self.discounted)
        return (reward / (self.moments.var + 1e-8).sqrt()).clamp(-10, 10).item()


def mlp(n: int, hidden: int, out: int, gain: float) -> nn.Sequential:
    """Two tanh layers, orthogonal weights and zero biases; the last layer's weights have the given gain."""
    layers = nn.Linear(n, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)
    for layer, scale in zip(layers, (math.sqrt(2), math.sqrt(2), gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Actor(nn.Module):
    """x ~ N(mean(s), std^2), where log std (d,) is a parameter that does not depend on s."""

    def __init__(self, obs_dim: int, box: gym.spaces.Box, args: Args):
        super().__init__()
        self.action_dim, self.squash = box.shape[0], args.squash
        self.moments = RunningMoments(obs_dim) if args.normalize_obs else None
        self.net = mlp(obs_dim, args.hidden_dim, self.action_dim, 0.01)
        self.log_std = nn.Parameter(torch.zeros(self.action_dim))
        self.register_buffer("scale", torch.as_tensor((box.high - box.low) / 2, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor((box.high + box.low) / 2, dtype=torch.float32))

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:
        if self.moments is None:
            return obs
        return ((obs - self.moments.mean) / (self.moments.var + 1e-8).sqrt()).clamp(-10, 10)

    def sample(self, normal_obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised observations (B, n), noise (B, d) -> x (B, d)."""
        return self.net(normal_obs) + self.log_std.exp() * noise

    def log_prob(self, normal_obs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Log-density (B,) of x. That of the squashed action differs by a term of x alone, which cancels in the ratio:
        with x stored, no arctanh of a rounded action is needed."""
        z = (x - self.net(normal_obs)) * (-self.log_std).exp()
        return (-0.5 * (z.square() + math.log(2 * math.pi)) - self.log_std).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Of x, in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()

    def to_env(self, x: torch.Tensor) -> torch.Tensor:
        """Actions in environment units, to be clipped to the box."""
        return self.scale * torch.tanh(x) + self.bias if self.squash else x

    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(batch, self.action_dim, generator=generator, device=generator.device)

    def act(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Actions (B, d) in environment units for raw observations (B, n)."""
        return self.to_env(self.sample(self.normalize(obs), noise * (not deterministic)))


class ReplayBuffer:
    """Ring of the last T transitions, one row each: normalised observations, x, and what the advantages need."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: torch.device):
        self.widths = {"obs": obs_dim, "x": action_dim, "reward": 1, "next_obs": obs_dim, "terminated": 1, "ended": 1}
        self.rows, self.count = torch.empty(capacity, sum(self.widths.values()), device=device), 0

    def add(self, **transition) -> bool:
        """Store one transition, given by name as NumPy arrays and numbers; False if it is not finite in float32."""
        row = np.concatenate([np.atleast_1d(transition[name]) for name in self.widths], dtype=np.float32)
        self.rows[self.count % len(self.rows)] = torch.from_numpy(row)
        self.count += 1
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

    def columns(self) -> dict[str, torch.Tensor]:
        """name -> (T, n), for numbers (T,), of a full rollout in the order of time."""
        parts = dict(zip(self.widths, self.rows.split(list(self.widths.values()), dim=1), strict=True))
        return parts | {name: parts[name].squeeze(1) for name in ("reward", "terminated", "ended")}


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
def gae(reward, value, next_value, cut, ended, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantage estimates (T,) (Schulman et al., 2016, (16)) of arrays (T,).

    A_t = delta_t + gamma lam A_{t+1} within an episode, delta_t = r_t + gamma V(s_{t+1}) - V(s_t). `cut` marks the
    steps without a value after them, `ended` those after which another episode begins: a time limit need not be a cut.
    """
    delta, carry = (reward + gamma * (1 - cut) * next_value - value).tolist(), 0.0
    decay = (gamma * lam * (1 - ended)).tolist()
    for t in reversed(range(len(delta))):
        carry = delta[t] = delta[t] + decay[t] * carry
    return np.array(delta, dtype=np.float32)


def ppo_loss(actor, critic, batch: dict[str, torch.Tensor], args: Args) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clipped surrogate loss (7) with value loss and entropy bonus (9), and tag -> value to log."""
    # Policy.
    log_ratio = actor.log_prob(batch["obs"], batch["x"]) - batch["log_prob"]
    ratio, advantage = log_ratio.exp(), batch["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.minimum(advantage * ratio, advantage * clipped).mean()
    # Value.
    value, old = critic(batch["obs"]).squeeze(1), batch["value"]
    target = old + batch["advantage"]
    error = (value - target).square()
    if args.clip_value:
        near = old + (value - old).clamp(-args.clip_coef, args.clip_coef)
        error = torch.maximum(error, (near - target).square())
    value_loss, entropy = 0.5 * error.mean(), actor.entropy()
    # Together.
    loss = policy_loss - args.ent_coef * entropy + args.vf_coef * value_loss
    metrics = {"losses/policy_loss": policy_loss, "losses/value_loss": value_loss, "policy/entropy": entropy}
    metrics["losses/approx_kl"] = (ratio - 1 - log_ratio).mean()  # of the old policy to the new, never negative
    metrics["losses/clip_fraction"] = ((ratio - 1).abs() > args.clip_coef).to(ratio.dtype).mean()
    return loss, {tag: metric.detach() for tag, metric in metrics.items()}


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
    critic = mlp(obs_dim, args.hidden_dim, 1, 1.0).to(device)
    actor_view, scaler = frozen_view(actor), RewardScaler(args.gamma)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=args.policy_lr, eps=1e-5, fused=True)
    parts = {"actor": actor, "critic": critic, "reward_scaler": scaler, "optimizer": optimizer}
    functions = ppo_loss, actor_view.sample
    # sync: main/compile
    if args.compile and has_compiler(device):
        # Checking at every call that no module has changed costs some per cent at small size. None does here; a fork
        # that switches train() and eval(), or compiles one method of two modules, must drop this or run stale code.
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        functions = (torch.compile(function, dynamic=False, options=options) for function in functions)
    elif args.compile:
        print("no compiler or no Python.h found: running without torch.compile, slower")
    # sync: end
    loss_fn, sample_fn = functions
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)

    @hold_signals()
    def update(fraction: float) -> dict[str, torch.Tensor]:
        """Use up the rollout, at this fraction of --total-timesteps; returns tag -> value to log, on the device."""
        rollout = buffer.columns()
        for group in optimizer.param_groups:
            group["lr"] = args.policy_lr * (1 - fraction if args.anneal_lr else 1)
        with torch.no_grad(), autocast:  # the parameters are still those that acted
            rollout["log_prob"] = actor.log_prob(rollout["obs"], rollout["x"]).float()
            rollout["value"], next_value = (critic(rollout[name]).squeeze(1).float() for name in ("obs", "next_obs"))
        rollout["cut"] = rollout["terminated" if args.bootstrap_time_limits else "ended"]
        series = (rollout["reward"], rollout["value"], next_value, rollout["cut"], rollout["ended"])
        advantage = gae(*(x.cpu().numpy() for x in series), args.gamma, args.gae_lambda)
        rollout["advantage"] = torch.from_numpy(advantage).to(device)
        names, seen = ("obs", "x", "log_prob", "value", "advantage"), []
        for _ in range(args.update_epochs):
            order = torch.randperm(args.num_steps, generator=generator, device=device)
            for index in order.chunk(args.num_minibatches):
                with autocast:
                    loss, metrics = loss_fn(actor, critic, {name: rollout[name][index] for name in names}, args)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
                optimizer.step()
                seen.append(metrics)
        metrics = {tag: torch.stack([metrics[tag] for metrics in seen]).mean() for tag in seen[0]}
        error, target = rollout["advantage"].var(), (rollout["value"] + rollout["advantage"]).var()
        metrics |= {"losses/explained_variance": 1 - error / (target + 1e-8)}
        metrics |= {"policy/std": actor.log_std.detach().exp().mean()}
        return metrics | {"charts/learning_rate": torch.tensor(optimizer.param_groups[0]["lr"])}

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

    # sync: end
    if args.resume and episode_length == 0:  # it may be one that could not be restored: link no advantages across
        buffer.rows[(buffer.count - 1) % len(buffer.rows), -1] = 1  # ended

    def require_finite(**named):
        """End the run before what is not finite reaches the rollout or a checkpoint."""
        named = metrics | named
        bad = [k for k, value in named.items() if not torch.as_tensor(value, dtype=torch.float32).isfinite().all()]
        if bad:
            fail(f"{', '.join(bad)}: not finite")

    # sync: main/guard
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

    # sync: end
    burn_in = buffer.count + args.num_steps  # steps/s of a window that begins later has no compilation in it
    # sync: main/loop
    window_start, window_step, steps_per_second = time.perf_counter(), buffer.count, math.nan
    progress = tqdm(total=args.total_timesteps, initial=buffer.count, unit="step", disable=not sys.stderr.isatty())
    for step in range(buffer.count + 1, args.total_timesteps + 1):
        # sync: end
        # Act.
        obs_tensor = torch.as_tensor(obs, dtype=torch.float32, device=device)
        if actor.moments is not None:
            actor.moments.update(obs_tensor)
        normal_obs, noise = actor.normalize(obs_tensor[None]), actor.draw_noise(1, generator)
        with blas_products(), hold_signals():
            x = sample_fn(normal_obs, noise)
        action = actor.to_env(x)[0].cpu().numpy().clip(box.low, box.high)
        # sync: main/step
        if not np.isfinite(action).all():
            require_finite(obs=obs, action=action)
        with guard("the environment"):
            next_obs, reward, terminated, truncated, _ = env.step(action)
        # sync: end
        normal_next = actor.normalize(torch.as_tensor(next_obs, dtype=torch.float32, device=device))
        transition = {"obs": normal_obs[0].cpu(), "x": x[0].cpu(), "next_obs": normal_next.cpu()}
        transition |= {"reward": reward, "terminated": terminated, "ended": terminated or truncated}
        if args.normalize_reward:
            transition["reward"] = scaler(float(reward), terminated)
        # sync: main/store
        if not buffer.add(**transition):
            require_finite(**transition)
        obs, episode_return, episode_length = next_obs, episode_return + float(reward), episode_length + 1
        if terminated or truncated:
            writer.add_scalar("charts/episodic_return", episode_return, step)
            writer.add_scalar("charts/episodic_length", episode_length, step)
            with guard("the environment"):
                obs, _ = env.reset()
            last_return, episode_return, episode_length = episode_return, 0.0, 0
        # sync: end
        # Learn.
        if buffer.count % args.num_steps == 0:
            metrics |= update((step - args.num_steps) / args.total_timesteps)
        # sync: main/log

        # Log and evaluate: the only place that reads from the device, besides acting.
        progress.update()
        last = step == args.total_timesteps
        if step % args.log_frequency == 0 or last:
            now, warm = time.perf_counter(), window_step > burn_in
            steps_per_second = (step - window_step) / (now - window_start)
            window_start, window_step = now, step
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
