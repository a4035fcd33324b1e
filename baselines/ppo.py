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
from contextlib import suppress
from dataclasses import asdict, dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "Humanoid-v4"  # Gymnasium task; observations: Boxes; actions: a bounded Box
    seed: int = 1  # seed of the networks, the noise, the minibatches and the environment
    total_timesteps: int = 1_000_000  # environment steps
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


def mlp(n: int, hidden: int, out: int, gain: float) -> nn.Sequential:
    """Two tanh layers, orthogonal weights and zero biases; the last layer's weights have the given gain."""
    layers = nn.Linear(n, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)
    for layer, scale in zip(layers, (math.sqrt(2), math.sqrt(2), gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


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
        self.discounted.mul_(self.gamma * (1 - bool(terminated))).add_(reward)
        self.moments.update(self.discounted)
        return (reward / (self.moments.var + 1e-8).sqrt()).clamp(-10, 10).item()


def frozen_view(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode and without gradients, on the same storage: it follows every in-place update."""
    view = copy.deepcopy(module).eval().requires_grad_(False)
    for tensors in (nn.Module.parameters, nn.Module.buffers):
        for mine, original in zip(tensors(view), tensors(module), strict=True):
            mine.data = original.data
    return view


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
    log_ratio = actor.log_prob(batch["normal_obs"], batch["x"]) - batch["log_prob"]
    ratio, advantage = log_ratio.exp(), batch["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.minimum(advantage * ratio, advantage * clipped).mean()
    # Value.
    value, old = critic(batch["normal_obs"]).squeeze(1), batch["value"]
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
    buffer = Rollout(max(args.num_steps, LONGEST_EPISODE), obs_dim, box.shape[0], device)

    # Networks and optimizers.
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    actor = Actor(obs_dim, box, args).to(device)
    critic = mlp(obs_dim, args.hidden_dim, 1, 1.0).to(device)
    actor_view, scaler = frozen_view(actor), RewardScaler(args.gamma)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=args.policy_lr, eps=1e-5, fused=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    functions = ppo_loss, actor_view.sample
    if compiles:
        functions = [torch.compile(function, dynamic=False) for function in functions]
    loss_fn, sample_fn = functions

    def update(fraction: float) -> dict[str, torch.Tensor]:
        """Use up the rollout, at this fraction of --total-timesteps; returns tag -> value to log, on the device."""
        rollout = buffer.split(buffer.last(args.num_steps))
        for group in optimizer.param_groups:
            group["lr"] = args.policy_lr * (1 - fraction if args.anneal_lr else 1)
        with torch.no_grad(), autocast:  # the parameters are still those that acted
            rollout["log_prob"] = actor.log_prob(rollout["normal_obs"], rollout["x"]).float()
            rollout["value"] = critic(rollout["normal_obs"]).squeeze(1).float()
            next_value = critic(rollout["normal_next"]).squeeze(1).float()
        rollout["cut"] = rollout["terminated" if args.bootstrap_time_limits else "ended"]
        series = (rollout["normal_reward"], rollout["value"], next_value, rollout["cut"], rollout["ended"])
        advantage = gae(*(x.cpu().numpy() for x in series), args.gamma, args.gae_lambda)
        rollout["advantage"] = torch.from_numpy(advantage).to(device)
        names, seen = ("normal_obs", "x", "log_prob", "value", "advantage"), []
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

    if compiles:
        # Compile on zeros, before the loop: the loss is pure and leaves no trace, and Ctrl-C has nothing to lose.
        began = time.perf_counter()
        print("compiling, a minute or two at first, seconds from the cache; --no-compile does without")
        shapes = {"normal_obs": (obs_dim,), "x": box.shape, "log_prob": (), "value": (), "advantage": ()}
        size = args.num_steps // args.num_minibatches
        with autocast:
            batch = {name: torch.zeros(size, *shape, device=device) for name, shape in shapes.items()}
            loss_fn(actor, critic, batch, args)[0].backward()
        sample_fn(torch.zeros(1, obs_dim, device=device), torch.zeros(1, *box.shape, device=device))
        print(f"compiled in {time.perf_counter() - began:.0f} s")

    # What a checkpoint holds of networks and optimizers.
    parts = {"actor": actor, "critic": critic, "reward_scaler": scaler, "optimizer": optimizer}
    start, episode, episode_start, last_return, metrics, rows = 0, 0, 0, math.nan, {}, buffer.rows[:0].cpu()
    if checkpoint:
        rows = restore(args.resume, checkpoint, parts, buffer, generator)
        start, episode, episode_start, last_return, metrics, _ = checkpoint["counters"]
    obs, episode_return, ended = replay_episode(env, buffer.split(rows), episode_seed(args.seed, episode))
    path, writer, lock = start_run(args, device, start, lock)

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

        # Write a checkpoint: the parts, the generator, the counters, the steps of rollout and episode so far.
        stopping, last = bool(STOP), step == args.total_timesteps  # a signal that comes later counts at the next step
        if stopping or due(step, args.checkpoint_frequency, args.total_timesteps):
            sums = {name: total(part) for name, part in parts.items() if name != "reward_scaler"}
            require_finite(step, metrics | sums)
            writer.flush()
            state = {name: part.state_dict() for name, part in parts.items()} | {"args": asdict(args)}
            state["generator"] = generator.get_state()
            state["counters"] = step, episode, episode_start, last_return, metrics, last and not stopping
            needed = step - min(episode_start, step - step % args.num_steps)
            state["rows"] = buffer.last(min(needed, len(buffer.rows))).cpu()
            save_checkpoint(path, state)
        if stopping or last:
            break

        # Act.
        if ended or obs is None:
            episode, episode_start, episode_return = episode + 1, step, 0.0
            obs, _ = env.reset(seed=episode_seed(args.seed, episode))
            buffer.rows[(step - 1) % len(buffer.rows), -1] = 1  # ended: link no advantages across
        obs_tensor = torch.as_tensor(obs, device=device)
        if actor.moments is not None:
            actor.moments.update(obs_tensor)
        normal_obs = actor.normalize(obs_tensor[None])
        x = sample_fn(normal_obs, actor.draw_noise(1, generator))
        action = into_box(actor.to_env(x)[0].cpu().numpy(), box)
        next_obs, reward, terminated, truncated, _ = env.step(action.copy())
        normal_next = actor.normalize(torch.as_tensor(next_obs, device=device))
        transition = {"obs": obs, "action": action, "reward": reward, "next_obs": next_obs}
        transition |= {"normal_obs": normal_obs[0].cpu(), "x": x[0].cpu(), "normal_next": normal_next.cpu()}
        transition["normal_reward"] = scaler(float(reward), terminated) if args.normalize_reward else reward
        buffer.add(**transition, terminated=terminated, ended=terminated or truncated)
        obs, episode_return, ended = next_obs, episode_return + float(reward), terminated or truncated
        # Learn.
        if (step + 1) % args.num_steps == 0:
            metrics |= update((step + 1 - args.num_steps) / args.total_timesteps)
        progress.update()
    for opened in (progress, writer, lock, env, *eval_envs):
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


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


def prepare(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy, and set PyTorch up; returns the device."""
    zeros = "eval_frequency", "checkpoint_frequency"
    limits = dict.fromkeys(zeros, (0, 2**62)) | dict.fromkeys(("gamma", "gae_lambda", "policy_lr"), (0, 1))
    limits |= dict.fromkeys(("clip_coef", "ent_coef", "vf_coef", "max_grad_norm"), (0, 1e6))
    limits |= {"num_steps": (1, 2**20), "hidden_dim": (1, 2**14)}
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
    size = args.num_steps // args.num_minibatches
    whole = size >= 2 and size * args.num_minibatches == args.num_steps
    divisor = f"choose a divisor of --num-steps {args.num_steps}, at most its half"
    for flag, fine, remedy in (
        ("device", device in devices, f"not available here; choose auto, {', '.join(devices)}"),
        ("num_steps", args.num_steps <= args.total_timesteps, "no update would be made; raise --total-timesteps"),
        ("num_minibatches", whole, divisor),
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


class Rollout:
    """Ring of steps, one row each, in the environment's numbers and normalised as they were at the time. The last T are
    the rollout; it reaches further back, to the start of the episode, for `replay_episode`."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: torch.device):
        self.widths = {"obs": obs_dim, "action": action_dim, "reward": 1, "next_obs": obs_dim}
        self.widths |= {"normal_obs": obs_dim, "x": action_dim, "normal_reward": 1, "normal_next": obs_dim}
        self.widths |= {"terminated": 1, "ended": 1}
        self.rows, self.count = torch.empty(capacity, sum(self.widths.values()), device=device), 0

    def add(self, **transition):
        """Store one step, given by name as NumPy arrays and numbers; ends the run where one is not finite."""
        row = np.concatenate([np.atleast_1d(transition[name]) for name in self.widths], dtype=np.float32)
        if not np.isfinite(row).all():
            require_finite(self.count + 1, self.split(torch.from_numpy(row[None])))
        self.rows[self.count % len(self.rows)] = torch.from_numpy(row)
        self.count += 1

    def last(self, n: int) -> torch.Tensor:
        """Rows of the last n steps, in the order of time."""
        return self.rows[torch.arange(self.count - n, self.count) % len(self.rows)]

    def split(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows -> name -> (B, n), for numbers (B,)."""
        batch = dict(zip(self.widths, rows.split(list(self.widths.values()), dim=1), strict=True))
        return batch | {name: batch[name].squeeze(1) for name in ("reward", "normal_reward", "terminated", "ended")}


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


def save_checkpoint(run: str, state: dict):
    """Swap checkpoint.pt: a crash leaves the old one."""
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


def restore(run: str, checkpoint: dict, parts: dict, buffer: Rollout, generator: torch.Generator) -> torch.Tensor:
    """Put the networks and optimizers back, the generator, and the steps that the checkpoint holds; returns the rows of
    the episode in progress."""
    try:
        generator.set_state(checkpoint["generator"])
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
    except Exception as error:  # other networks under the same flags, or a GPU's random numbers
        kinds = "another version of the script or the task, or of another kind of device"
        require(False, f"--resume {run}: checkpoint.pt is of {kinds} ({error})")
    buffer.count, rows = checkpoint["counters"][0], checkpoint["rows"]
    buffer.rows[torch.arange(buffer.count - len(rows), buffer.count) % len(buffer.rows)] = rows.to(buffer.rows.device)
    if buffer.count - checkpoint["counters"][2] > len(rows):
        print(f"the episode is longer than the {len(rows)} steps of it that are kept")
    return buffer.last(min(buffer.count - checkpoint["counters"][2], len(rows))).cpu()


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
