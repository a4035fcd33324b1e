"""Naive SAC flow: soft actor-critic whose policy is a K-step flow with a plain MLP velocity network.

Zhang et al., "SAC Flow: Sample-Efficient RL of Flow-Based Policies via Velocity-Reparameterized Sequential Modeling",
arXiv 2509.25756. Equation numbers in parentheses are the paper's. The MLP on (s, A, t) makes the rollout a residual
RNN: the baseline whose gradients, the paper finds, grow towards k = 0; sac_flow_g.py and sac_flow_t.py answer that.

    python sac_flow_naive.py --env-id Humanoid-v4
    python sac_flow_naive.py --env-id HalfCheetah-v4 --size small
    tensorboard --logdir runs
"""

# Symbols: s observation, a action in environment units, d action dimension, B batch size, K sampling steps, dt = 1/K,
# t_k = k dt, A_k intermediate action (B, d), A_0 ~ N(0, I), v velocity, b drift, sigma_k = exp(log_std) noise scale,
# a = scale * tanh(A_K) + bias, alpha temperature in reward per nat. Log-densities are in nats.
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
    env_id: str = "Humanoid-v4"  # Gymnasium task; observations: Boxes; actions: a bounded Box
    size: Literal["full", "small"] = "full"  # the paper's, or one for a CPU core, see SIZES; other flags override it
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
    updates_per_step: int = 1  # critic updates per environment step
    policy_frequency: int = 3  # critic updates per actor and temperature update
    crossq: bool = True  # BatchRenorm critics without target networks, or plain critics with target networks
    renorm_warmup: int = 100_000  # a network's updates before BatchRenorm corrects by running statistics; small: never
    tau: float = 0.005  # target smoothing per update, used with --no-crossq only
    critic_hidden_dim: int = 1024  # width of the critics' two hidden layers
    normalize_obs: bool = True  # BatchRenorm on the actor's observation
    autotune: bool = True  # adapt alpha so that the policy's entropy meets --target-entropy
    alpha: float = 0.01  # initial (with --no-autotune constant) temperature, reward per nat
    target_entropy: float = 0.0  # target of the path entropy -log p(A_0..A_K), nats in environment action units
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # torch.compile losses and acting, a minute or two at first; a CPU needs a C++ compiler for it
    bf16: bool = False  # bfloat16 matrix products in the losses; slower on a CPU without instructions for them
    eval_frequency: int = 10_000  # environment steps between evaluations, with one at the end; 0 for none
    eval_episodes: int = 10  # episodes per evaluation, without noise on the steps
    log_frequency: int = 1000  # environment steps between writes of losses, policy and gradient statistics
    run_dir: str = "runs"  # folder that receives the run's own folder
    checkpoint_frequency: int = 5000  # environment steps between checkpoints; 0: only at the end and when interrupted
    resume: str | None = None  # run folder to go on in; flags come from its checkpoint, --total-timesteps may be raised
    exp_name: str = os.path.splitext(os.path.basename(__file__))[0]  # name of the experiment in the run's folder
    capture_video: bool = False  # film one episode of every evaluation; without a display set MUJOCO_GL=egl
    track: bool = False  # send the run to Weights & Biases; its project and team: WANDB_PROJECT, WANDB_ENTITY
    sampling_steps: int = 4  # K, steps of the rollout
    drift_correction: bool = False  # drift (14), which keeps a flow-matching field's marginals, instead of b = v
    log_std_min: float = -5.0  # lower bound of log sigma
    log_std_max: float = 2.0  # upper bound of log sigma
    # Velocity network.
    hidden_dim: int = 512  # width of the two hidden layers


class Velocity(nn.Module):
    """MLP velocity: [s; A; t] -> two ReLU layers -> v and log sigma."""

    def __init__(self, obs_dim: int, action_dim: int, args):
        super().__init__()
        hidden, self.limits = args.hidden_dim, (args.log_std_min, args.log_std_max)
        # The first layer, stored by input: W [s; A; t] = W_s s + W_A A + W_t t.
        fan_in = (obs_dim, action_dim, 1)
        parts = [nn.Linear(n, hidden, bias=i == 0) for i, n in enumerate(fan_in)]
        for part in parts:  # weights initialised as those of one layer
            nn.init.uniform_(part.weight, -(sum(fan_in) ** -0.5), sum(fan_in) ** -0.5)
        self.from_obs, from_x, self.from_time = parts
        self.from_x = nn.Parameter(from_x.weight.detach().t().contiguous())  # (d, n): its gradient is faster this way
        self.hidden, self.head = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * action_dim)

    @staticmethod
    def float32(product, *tensors: torch.Tensor) -> torch.Tensor:
        """A narrow product kept in float32: v has to cancel an A_k that is wide next to the noise of the action."""
        with torch.autocast(tensors[0].device.type, enabled=False):
            return product(*(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors))

    def precompute(self, obs: torch.Tensor, t: torch.Tensor) -> tuple:
        """All that does not depend on A, for all times t (K, B, 1) or (K, 1, 1) at once; rollouts loop over `step`."""
        return self.float32(self.from_obs, obs), self.float32(self.from_time, t)

    def step(self, context: tuple, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """v and log sigma (B, d) at A_k = x, for the k-th time given to `precompute`."""
        from_obs, from_time = context
        h = relu(self.float32(torch.addmm, from_obs + from_time[k], x, self.from_x))
        h = relu(self.hidden(h))
        v, log_std = self.float32(self.head, h).chunk(2, dim=-1)
        return v, bounded(log_std, *self.limits)

    def forward(self, obs: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (B, n), x = A_t (B, d), t (B, 1) or (1, 1) in [0, 1] -> v, log sigma (B, d), for flow matching."""
        return self.step(self.precompute(obs, t[None]), x, 0)


class Actor(nn.Module):
    """Flow policy: noise-augmented K-step rollout (13) of `Velocity`, squashed into the action box."""

    def __init__(self, obs_dim: int, box: gym.spaces.Box, args):
        super().__init__()
        self.action_dim, self.K, self.drift_correction = box.shape[0], args.sampling_steps, args.drift_correction
        self.noise_factors = self.K + 1  # independent Gaussian factors of the path density: A_0 and one per step
        self.norm = BatchRenorm(obs_dim, args.renorm_warmup) if args.normalize_obs else nn.Identity()
        self.velocity = Velocity(obs_dim, self.action_dim, args)
        self.register_buffer("t", torch.arange(self.K).view(-1, 1, 1) / self.K)
        self.register_buffer("scale", torch.as_tensor((box.high - box.low) / 2, dtype=torch.float32))
        self.register_buffer("bias", torch.as_tensor((box.high + box.low) / 2, dtype=torch.float32))

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
            if self.drift_correction:  # v becomes the drift b (14), in the form that is regular at t = 0
                var = torch.exp(2 * log_std)
                v = ((1 - t + t * var / 2) * v - var / 2 * x) / (1 - t)
            path.append(x + v * dt + torch.exp(log_std) * math.sqrt(dt) * noise[k + 1])
            log_stds.append(log_std)
        return path, log_stds

    def log_prob(self, path: list, log_stds: list, noise: torch.Tensor) -> torch.Tensor:
        """Log-density (B,) of the path and its action. The A_k were drawn from the noise, so no residual is recomputed;
        every factor keeps its -log(sigma sqrt(dt)), the term by which entropy asks for more noise."""
        gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(dim=(0, 2))
        step_scale = sum(log_stds).sum(-1) - 0.5 * self.K * self.action_dim * math.log(self.K)
        return gaussian - step_scale - self.log_det(path[-1])

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


def bounded(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Any real number, smoothly into [low, high]: for log sigma."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # densities need more than bfloat16's eight bits
    return low + 0.5 * (high - low) * (torch.tanh(x) + 1)


def relu(x: torch.Tensor) -> torch.Tensor:
    """ReLU. Behind frozen weights F.relu saves a boolean mask, whose stores Inductor does not vectorise."""
    return 0.5 * (x + x.abs()) if torch.compiler.is_compiling() else F.relu(x)


NEVER = 10**9  # updates: with a warm-up from here on BatchRenorm does not even compute its correction


class BatchRenorm(nn.Module):
    """Batch renormalization (Ioffe, 2017) over the first dimension of (B, n), with the constants of CrossQ.

    Training mode normalises with the batch's statistics, corrected towards the running ones by r and d; the first
    `warmup` training calls are plain batch normalization. Evaluation mode uses the running statistics. They move in
    `track`, after the backward pass, and not in `forward`: a compiled backward pass recomputes r and d from them, and
    with moved statistics its gradients are silently wrong (pytorch/pytorch#197039). `track` sees a layer's last
    call alone, so that a loss may call a layer once.
    """

    def __init__(self, n: int, warmup=100_000, momentum=0.99, eps=1e-3, r_max=3.0, d_max=5.0):
        super().__init__()
        self.momentum, self.eps, self.r_max, self.d_max, self.warmup = momentum, eps, r_max, d_max, warmup
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # a tensor: a Python int would recompile
        self.batch_mean = self.batch_var = torch.zeros(n)  # of the last batch, for `track`; no checkpoint needs them

    @staticmethod
    def track(norms: list):
        """Move all running statistics towards those of each layer's last training batch."""
        running = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
        latest = [norm.batch_mean for norm in norms] + [norm.batch_var for norm in norms]
        torch._foreach_lerp_(running, latest, 1 - norms[0].momentum)  # which all share
        torch._foreach_add_([norm.steps for norm in norms], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # Op by op var_mean takes 30 times as long as PyTorch's own statistics, which MPS does not have.
        fuse = torch.compiler.is_compiling() or x.device.type == "mps"
        if fuse:
            var, mean = torch.var_mean(x, dim=0, correction=0)
        else:
            mean, var = torch.batch_norm_update_stats(x, None, None, 0)
        self.batch_mean, self.batch_var = mean.detach(), var.detach()
        weight, bias, std = self.weight, self.bias, (var + self.eps).sqrt()
        if self.warmup < NEVER:
            with torch.no_grad():  # r and d are constants to the gradient
                warm, running_std = self.steps >= self.warmup, (self.running_var + self.eps).sqrt()
                r = torch.where(warm, (std / running_std).clamp(1 / self.r_max, self.r_max), 1.0)
                d = torch.where(warm, ((mean - self.running_mean) / running_std).clamp(-self.d_max, self.d_max), 0.0)
            weight, bias = weight * r, weight * d + bias
        if fuse:
            return (x - mean) * (weight / std) + bias
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0, self.eps)[0]  # F's refuses a batch of one


class Critic(nn.Module):
    """Two Q-functions: obs (B, n), action (B, d) -> (2, B), in units of return."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: int, crossq: bool, warmup=100_000):
        super().__init__()
        widths = (obs_dim + action_dim, hidden, hidden, 1)
        self.layers = nn.ModuleList(nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:])) for _ in range(2))
        norms = (nn.ModuleList(BatchRenorm(n, warmup) for n in widths[:-1]) for _ in range(2))
        self.norms = nn.ModuleList(norms) if crossq else None

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        q = []
        for head, layers in enumerate(self.layers):
            x = torch.cat([obs, action], dim=1)
            for i, layer in enumerate(layers):
                x = relu(x) if i else x
                x = self.norms[head][i](x) if self.norms is not None else x
                # The last layer is a weighted sum: as a matrix product --bf16 would round Q to eight bits.
                last = i == len(layers) - 1
                x = (x * layer.weight).sum(1) + layer.bias if last else layer(x).to(x.dtype)
            q.append(x)
        return torch.stack(q)


def frozen_view(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode and without gradients, on the same storage: it follows every in-place update.

    CrossQ acts, and computes a' and the actor's loss, with running statistics: a view spares switching modes.
    """
    view = copy.deepcopy(module).eval().requires_grad_(False)
    for tensors in (nn.Module.buffers, nn.Module.parameters):
        for mine, original in zip(tensors(view), tensors(module), strict=True):
            mine.data = original.data
    return view


def critic_loss(critic, target_critic, actor, batch, noise, alpha, gamma):
    """Soft Bellman error, and the mean Q. The actor is a frozen view; without a target critic the loss is CrossQ's."""
    next_action, next_log_prob = actor(batch["next_obs"], noise)
    if target_critic is None:  # one joint pass, so that the batch's statistics cover both distributions
        obs = torch.cat([batch["obs"], batch["next_obs"]])
        q, next_q = critic(obs, torch.cat([batch["action"], next_action])).chunk(2, dim=1)  # (2 critics, B) each
    else:
        q, next_q = critic(batch["obs"], batch["action"]), target_critic(batch["next_obs"], next_action)
    next_value = next_q.amin(0) - alpha * next_log_prob
    target = (batch["reward"] + gamma * (1 - batch["terminated"]) * next_value).detach()
    return 0.5 * (q - target).square().mean(1).sum(), q.detach().mean()


def actor_loss(actor, critic, obs, noise, alpha):
    """Mean of alpha * log p - min Q, and the mean log p. The gradient reaches both through all K steps."""
    action, log_prob = actor(obs, noise)
    return (alpha * log_prob - critic(obs, action).amin(0)).mean(), log_prob.detach().mean()


def path_statistics(actor, critic, obs, noise, alpha) -> dict[str, torch.Tensor]:
    """Mean sigma of each step, and the batch mean of || d loss_b / d A_k ||, the paper's Figure 6: loss_b is one
    sample's actor loss with the noise held, thus without A_0's density. Takes frozen views."""
    path, log_stds = actor.rollout(obs, noise.clone().requires_grad_())  # A_0 needs a gradient, the weights none
    loss = alpha * actor.log_prob(path, log_stds, noise) - critic(obs, actor.squash(path[-1])).amin(0)
    gradients = torch.autograd.grad(loss.sum(), path)
    stds = torch.stack(log_stds).detach().exp().mean((1, 2))
    tags = {"policy/std": stds.mean()} | {f"policy/std_step_{k}": std for k, std in enumerate(stds) if len(stds) > 1}
    return tags | {f"gradients/step_{k}": gradient.norm(dim=1).mean() for k, gradient in enumerate(gradients)}


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, module: nn.Module):
    """One step of the module on its loss; then its running statistics follow."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    norms = [layer for layer in module.modules() if isinstance(layer, BatchRenorm)]
    if norms:
        BatchRenorm.track(norms)


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
    critic = Critic(obs_dim, box.shape[0], args.critic_hidden_dim, args.crossq, args.renorm_warmup).to(device)
    target_critic = None if args.crossq else copy.deepcopy(critic).requires_grad_(False)
    temperature = nn.ParameterDict({"log_alpha": torch.tensor(args.alpha, device=device).log()})
    actor_view, critic_view, log_alpha = frozen_view(actor), frozen_view(critic), temperature["log_alpha"]
    target_entropy = -box.shape[0] if args.target_entropy is None else args.target_entropy  # None: the Gaussian's
    adam = {"betas": (args.adam_beta1, 0.999), "fused": True}
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=args.policy_lr, **adam)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=args.q_lr, **adam)
    alpha_optimizer = torch.optim.Adam(temperature.parameters(), lr=args.alpha_lr, **adam)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)
    functions = critic_loss, actor_loss, actor_view.act
    if compiles:
        functions = [torch.compile(function, dynamic=False) for function in functions]
    critic_loss_fn, actor_loss_fn, act_fn = functions

    def act(obs: np.ndarray) -> np.ndarray:
        obs_tensor = torch.as_tensor(obs, device=device)[None]
        action = act_fn(obs_tensor, actor.draw_noise(1, generator))[0]
        return into_box(action.cpu().numpy(), box)

    def update(with_actor: bool) -> dict[str, torch.Tensor]:
        """Update the critic and, with_actor, actor and temperature; returns tag -> tensor () to log, on the device."""
        batch, noise = buffer.sample(args.batch_size, generator), actor.draw_noise(args.batch_size, generator)
        alpha = log_alpha.detach().exp()
        # Critic.
        with autocast:
            loss, q = critic_loss_fn(critic, target_critic, actor_view, batch, noise, alpha, args.gamma)
        descend(critic_optimizer, loss, critic)
        if target_critic is not None:
            with torch.no_grad():
                torch._foreach_lerp_(list(target_critic.parameters()), list(critic.parameters()), args.tau)
        metrics = {"losses/qf_loss": loss.detach(), "losses/qf_values": q, "losses/alpha": alpha}
        if with_actor:
            # Actor.
            noise = actor.draw_noise(args.batch_size, generator)
            with autocast:
                loss, log_prob = actor_loss_fn(actor, critic_view, batch["obs"], noise, alpha)
            descend(actor_optimizer, loss, actor)
            metrics |= {"losses/actor_loss": loss.detach(), "policy/log_prob": log_prob}
        if with_actor and args.autotune:
            # Temperature: an entropy -log_prob below its target raises alpha.
            loss = log_alpha.exp() * (-log_prob - target_entropy)
            descend(alpha_optimizer, loss, temperature)
            metrics["losses/alpha_loss"] = loss.detach()
        return metrics

    if compiles:
        # Compile on zeros, before the loop: the losses are pure and leave no trace, and Ctrl-C has nothing to lose.
        began = time.perf_counter()
        print("compiling, a minute or two at first, seconds from the cache; --no-compile does without")
        batch = buffer.split(torch.zeros(args.batch_size, buffer.rows.shape[1], device=device))
        noise = torch.zeros(actor.noise_factors, args.batch_size, box.shape[0], device=device)
        with autocast:
            alpha = log_alpha.detach().exp()
            loss, _ = critic_loss_fn(critic, target_critic, actor_view, batch, noise, alpha, args.gamma)
            other, _ = actor_loss_fn(actor, critic_view, batch["obs"], noise, alpha)
        (loss + other).backward()
        act_fn(torch.zeros(1, obs_dim, device=device), torch.zeros(actor.noise_factors, 1, box.shape[0], device=device))
        print(f"compiled in {time.perf_counter() - began:.0f} s")

    parts = {"actor": actor, "critic": critic, "temperature": temperature, "actor_optimizer": actor_optimizer}
    parts |= {"critic_optimizer": critic_optimizer, "alpha_optimizer": alpha_optimizer}
    parts |= {} if target_critic is None else {"target_critic": target_critic}
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
                batch, noise = buffer.sample(args.batch_size, own), actor.draw_noise(args.batch_size, own)
                metrics |= path_statistics(actor_view, critic_view, batch["obs"], noise, log_alpha.detach().exp())
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
            require_finite(step, metrics | {name: total(part) for name, part in parts.items() if name != "temperature"})
            writer.flush()
            state = {name: part.state_dict() for name, part in parts.items()} | {"args": asdict(args)}
            state |= {"generator": generator.get_state(), "box": box.np_random.bit_generator.state, "crc": buffer.crc}
            state["counters"] = step, episode, episode_start, last_return, metrics, last and not stopping
            save_checkpoint(path, state, replay)
        if stopping or last:
            break

        # Act: uniformly at first, as the literature does. A GPU learns while the environment steps.
        if ended or obs is None:
            episode, episode_start, episode_return = episode + 1, step, 0.0
            obs, _ = env.reset(seed=episode_seed(args.seed, episode))
        learning = step >= args.learning_starts
        action = act(obs) if learning else into_box(box.sample(), box)
        for i in range(args.updates_per_step if learning else 0):
            number = (step - args.learning_starts) * args.updates_per_step + i + 1
            metrics |= update(number % args.policy_frequency == 0)
        next_obs, reward, terminated, truncated, _ = env.step(action.copy())  # a task may change it
        transition = {"obs": obs, "action": action, "reward": reward, "next_obs": next_obs, "terminated": terminated}
        replay.write(buffer.add(**transition))
        obs, episode_return, ended = next_obs, episode_return + float(reward), terminated or truncated
        progress.set_description("training" if learning else "random actions", refresh=False)
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
# What --size changes. Small never corrects, since on Humanoid-v4 the correction undoes what was learned there, and does
# not compile, which pays only after 24 000 to 36 000 steps.
SIZES = {
    "full": {},
    "small": dict(critic_hidden_dim=256, batch_size=256, learning_starts=5000, renorm_warmup=NEVER, compile=False),
}


def require(condition: bool, message: str):
    """Bad input ends with one line on standard error and exit code 2, before anything was written."""
    if not condition:
        print("error:", " ".join(message.split()), file=sys.stderr)  # a Box prints itself in several lines
        raise SystemExit(2)


def prepare(args: Args) -> torch.device:
    """Refuse flags that cannot work, naming flag and remedy, and set PyTorch up; returns the device."""
    limits = {"seed": (0, 2**32 - 1)}  # of a larger one PyTorch's generator for CPUs takes the last 32 bits
    limits |= dict.fromkeys(("renorm_warmup", "eval_frequency", "checkpoint_frequency"), (0, 2**62))
    limits |= dict.fromkeys(("gamma", "tau", "policy_lr", "q_lr", "alpha_lr"), (0, 1)) | {"adam_beta1": (0, 0.999)}
    limits |= {"alpha": (0, 1e6), "target_entropy": (-1e6, 1e6), "log_std_min": (-20, 10), "log_std_max": (-20, 10)}
    limits |= {name: (1, 2**14) for name in asdict(args) if name.endswith(("_dim", "_model", "_layers"))}
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
        ("alpha", args.alpha > 0 or not args.autotune, "choose more than 0, or --no-autotune"),
        ("log_std_min", args.log_std_min < args.log_std_max, "must be below --log-std-max"),
        ("log_std_max", args.log_std_max <= 2 or not args.drift_correction, "--drift-correction overflows above 2"),
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
    """The command line's flags, over those of --size, or of the checkpoint, which they must not contradict."""
    words = sys.argv[1:] if argv is None else argv
    for flag, value in zip(words, words[1:], strict=False):
        name = flag.removeprefix("--no-").removeprefix("--")
        switch = isinstance(getattr(Args, name.replace("-", "_"), None), bool)
        fine = not switch or value not in ("True", "False")
        require(fine, f"{flag} {value}: write --{name} or --no-{name}, without a value")
    given = tyro.cli(Args, args=argv)
    if given.resume is None:
        return tyro.cli(Args, args=argv, default=replace(Args(), **SIZES[given.size]))
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
