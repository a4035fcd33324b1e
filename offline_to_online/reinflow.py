"""ReinFlow: a flow policy pretrained on demonstrations, then improved online by PPO on its noisy chain.

Zhang et al., "ReinFlow: Fine-tuning Flow Matching Policy with Online Reinforcement Learning", arXiv 2505.22094, on
low-dimensional observations. PPO needs the density of the sampled chain only, not of the action.

    python reinflow.py --env-id can --dataset-path low_dim_v15.hdf5
    python reinflow.py --env-id lift --dataset-path data/lift.hdf5 --num-envs 8 --num-steps 125 --batch-size-online 1000
    tensorboard --logdir runs
"""

# Symbols: s observation, x_k intermediate chunk (B, d) of h actions, d = h * action dimension, normalised to [-1, 1] by
# the data's range, v velocity, K steps, sigma(s) noise scale, B batch size.
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
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


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
    clip_coef: float = 0.01  # PPO's range of the ratio, which is per step and dimension of the chain
    ent_coef: float = 0.01  # weight of the chain's entropy per step and dimension
    vf_coef: float = 0.5  # weight of the value loss; the critic's own AdamW undoes it but for the gradient's clip
    max_grad_norm: float = 25.0  # clip of the gradient's norm
    target_kl: float = 0.01  # estimated divergence, per step and dimension, that ends an iteration's actor updates
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
    success_timing: Literal["pre", "post"] = "pre"  # OGBench reward and end of s (as in the data), or of s'
    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda or mps
    compile: bool = True  # torch.compile flow matching's loss; a CPU needs a C++ compiler for it
    eval_frequency: int = 100_000  # offline updates or environment steps between evaluations, 0 for none
    eval_episodes: int = 50  # noise-free episodes per evaluation
    log_frequency: int = 1000  # offline updates between writes of the loss; online every iteration is written
    run_dir: str = "runs"  # folder that receives the run's own folder
    checkpoint_frequency: int = 5000  # updates or steps between checkpoints; 0: only at the end and when interrupted
    resume: str | None = None  # run folder to go on in; flags come from its checkpoint, --total-timesteps may be raised
    exp_name: str = "o2o_" + os.path.splitext(os.path.basename(__file__))[0]  # name in the run's folder
    capture_video: bool = False  # film one episode of every evaluation; without a display set MUJOCO_GL=egl
    track: bool = False  # send the run to Weights & Biases; its project and team: WANDB_PROJECT, WANDB_ENTITY


def mlp(sizes: list[int], activation: type) -> nn.Sequential:
    layers = [nn.Linear(sizes[0], sizes[1])]
    for fan_in, fan_out in zip(sizes[1:-1], sizes[2:], strict=True):
        layers += [activation(), nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """Flow policy with a learned noise scale: x_{k+1} = clip(x_k + v / K, -1, 1) + sigma(s) eps, all normalised."""

    def __init__(self, obs_dim: int, action_dim: int, args):
        super().__init__()
        self.K, self.action_dim = args.sampling_steps, action_dim
        self.register_buffer("obs_range", torch.zeros(2, obs_dim))  # the data's least and largest values, see `fit`
        self.register_buffer("action_range", torch.zeros(2, action_dim))
        self.register_buffer("frequency", torch.exp(-math.log(1e4) / 15 * torch.arange(16)))
        self.time = nn.Sequential(nn.Linear(32, 64), nn.Mish(), nn.Linear(64, 32))
        self.velocity_net = mlp([obs_dim + action_dim + 32, *[args.hidden_dim] * 3, action_dim], nn.ReLU)
        self.noise_net = mlp([obs_dim, *[args.critic_hidden_dim] * 3, action_dim], nn.Tanh)
        self.log_vars = 2 * math.log(args.min_std), 2 * math.log(args.max_std)

    def fit(self, obs: torch.Tensor, action: torch.Tensor):
        """Take the ranges of obs (N, n) and of the single actions (N, m)."""
        self.obs_range.copy_(torch.stack([obs.amin(0), obs.amax(0)]))
        ranges = torch.stack([action.amin(0), action.amax(0)])
        self.action_range.copy_(ranges.repeat(1, self.action_dim // action.shape[1]))

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
        chain, std = [noise[0]], 0.0 if deterministic else self.std(obs)
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

    def act(self, obs: torch.Tensor, noise: torch.Tensor, deterministic=False) -> torch.Tensor:
        """Chunks (B, d) alone, in environment units."""
        return self.to_env(self.sample(obs, noise, deterministic)[-1]).clamp(-1, 1)

    def draw_noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise for x_0 and every step of `batch` chains."""
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
        var, mean = (x.item() for x in torch.var_mean(returns.cpu().double(), correction=0))
        n = returns.numel()
        total, delta = self.count + n, mean - self.mean
        self.var = (self.var * self.count + var * n + delta**2 * self.count * n / total) / total
        self.mean, self.count = self.mean + delta * n / total, total
        return (reward / math.sqrt(self.var + 1e-8)).clamp(-10, 10)


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, max_norm: float):
    """One step of the optimizer's parameters on the loss, its gradient clipped."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)
    optimizer.step()


def cosine(optimizer: torch.optim.Optimizer, first: float, last: float, progress: float):
    """Set the step size, which goes from first to last along a cosine."""
    for group in optimizer.param_groups:
        group["lr"] = last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(progress, 1)))


def collect(actor, envs: list, args: Args, writer, generator, step: int, episode: int) -> tuple[dict, int, int]:
    """Fresh episodes in every environment for --num-steps chunks, or to the last step, or to a signal to stop: name ->
    (T, n, ..), and the numbers of steps and of episodes begun."""
    last_step = args.offline_steps + args.total_timesteps
    obs = np.stack([one.reset(seed=episode_seed(args.seed, episode + i))[0] for i, one in enumerate(envs)])
    episode, lengths, returns = episode + len(envs), np.zeros(len(envs)), np.zeros(len(envs))
    rows = {name: [] for name in ("obs", "chain", "reward", "terminated", "ended", "next_obs")}
    for _ in range(args.num_steps):
        with torch.no_grad():
            chain = actor.sample(torch.as_tensor(obs, device=generator.device), actor.draw_noise(len(envs), generator))
            chunks = actor.to_env(chain[-1]).clamp(-1, 1).view(len(envs), args.horizon_length, -1).cpu().numpy()
        reward, terminated, ended = np.zeros((3, len(envs)))
        next_obs, following = obs.copy(), obs.copy()
        for i, one in enumerate(envs):
            for action in chunks[i]:
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
                following[i], _ = one.reset(seed=episode_seed(args.seed, episode))
                episode, lengths[i], returns[i] = episode + 1, 0, 0
        row = {"obs": obs, "reward": reward, "terminated": terminated, "ended": ended, "next_obs": next_obs}
        for name, value in row.items():
            rows[name].append(torch.as_tensor(value, dtype=torch.float32, device=generator.device))
        rows["chain"].append(chain.transpose(0, 1))
        obs = following
        if STOP or step == last_step:
            break
    return {name: torch.stack(values) for name, values in rows.items()}, step, episode


def improve(actor, critic, actor_optimizer, critic_optimizer, rollout: dict, args: Args, generator, warm: bool) -> dict:
    """PPO's updates on one iteration's chunks, of the actor too once warm; returns tag -> mean value to log."""
    with torch.no_grad():
        value, next_value = (critic(actor.normalize(rollout[name])).squeeze(2) for name in ("obs", "next_obs"))
        ends = rollout["terminated"], rollout["ended"], args.gamma, args.gae_lambda
        advantage = advantages(rollout["reward"], value, next_value, *ends)
        flat = {name: rollout[name].flatten(0, 1) for name in ("obs", "chain")}
        flat |= {"advantage": advantage.flatten(), "return": (advantage + value).flatten()}
        flat["log_prob"] = actor.log_prob(flat["obs"], flat["chain"].transpose(0, 1))[0]
    history, divergence = {}, 0.0
    for _ in range(args.update_epochs):
        order = torch.randperm(len(flat["obs"]), generator=generator, device=generator.device)
        for index in order.split(args.batch_size_online):
            batch = {name: values[index] for name, values in flat.items()}
            # Critic.
            loss = 0.5 * F.mse_loss(critic(actor.normalize(batch["obs"])).squeeze(1), batch["return"])
            descend(critic_optimizer, args.vf_coef * loss, args.max_grad_norm)
            values = {"losses/value_loss": loss.item()}
            if warm and divergence <= args.target_kl:
                # Actor.
                log_prob, entropy = actor.log_prob(batch["obs"], batch["chain"].transpose(0, 1))
                ratio = (log_prob - batch["log_prob"]).exp()
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                var, mean = torch.var_mean(batch["advantage"], correction=0)
                advantage = (batch["advantage"] - mean) / (var.sqrt() + 1e-8)
                gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
                descend(actor_optimizer, -gain - args.ent_coef * entropy, args.max_grad_norm)
                divergence = ((ratio - 1) - ratio.log()).mean().item()
                clip_share = ((ratio - 1).abs() > args.clip_coef).float().mean().item()
                values |= {"losses/actor_loss": -gain.item(), "losses/approx_kl": divergence}
                values |= {"losses/clip_fraction": clip_share, "policy/entropy": entropy.item()}
            for name, value in values.items():
                history.setdefault(name, []).append(value)
    return {name: torch.tensor(np.mean(values)) for name, values in history.items()}


def main(args: Args) -> str:
    """Pretrain and fine-tune, or go on with a run; returns the run's folder."""
    args = with_presets(args)
    device = prepare(args)
    compiles = args.compile and has_compiler(device)
    require(args.min_std < args.max_std, f"--min-std {args.min_std}: must be below --max-std")
    # At first sigma is the geometric mean; below `least` the mean log-density per step and dimension is above 1.
    unit, K, middle = 0.5 * math.log(2 * math.pi * math.e), args.sampling_steps, math.sqrt(args.min_std * args.max_std)
    least = math.exp(-unit - (K + 1 + unit) / K)
    cut = f"--max-std {args.max_std}: most densities are cut off at 1, where PPO has no gradient"
    require(middle > least, f"{cut}; raise it, or --min-std, to a geometric mean above {least:.3f}")
    covered = args.num_steps * args.horizon_length
    late = f"--num-steps {args.num_steps}: {covered} steps are fewer than an episode's {args.step_limit}"
    fine = covered >= args.step_limit or not args.total_timesteps
    require(fine, f"{late}, whose end would never be seen; raise it, or lower --step-limit")
    lock = hold(args.resume) if args.resume else None
    checkpoint = load_checkpoint(args.resume) if args.resume else None
    start, episode, iteration, evaluated = 0, 0, 0, True
    if checkpoint:
        was = checkpoint["device"]
        require(was == device.type, f"--device {device.type}: the checkpoint is of a run on {was}; resume it there")
        start, (episode, iteration, evaluated) = checkpoint["step"], checkpoint["counters"]
    last_step = args.offline_steps + args.total_timesteps
    files = find_dataset(args)
    require(len(files) == 1, f"--dataset-path {args.dataset_path}: a folder of shards; name one file, or its only one")
    env = make_env(args)
    eval_env = make_env(args, args.capture_video) if args.eval_frequency else env
    envs = [env] + [make_env(args) for _ in range(args.num_envs - 1) if args.total_timesteps]
    obs_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    data = Dataset(load_dataset(args, files[0], env), device)
    at_success = int((data.column("reward") == 0).sum())
    print(f"{files[0]}: {data.count} steps, of which {at_success} are at a success of {args.env_id}")
    same = not checkpoint or data.fingerprint == checkpoint["data"]
    require(same, f"--resume {args.resume}: {files[0]} has changed since; restore it")

    # Networks and optimizers.
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    flow = Actor(obs_dim, args.horizon_length * action_dim, args).to(device)
    flow.fit(data.column("obs"), data.column("action"))
    actor = copy.deepcopy(flow)  # an average of its weights while it is pretrained: what acts, and is fine-tuned
    critic = mlp([obs_dim, *[args.critic_hidden_dim] * 3, 1], nn.Mish).to(device)
    pretrain_optimizer = torch.optim.AdamW(flow.parameters(), lr=args.pretrain_lr, weight_decay=1e-6, fused=True)
    actor_optimizer = torch.optim.AdamW(actor.parameters(), lr=args.actor_lr, weight_decay=0, fused=True)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=args.critic_lr, weight_decay=1e-5, fused=True)
    scale = ReturnScale(args.gamma)
    flow_loss_fn = torch.compile(flow_loss, dynamic=False) if compiles else flow_loss

    def draw(generator: torch.Generator) -> tuple:
        """What flow matching takes besides the network: chunks, x_0 and t."""
        batch = data.sample(args.batch_size, args.horizon_length, generator)
        noise = actor.draw_noise(args.batch_size, generator)[0]
        return batch, noise, torch.rand(args.batch_size, 1, generator=generator, device=device)

    if compiles:
        # Compile before the loop, on a batch of its own: the loss is pure and leaves no trace, and Ctrl-C has nothing
        # to lose. The batch is drawn as all are, because another layout in memory would compile again.
        began, own = time.perf_counter(), torch.Generator(device).manual_seed(0)
        print("compiling, a minute or two at first, seconds from the cache; --no-compile does without")
        flow_loss_fn(flow, *draw(own)).backward()
        print(f"compiled in {time.perf_counter() - began:.0f} s")

    # A checkpoint is these parts, the generator, the running scale of returns and the counters.
    parts = {"flow": flow, "actor": actor, "critic": critic, "pretrain_optimizer": pretrain_optimizer}
    parts |= {"actor_optimizer": actor_optimizer, "critic_optimizer": critic_optimizer}
    if checkpoint:
        restore(args.resume, checkpoint, parts, generator)
        scale.count, scale.mean, scale.var = checkpoint["scale"]
    path, writer, lock = start_run(args, device, start + 1, lock)

    def log_evaluation() -> bool:
        """Evaluate and write the scores; False if a signal came in between: a resumed run then does it again."""
        film = f"{path}/videos/step-{step}.mp4" if args.capture_video else None
        scores = evaluate(actor, eval_env, args, device, film)
        if STOP:
            return False
        for name, value in scores.items():
            writer.add_scalar(f"eval/{name}", value, step)
        text = f"success {scores['success']:.2f}  eval return {scores['episodic_return']:.1f}"
        tqdm.write(f"step {step}/{last_step} {'online' if step > args.offline_steps else 'offline'}  {text}")
        return True

    def due(frequency: int, before: int, step: int) -> bool:
        """Whether step has passed a multiple of frequency since before, or ended a phase."""
        ended = step in (args.offline_steps, last_step)
        return before < step and frequency > 0 and (ended or step // frequency > before // frequency)

    def save():
        require_finite(step, metrics | {name: total(part) for name, part in parts.items()})
        writer.flush()
        state = {name: part.state_dict() for name, part in parts.items()} | {"args": asdict(args)}
        state |= {"generator": generator.get_state(), "data": data.fingerprint, "device": device.type}
        state |= {"scale": [scale.count, scale.mean, scale.var], "step": step}
        state["made_from"] = getattr(env.unwrapped, "made_from", None)
        state["counters"] = episode, iteration, evaluated
        save_checkpoint(path, state)

    metrics, step, stopping = {}, start, False
    if not evaluated:  # at the step where the run was stopped
        evaluated = log_evaluation()
        stopping = not evaluated
        save()
    # With miniters=1 its rate, and thus the remaining time, is that of the moment; disable=None: on a terminal alone.
    progress = tqdm(total=last_step, initial=start, miniters=1, disable=None, leave=False)
    clock, clock_step = time.perf_counter(), start
    while step < last_step and not stopping:
        before, began = step, (step, episode, generator.get_state())
        if step < args.offline_steps:
            # Flow matching.
            cosine(pretrain_optimizer, args.pretrain_lr, 0.1 * args.pretrain_lr, step / args.offline_steps)
            loss = flow_loss_fn(flow, *draw(generator))
            descend(pretrain_optimizer, loss, args.max_grad_norm)
            with torch.no_grad():  # or the average would drag along the graph of all its updates
                torch._foreach_lerp_(list(actor.parameters()), list(flow.parameters()), 1 - args.ema)
            step, metrics = step + 1, {"losses/flow_loss": loss.detach()}
        else:
            # An iteration of PPO.
            done = (step - args.offline_steps) / args.total_timesteps
            cosine(actor_optimizer, args.actor_lr, 0.44 * args.actor_lr, done)
            rollout, step, episode = collect(actor, envs, args, writer, generator, step, episode)
            if STOP:  # what the iteration has done is dropped: the checkpoint is that of its beginning
                step, episode, state = began
                generator.set_state(state)
            else:
                rollout["reward"] = scale(rollout["reward"], rollout["ended"])
                networks = actor, critic, actor_optimizer, critic_optimizer
                metrics = improve(*networks, rollout, args, generator, iteration >= args.critic_warmup)
                iteration += 1

        # Log, and read from the device, which waits.
        progress.set_description("pretraining" if before < args.offline_steps else "training", refresh=False)
        progress.update(step - before)
        if step > before and (step % args.log_frequency == 0 or step > args.offline_steps or step == last_step):
            require_finite(step, metrics)
            for tag, value in metrics.items():
                writer.add_scalar(tag, value, step)
            writer.add_scalar("charts/SPS", (step - clock_step) / (time.perf_counter() - clock), step)
            clock, clock_step = time.perf_counter(), step
        paused = time.perf_counter()
        # Evaluate.
        if due(args.eval_frequency, before, step):
            evaluated = log_evaluation()
        # Checkpoint: that of the last step says that all is done.
        stopping = bool(STOP)  # a signal that comes later counts at the next step
        if stopping or step == last_step or due(args.checkpoint_frequency, before, step):
            save()
        clock += time.perf_counter() - paused  # steps/s is of training alone
    for opened in {progress, writer, lock, *envs, eval_env}:  # without evaluations the last is one of those
        opened.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process may be a notebook's, and go on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if STOP and (step < last_step or not evaluated):
        print(f"interrupted; go on with: {shlex.join([sys.executable, sys.argv[0], '--resume', path])}")
        raise SystemExit(128 + STOP[0])
    return path


# Housekeeping: whoever reads for the algorithm stops here.
FORMAT = "ReinFlow 4"  # of a checkpoint: another one's cannot be resumed
ROBOMIMIC = {"lift": "Lift", "can": "PickPlaceCan", "square": "NutAssemblySquare"}
OGBENCH = re.compile(r"(cube-(?:single|double|triple|quadruple)|scene)-(play|noisy)-singletask(-task[1-5])?-v0")
OBS_KEYS = "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"  # in a robomimic file
PRESETS = {  # as in the other scripts
    "cube-single": dict(sparse=False, step_limit=200),
    "cube-double": dict(sparse=False, step_limit=500),
    "cube-triple": dict(sparse=False, step_limit=1000),
    "cube-quadruple": dict(sparse=False, step_limit=1000),
    "scene": dict(sparse=True, step_limit=750),
    "lift": dict(sparse=False, step_limit=500),
    "can": dict(sparse=False, step_limit=500),
    "square": dict(sparse=False, step_limit=500),
}
LIMITS = {"seed": (0, 2**32 - 1)}  # of a larger one PyTorch's generator for CPUs takes the last 32 bits
LIMITS |= {"gamma": (0, 1), "ema": (0, 1), "gae_lambda": (0, 1), "clip_coef": (0, 1)}
LIMITS |= {"min_std": (1e-4, 2), "max_std": (1e-4, 2), "critic_hidden_dim": (2, 2**14)}


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


class Dataset:
    """The file's steps, one row each, on one device."""

    def __init__(self, data: dict[str, np.ndarray], device: torch.device):
        self.count = len(data["reward"])
        columns = [data[name].reshape(self.count, -1) for name in ("obs", "action", "reward", "terminal")]
        self.widths = [column.shape[1] for column in columns]
        self.rows = torch.from_numpy(np.concatenate(columns, axis=1)).to(device)
        # What tells the dataset from another.
        self.fingerprint = [self.count, self.rows.view(torch.int32).sum().item()]

    def column(self, name: str) -> torch.Tensor:
        """obs, action, reward or terminal of all steps (N, n)."""
        return self.split(self.rows)[name]

    def split(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows (.., width) -> name -> (.., n)."""
        return dict(zip(("obs", "action", "reward", "terminal"), rows.split(self.widths, dim=-1), strict=True))

    def sample(self, batch: int, length: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Chunks that start uniformly among the steps: obs (B, n), action (B, length m), valid (B, length), 0 behind
        the end of an episode."""
        start = torch.randint(self.count - length + 1, (batch,), generator=generator, device=generator.device)
        steps = start[:, None] + torch.arange(length, device=start.device)
        rows = self.split(self.rows.index_select(0, steps.flatten()).unflatten(0, steps.shape))  # rows[steps] is slower
        ended = rows["terminal"].squeeze(2).cumsum(1) > 0
        valid = torch.cat([torch.ones_like(ended[:, :1]), ~ended[:, :-1]], dim=1).float()
        return {"obs": rows["obs"][:, 0], "action": rows["action"].flatten(1), "valid": valid}


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


def restore(run: str, checkpoint: dict, parts: dict, generator: torch.Generator):
    """Put the networks and optimizers back, and the generator."""
    try:
        generator.set_state(checkpoint["generator"])
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
    except Exception as error:  # other networks under the same flags, or a GPU's random numbers
        kinds = "another version of the script or the task, or of another kind of device"
        require(False, f"--resume {run}: checkpoint.pt is of {kinds} ({error})")


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
