"""The baselines: their mathematics against closed forms and brute force, exact resume, isolation, and learning."""

import dataclasses
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import BOX, ROOT, scalars

sys.path.insert(0, str(ROOT / "baselines"))
import dime
import flowrl
import ppo
import qsm

BASELINES = ("ppo", "qsm", "dime", "flowrl")
OFF_POLICY = (qsm, dime, flowrl)
HALF_BOX = gym.spaces.Box(-0.4, 0.4, (2,))  # Humanoid's bounds


@pytest.fixture(params=BASELINES)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def usual_signals():
    """A run's signal handlers end with its process: here, with the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for module in (ppo, *OFF_POLICY):
        module.STOP.clear()


class Unrepeatable(gym.Env):
    """Episodes of 7 steps whose observations are random whatever the seed."""

    observation_space, action_space = gym.spaces.Box(-np.inf, np.inf, (2,)), BOX

    def __init__(self, render_mode=None):
        self.random = np.random.default_rng()

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.random.normal(size=2), {}

    def step(self, action):
        self.steps += 1
        return self.random.normal(size=2), 1.0, self.steps == 7, False, {}


gym.register("Unrepeatable-v0", Unrepeatable)
gym.register("Swimming-v0", "gymnasium.envs.mujoco.swimmer_v4:SwimmerEnv", max_episode_steps=13)


def small_args(module, **flags):
    """Args of a run of seconds."""
    base = {"env_id": "InvertedPendulum-v4", "total_timesteps": 120, "eval_frequency": 60, "eval_episodes": 2}
    base |= {"log_frequency": 10, "checkpoint_frequency": 0, "compile": False, "device": "cpu", "hidden_dim": 8}
    if module is ppo:
        base |= {"num_steps": 32, "num_minibatches": 2, "update_epochs": 2}
    else:
        base |= {"learning_starts": 30, "batch_size": 16, "buffer_size": 1000, "critic_hidden_dim": 8}
    return module.Args(**(base | ({"sampling_steps": 3} if module is dime else {}) | flags))


def make_batch(n: int, obs_dim: int, box: gym.spaces.Box) -> dict[str, torch.Tensor]:
    batch = {name: torch.randn(n, obs_dim) for name in ("obs", "next_obs")}
    unit = torch.rand(n, len(box.low))
    batch["action"] = torch.as_tensor(box.low) + unit * torch.as_tensor(box.high - box.low)
    return batch | {"reward": torch.randn(n), "terminated": torch.zeros(n)}


# PPO.


def test_gae_stops_at_episode_ends_and_cuts():
    rng, n, gamma, lam = np.random.default_rng(0), 12, 0.9, 0.8
    reward, value, next_value = rng.normal(size=(3, n))
    terminated, ended = np.zeros(n), np.zeros(n)
    terminated[4] = ended[4] = ended[8] = 1  # a terminal step and a time limit
    for cut in (terminated, ended):
        delta = reward + gamma * (1 - cut) * next_value - value
        found = ppo.gae(reward, value, next_value, cut, ended, gamma, lam)
        for t in range(n):
            last = next((i for i in range(t, n) if ended[i]), n - 1)
            expected = sum((gamma * lam) ** (i - t) * delta[i] for i in range(t, last + 1))
            assert found[t] == pytest.approx(expected, abs=1e-5)


def test_gae_of_consistent_values_is_the_mixture_of_returns():
    rng, n, gamma, lam = np.random.default_rng(1), 9, 0.9, 0.8
    reward, value = rng.normal(size=n), rng.normal(size=n + 1)
    zero = np.zeros(n)
    found = ppo.gae(reward, value[:-1], value[1:], zero, zero, gamma, lam)
    for t in range(n):
        mixture, longest = 0.0, n - t
        for m in range(1, longest + 1):
            multi = sum(gamma**i * reward[t + i] for i in range(m)) + gamma**m * value[t + m] - value[t]
            mixture += multi * (lam ** (m - 1) if m == longest else (1 - lam) * lam ** (m - 1))
        assert found[t] == pytest.approx(mixture, abs=1e-5)


@pytest.mark.parametrize("squash", (False, True))
def test_the_stored_sample_gives_ratio_one_even_where_tanh_saturates(squash):
    torch.manual_seed(0)
    actor, critic = ppo.Actor(3, BOX, ppo.Args(squash=squash)), ppo.mlp(3, 64, 1, 1.0)
    obs, x = torch.randn(64, 3), 30 * torch.randn(64, 2)  # most far beyond where tanh rounds to 1
    action = actor.to_env(x)
    assert not squash or ((actor.scale * -1.0001 + actor.bias <= action) & (action <= 1.0001 * 3.0)).all()
    batch = {"normal_obs": obs, "x": x, "log_prob": actor.log_prob(obs, x).detach(), "advantage": torch.randn(64)}
    batch["value"] = critic(obs).squeeze(1).detach()
    loss, metrics = ppo.ppo_loss(actor, critic, batch, ppo.Args(squash=squash))
    loss.backward()
    assert metrics["losses/approx_kl"].abs() < 1e-6 and metrics["losses/clip_fraction"] == 0
    assert metrics["losses/policy_loss"].abs() < 1e-5  # normalised advantages of mean 0
    assert all(p.grad.isfinite().all() for p in actor.parameters())
    normal = torch.distributions.Normal(actor.net(obs), actor.log_std.exp())
    torch.testing.assert_close(actor.log_prob(obs, x), normal.log_prob(x).sum(1))
    torch.testing.assert_close(actor.entropy(), normal.entropy()[0].sum())


@pytest.mark.parametrize("clip_value", (True, False))
def test_ppo_loss_written_out(clip_value):
    torch.manual_seed(0)
    args = ppo.Args(clip_value=clip_value, ent_coef=0.03, vf_coef=0.7)
    actor, critic = ppo.Actor(3, BOX, args).double(), ppo.mlp(3, 8, 1, 1.0).double()
    obs, x, (advantage, value, jitter) = torch.randn(64, 3), torch.randn(64, 2), torch.randn(3, 64).double()
    obs, x = obs.double(), x.double()
    normal = torch.distributions.Normal(actor.net(obs), actor.log_std.exp())
    log_prob = normal.log_prob(x).sum(1)
    batch = {"normal_obs": obs, "x": x, "advantage": advantage, "value": value}
    batch["log_prob"] = (log_prob + 0.4 * jitter).detach()
    ratio, scaled = (log_prob - batch["log_prob"]).exp(), (advantage - advantage.mean()) / advantage.std()
    gain = torch.where(scaled > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8)) * scaled
    change = critic(obs).squeeze(1) - value
    error = (change - advantage) ** 2
    if clip_value:
        error = torch.maximum(error, (change.clamp(-0.2, 0.2) - advantage) ** 2)
    expected = -gain.mean() + 0.7 * 0.5 * error.mean() - 0.03 * normal.entropy().sum(1).mean()
    torch.testing.assert_close(ppo.ppo_loss(actor, critic, batch, args)[0], expected)


def test_ppo_stores_the_sample_before_clipping_and_bootstraps_on_request(monkeypatch, tmp_path):
    rollouts, gae = [], ppo.gae
    monkeypatch.setattr(ppo, "gae", lambda *series: rollouts.append(series) or gae(*series))
    stored, add = [], ppo.Rollout.add
    monkeypatch.setattr(ppo.Rollout, "add", lambda self, **row: stored.append(row) or add(self, **row))
    for flag in (False, True):
        run_dir = str(tmp_path / str(flag))
        ppo.main(small_args(ppo, env_id="Counting-v0", run_dir=run_dir, bootstrap_time_limits=flag))
        _, _, _, cut, ended, *_ = rollouts[-1]
        assert ended.sum() > cut.sum() if flag else (ended == cut).all()
    x = np.stack([np.asarray(row["x"]) for row in stored])
    assert (x < BOX.low).any() and (x > BOX.high).any()


def test_running_moments_and_the_reward_scaler():
    rng = np.random.default_rng(0)
    data = rng.normal(3, 2, size=(500, 4)).astype(np.float32)
    moments = ppo.RunningMoments(4)
    for row in data:
        moments.update(torch.from_numpy(row))
    np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-3)
    np.testing.assert_allclose(moments.var, data.var(0), rtol=1e-2)
    scaler = ppo.RewardScaler(0.99)
    scaled = [scaler(1000.0, False) for _ in range(2000)]
    assert 0 < scaled[-1] < 1 and max(scaled) <= 10


# QSM.


def test_qsm_schedule():
    actor = qsm.Actor(3, BOX, qsm.Args())
    np.testing.assert_allclose(1 - actor.alpha, (0.196, 0.459, 0.636, 0.755, 0.835), atol=6e-4)
    np.testing.assert_allclose(actor.abar, (0.8041, 0.4352, 0.1585, 0.0389, 0.0064), atol=6e-5)


@pytest.mark.parametrize(
    ("own", "reference"), [(qsm.Mish(), torch.nn.Mish()), (dime.GELU(), torch.nn.GELU("tanh"))], ids=("mish", "gelu")
)
def test_activations(own, reference):
    x = torch.linspace(-100, 100, 4001).requires_grad_()
    found, expected = own(x), reference(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)), rtol=1e-5, atol=1e-5)


def test_qsm_sampler_moves_to_the_argmax_of_a_quadratic_q():
    actor, best = qsm.Actor(3, BOX, qsm.Args()), torch.tensor([0.3, -0.5])
    obs = torch.zeros(2000, 3)
    noise = actor.draw_noise(2000, torch.Generator().manual_seed(0))
    distance = {}
    for coeff in (0.0, 0.3, 1.0):  # Q = -(u - best)^2
        actor.denoise = lambda u, context, coeff=coeff: coeff * 2 * (u - best)
        distance[coeff] = (actor.sample(obs, noise) - best).abs().mean().item()
    assert distance[1.0] < 0.1 < distance[0.3] < distance[0.0]


def test_qsm_learns_to_sample_the_argmax():
    torch.manual_seed(0)
    args, best = qsm.Args(hidden_dim=32), torch.tensor([0.3, -0.5])
    actor, generator = qsm.Actor(1, BOX, args), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-3)
    for _ in range(300):
        u, obs = 2 * torch.rand(128, 2) - 1, torch.zeros(128, 1)
        k = torch.randint(actor.T, (128,))
        noisy = actor.add_noise(u, k, torch.randn(128, 2)).requires_grad_()
        q = qsm.mean_q(lambda obs, u: -(u - best).square().sum(1).expand(2, -1), obs, noisy)
        (gradient,) = torch.autograd.grad(q, noisy)
        torch.testing.assert_close(gradient, -2 * (noisy.detach() - best))  # each sample's own, at the noisy action
        optimizer.zero_grad()
        qsm.actor_loss(actor, obs, noisy.detach(), k, -gradient).backward()
        optimizer.step()
    sampled = actor.sample(torch.zeros(500, 1), actor.draw_noise(500, generator))
    assert (sampled - best).abs().mean() < 0.15


def test_qsm_regresses_on_minus_m_times_the_gradient(monkeypatch, tmp_path):
    critics, checked, critic_loss, actor_loss = [], [], qsm.critic_loss, qsm.actor_loss

    def watch_critic(critic, *rest):
        critics.append(critic)
        return critic_loss(critic, *rest)

    def watch_actor(actor, obs, noisy, k, target):
        action = noisy.clone().requires_grad_()
        mean = sum(critics[-1](obs, action)).sum() / 2
        torch.testing.assert_close(target, -7 * torch.autograd.grad(mean, action)[0])
        checked.append(target)
        return actor_loss(actor, obs, noisy, k, target)

    monkeypatch.setattr(qsm, "critic_loss", watch_critic)
    monkeypatch.setattr(qsm, "actor_loss", watch_actor)
    qsm.main(small_args(qsm, total_timesteps=40, eval_frequency=0, q_grad_coeff=7.0, run_dir=str(tmp_path)))
    assert len(checked) == 10


def test_qsm_explores_in_training_only():
    actor = qsm.Actor(3, BOX, qsm.Args())
    obs, noise = torch.randn(8, 3), actor.draw_noise(8, torch.Generator().manual_seed(0))
    other = torch.cat([noise[:-1], noise[-1:] + 1])
    torch.testing.assert_close(actor.act(obs, noise, deterministic=True), actor.act(obs, other, deterministic=True))
    assert (actor.act(obs, noise) != actor.act(obs, other)).any()


def test_qsm_evaluates_with_the_samplers_noise_or_without():
    obs, noise = torch.randn(8, 3), torch.randn(6, 8, 2, generator=torch.Generator().manual_seed(0))
    later = torch.cat([noise[:1], noise[1:] + 1])
    for flag in (False, True):
        actor = qsm.Actor(3, BOX, qsm.Args(noise_free_evaluation=flag))
        same = torch.equal(actor.act(obs, noise, deterministic=True), actor.act(obs, later, deterministic=True))
        assert same == flag and not torch.equal(actor.act(obs, noise), actor.act(obs, later))


def test_dime_scaling_rewards_is_scaling_the_atoms():
    """The same projected targets, so that a task's scale replaces a span of its own."""
    torch.manual_seed(0)
    batch, log_prob, u = scaled_batch(), torch.randn(16), 2 * torch.rand(2, 16, 2) - 1
    losses = []
    for flags, alpha in (({"v_max": 20.0, "reward_scale": 0.1}, 0.05), ({"v_max": 200.0, "reward_scale": 1.0}, 0.5)):
        torch.manual_seed(1)
        args = dime.Args(critic_hidden_dim=8, atoms=11, **flags)
        losses.append(dime.critic_loss(dime.Critic(3, 2, args), batch, *u, log_prob, torch.tensor(alpha), args)[0])
    torch.testing.assert_close(*losses)


def scaled_batch(n: int = 16) -> dict[str, torch.Tensor]:
    return make_batch(n, 3, BOX) | {"terminated": (torch.arange(n) % 3 == 0).float()}


def test_qsm_critic_loss_in_closed_form():
    """Scaled rewards, the noisy action in the target, the smaller of the target's heads."""
    torch.manual_seed(0)
    args = qsm.Args(hidden_dim=8, critic_hidden_dim=8, reward_scale=0.3, gamma=0.9, exploration_noise=0.5)
    critic, target, batch = qsm.Critic(3, 2, 8), qsm.Critic(3, 2, 8), scaled_batch()
    actor = qsm.frozen_view(qsm.Actor(3, BOX, args))
    noise = actor.draw_noise(16, torch.Generator().manual_seed(0))
    sampled = actor.sample(batch["next_obs"], noise)
    heads = target(batch["next_obs"], (sampled + 0.5 * noise[-1]).clamp(-1, 1))
    assert not torch.allclose(*heads)
    goal = 0.3 * batch["reward"] + 0.9 * (1 - batch["terminated"]) * torch.minimum(*heads)
    q = critic(batch["obs"], actor.to_unit(batch["action"]))
    loss, metrics = qsm.critic_loss(critic, target, actor, batch, noise, args)
    torch.testing.assert_close(loss, ((q - goal) ** 2).mean(1).sum())
    torch.testing.assert_close(metrics["policy/at_bounds"], (sampled.abs() == 1).float().mean())


# DIME.


def test_dime_starts_with_flax_weights():
    """Variance 1 / fan_in, cut off at two deviations, zero biases; the first layer as the one layer it is."""
    torch.manual_seed(0)
    args = dime.Args(hidden_dim=256, critic_hidden_dim=256)
    actor, critic = dime.Actor(40, BOX, args), dime.Critic(40, 2, args)
    first = (actor.from_obs, actor.from_x, actor.from_time)
    cases = [(layer, 40 + 2 + 256) for layer in first] + [(actor.net[1], 256), (actor.time[0], 512)]
    cases += [(layer, layer.in_features) for layer in critic.layers[0]]
    for layer, fan_in in cases:
        tolerance = 4 / layer.weight.numel() ** 0.5
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=tolerance)
        assert layer.weight.abs().max() <= 2 * fan_in**-0.5 / 0.8796
        assert layer.bias is None or not layer.bias.any()


def test_dime_schedule():
    """eta_n = softplus(beta) c(n) / softplus(friction), c(n) = .999 cos^2(pi/2 (1.008 - (N - n)/N) / 1.008) + .001."""
    actor = dime.Actor(2, BOX, dime.Args(sampling_steps=16))
    for n in (0, 1, 7, 15):
        expected = 0.999 * np.cos(np.pi / 2 * (1.008 - (16 - n) / 16) / 1.008) ** 2 + 0.001
        assert actor.schedule[n].item() == pytest.approx(expected, rel=1e-5)


def test_projection():
    torch.manual_seed(0)
    atoms = torch.linspace(-2, 2, 5)
    p = torch.rand(7, 5).softmax(1)
    values = 3 * torch.randn(7, 5)
    found = dime.project(p, values, atoms)
    torch.testing.assert_close(found.sum(1), torch.ones(7))
    inside = values.clamp(-2, 2)
    torch.testing.assert_close(found @ atoms, (p * inside).sum(1))  # the mean is kept, but for the clipping
    expected = torch.zeros(7, 5)
    for b in range(7):
        for j in range(5):
            for i in range(5):
                expected[b, i] += p[b, j] * max(0, 1 - abs(inside[b, j].item() - atoms[i].item()))
    torch.testing.assert_close(found, expected)
    delta = torch.eye(5)
    torch.testing.assert_close(dime.project(delta, atoms.expand(5, 5), atoms), delta)  # each value on its atom
    torch.testing.assert_close(dime.project(p, torch.full((7, 5), 9.0), atoms), delta[4].expand(7, 5))
    torch.testing.assert_close(dime.project(p, torch.full((7, 5), -9.0), atoms), delta[0].expand(7, 5))


def controlled_chain(dim: int = 1) -> dime.Actor:
    """A double-precision chain with a control that is far from 0."""
    torch.manual_seed(1)
    args = dime.Args(sampling_steps=5, hidden_dim=16, v_max=1.0)
    actor = dime.Actor(2, gym.spaces.Box(-1, 1, (dim,)), args).double()
    torch.nn.init.normal_(actor.net[-1].weight, std=1.0)
    return actor.requires_grad_(False)


@pytest.mark.parametrize("dim", (1, 2))
def test_dime_importance_identity(dim):
    actor, n = controlled_chain(dim), 400_000
    noise = torch.randn(6, n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, log_weight = actor.rollout(torch.ones(n, 2, dtype=torch.float64), noise)
    start = torch.distributions.Normal(0.0, 2.5).log_prob(2.5 * noise[0]).sum(1)
    for mean, std in ((0.0, 2.5), (1.0, 1.5)):
        density = torch.distributions.Normal(mean, std).log_prob(x).sum(1)
        ratio = torch.exp(log_weight - start + density)
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / n**0.5 and ratio.std() / n**0.5 < 0.02


def test_dime_cost_bounds_the_entropy():
    actor, n = controlled_chain(), 400_000
    noise = torch.randn(6, n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, running, ell = actor(torch.ones(n, 2, dtype=torch.float64), noise)
    # The entropy of u is that of x_N plus E[log(1 - tanh^2)]; the former from a histogram.
    x, _ = actor.rollout(torch.ones(n, 2, dtype=torch.float64), noise)
    mass, edges = np.histogram(x.numpy(), bins=200)
    mass = mass / n
    entropy = -(mass[mass > 0] * np.log(mass[mass > 0] / np.diff(edges)[0])).sum()
    entropy += np.log(1 - np.tanh(x.numpy()) ** 2 + 1e-300).mean()
    assert -entropy - 0.01 < ell.mean() < -entropy + 2
    torch.testing.assert_close(u, torch.tanh(x))
    start = torch.distributions.Normal(0.0, 2.5).log_prob(2.5 * noise[0]).sum(1)
    torch.testing.assert_close(ell - running, start)


def test_dime_starts_as_the_prior_with_large_steps_first():
    actor = dime.Actor(2, BOX, dime.Args())
    assert actor.schedule[0] > 0.99 and 0.001 < actor.schedule[-1] < 0.02 and (actor.schedule.diff() < 0).all()
    steps = torch.nn.functional.softplus(actor.step_size) / torch.nn.functional.softplus(actor.friction)
    torch.testing.assert_close(steps, torch.full((2,), 0.1))
    x, log_weight = actor.rollout(torch.ones(9000, 2), actor.draw_noise(9000, torch.Generator().manual_seed(0)))
    assert abs(x.std() / 2.5 - 1) < 0.03 and log_weight.abs().mean() < 1


def test_dime_evaluates_with_noise_unless_told_otherwise():
    obs = torch.randn(8, 2)
    for flag in (False, True):
        actor = dime.Actor(2, BOX, dime.Args(noise_free_evaluation=flag))
        noise = actor.draw_noise(8, torch.Generator().manual_seed(0))
        same = torch.equal(actor.act(obs, noise), actor.act(obs, noise, deterministic=True))
        assert same != flag


@pytest.mark.parametrize("distributional", (True, False))
def test_dime_update_counts(monkeypatch, tmp_path, distributional):
    calls = {"critic_loss": 0, "mean_value": 0}
    for function in calls:
        original = getattr(dime, function)

        def counting(*inputs, function=function, original=original):
            calls[function] += 1
            return original(*inputs)

        monkeypatch.setattr(dime, function, counting)
    dime.main(small_args(dime, total_timesteps=60, run_dir=str(tmp_path), distributional=distributional))
    assert calls == {"critic_loss": 60, "mean_value": 20}  # 30 steps with 2 critic updates, an actor's every 3 of them


def test_dime_s_actor_descends_alpha_log_p_minus_q(monkeypatch, tmp_path):
    log_probs, values, forward, mean_value = [], [], dime.Actor.forward, dime.mean_value

    def watch_actor(actor, obs, noise):
        made = forward(actor, obs, noise)
        if actor.training:  # the critic's target takes a frozen view
            log_probs.append(made[2].detach())
        return made

    def watch_value(*inputs):
        values.append(mean_value(*inputs))
        return values[-1]

    monkeypatch.setattr(dime.Actor, "forward", watch_actor)
    monkeypatch.setattr(dime, "mean_value", watch_value)
    flags = {"total_timesteps": 40, "log_frequency": 1, "policy_frequency": 1, "updates_per_step": 1}
    flags |= {"alpha": 0.7, "autotune": False, "eval_frequency": 0}
    run = dime.main(small_args(dime, run_dir=str(tmp_path), **flags))
    expected = [(0.7 * p - q).mean().item() for p, q in zip(log_probs, values, strict=True)]
    assert len(expected) == 10
    assert [value for _, value in scalars(run)["losses/actor_loss"]] == pytest.approx(expected, rel=1e-4)


def test_dime_critic_loss_is_that_of_one_joint_pass():
    torch.manual_seed(0)
    args = dime.Args(atoms=11, v_max=5.0, critic_hidden_dim=8, gamma=0.9, reward_scale=0.3)
    critic, batch, alpha, log_prob = dime.Critic(3, 2, args), make_batch(16, 3, BOX), torch.tensor(0.3), torch.randn(16)
    u, next_u = 2 * torch.rand(2, 16, 2) - 1
    batch["terminated"][:5] = 1
    loss, _ = dime.critic_loss(critic, batch, u, next_u, log_prob, alpha, args)
    found = torch.autograd.grad(loss, critic.parameters())
    logits = critic(torch.cat([batch["obs"], batch["next_obs"]]), torch.cat([u, next_u]))  # statistics of both
    discount = 0.9 * (1 - batch["terminated"])[:, None]
    values = 0.3 * batch["reward"][:, None] + discount * (critic.atoms - (alpha * log_prob)[:, None])
    targets = [dime.project(head.detach().softmax(1), values, critic.atoms) for head in logits[:, 16:]]
    target, expected = (targets[0] + targets[1]) / 2, 0.0
    for head in logits[:, :16]:
        entropy = torch.distributions.Categorical(logits=head).entropy().mean()
        expected = expected + torch.nn.functional.cross_entropy(head, target) - 0.005 * entropy
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, critic.parameters()))


# FlowRL.


def test_expectile():
    data = torch.distributions.Gamma(2.0, 1.0).sample((5000,))
    found = {}
    for expectile in (0.5, 0.9):
        value = torch.zeros((), requires_grad=True)
        optimizer = torch.optim.LBFGS([value], max_iter=50)

        def closure(expectile=expectile, optimizer=optimizer, value=value):
            optimizer.zero_grad()
            loss = flowrl.expectile_loss(data - value, expectile)
            loss.backward()
            return loss

        optimizer.step(closure)
        found[expectile] = value.item()
        above, below = (data - value).relu().mean(), (value - data).relu().mean()
        assert expectile * above.item() == pytest.approx((1 - expectile) * below.item(), rel=1e-2)
    assert found[0.5] == pytest.approx(data.mean().item(), rel=1e-3) and found[0.9] > found[0.5] + 0.5


def test_flowrl_critic_loss_in_closed_form():
    """Scaled rewards; Q bootstraps from itself at the policy's action, Q* from V, and V is an expectile of Q*."""
    torch.manual_seed(0)
    args, batch = flowrl.Args(hidden_dim=8, reward_scale=0.3, gamma=0.9, expectile=0.8), scaled_batch()
    critic, target = (
        torch.nn.ModuleDict({name: flowrl.Critic(3, 2, 8) for name in ("q", "buffer_q")}) for _ in range(2)
    )
    critic["value"] = flowrl.value_net(3, 8)
    actor = flowrl.frozen_view(flowrl.Actor(3, BOX, args))
    noise = actor.draw_noise(16, torch.Generator().manual_seed(0))
    here, there = (batch["obs"], batch["action"]), (batch["next_obs"], actor.act(batch["next_obs"], noise))
    reward, discount = 0.3 * batch["reward"], 0.9 * (1 - batch["terminated"])
    goal = reward + discount * torch.minimum(*target["q"](*there))
    buffer_goal = reward + discount * critic["value"](batch["next_obs"])[:, 0]
    error = torch.minimum(*target["buffer_q"](*here)) - critic["value"](batch["obs"])[:, 0]
    expected = ((critic["q"](*here) - goal) ** 2).mean(1).sum()
    expected += ((critic["buffer_q"](*here) - buffer_goal) ** 2).mean(1).sum()
    expected += (torch.where(error < 0, 0.2, 0.8) * error**2).mean()
    loss, buffer_q, _ = flowrl.critic_loss(critic, target, actor, batch, noise, args)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(buffer_q, torch.minimum(*critic["buffer_q"](*here)))


def test_flowrl_weights():
    q = torch.zeros(4)
    gain = torch.tensor([-5.0, 0.0, 1.0, 1.5])
    weight = flowrl.weights(gain, q, 0.1)
    mean = 2.5 / 4
    torch.testing.assert_close(weight, 0.1 * torch.exp(torch.tensor([-mean, -mean, 1 - mean, 1.5 - mean])))
    weight = flowrl.weights(torch.tensor([0.0, 1e4, 2e4]), torch.zeros(3), 0.1)  # exp overflows
    torch.testing.assert_close(weight, torch.tensor([1e-3, 0.1, 1.0]))


def test_midpoint_of_a_linear_velocity():
    actor = flowrl.Actor(3, BOX, flowrl.Args())
    actor.velocity = lambda obs, x, t: -0.7 * x + 0.4 * t
    noise = torch.randn(1, 50, 2)
    start = noise[0].clamp(-1, 1)
    expected = start * (1 - 0.7 + 0.7**2 / 2) + 0.4 / 2
    torch.testing.assert_close(actor.flow(torch.zeros(50, 3), noise), expected)


@pytest.mark.parametrize("per_sample", (False, True))
def test_flowrl_actor_loss_in_closed_form(per_sample):
    """The weights act through their mean unless they are asked for by sample; only what is better than mu counts."""
    torch.manual_seed(0)
    batch, actor = make_batch(32, 3, BOX), flowrl.Actor(3, BOX, flowrl.Args(hidden_dim=8))
    critic = torch.nn.ModuleDict({"q": flowrl.Critic(3, 2, 8)}).requires_grad_(False)
    args = flowrl.Args(per_sample_weights=per_sample, bc_coeff=0.1, reward_scale=1.0)
    buffer_q, noise, start, t = (
        torch.linspace(-1, 2, 32),
        torch.randn(1, 32, 2),
        2 * torch.randn(32, 2),
        torch.rand(32, 1),
    )
    loss, _ = flowrl.actor_loss(actor, critic, batch, buffer_q, noise, start, t, args)
    q = critic["q"](batch["obs"], actor.act(batch["obs"], noise)).amin(0)
    x_0, end = start.clamp(-1, 1), batch["action"]
    error = ((actor.velocity(batch["obs"], (1 - t) * x_0 + t * end, t) - (end - x_0)) ** 2).mean(1)
    gain = (buffer_q - q).clamp(min=0)
    weight = (0.1 * (gain - gain.mean()).exp()).clamp(1e-3, 1).detach()
    matching = (weight * error).mean() if per_sample else weight.mean() * error.mean()
    torch.testing.assert_close(loss, matching - q.mean())


def test_flowrl_endpoints():
    torch.manual_seed(0)
    actor, batch = flowrl.Actor(3, HALF_BOX, flowrl.Args(hidden_dim=8)), make_batch(16, 3, HALF_BOX)
    critic = torch.nn.ModuleDict({"q": flowrl.Critic(3, 2, 8)}).requires_grad_(False)
    ends = {False: batch["action"], True: torch.atanh((batch["action"] / 0.4).clamp(-0.999, 0.999))}
    for pre_tanh, end in ends.items():
        seen = []
        actor.velocity = lambda obs, x, t, seen=seen: seen.append(x) or torch.zeros_like(x)
        args = flowrl.Args(pre_tanh_endpoint=pre_tanh, bc_coeff=0.1, reward_scale=1.0)
        inputs = torch.zeros(16), torch.zeros(1, 16, 2), torch.zeros(16, 2), torch.ones(16, 1)
        flowrl.actor_loss(actor, critic, batch, *inputs, args)
        torch.testing.assert_close(seen[-1], end)


def test_flowrl_recent_transitions():
    buffer = flowrl.ReplayBuffer(50, 1, 1, torch.device("cpu"))
    for i in range(70):
        buffer.add(obs=i, action=0.0, reward=i, next_obs=0.0, terminated=0)
    generator = torch.Generator().manual_seed(0)
    assert set(flowrl.sample_recent(buffer, 2000, 7, generator)["reward"].tolist()) == set(range(63, 70))
    assert set(flowrl.sample_recent(buffer, 2000, 2048, generator)["reward"].tolist()) == set(range(20, 70))


@pytest.mark.parametrize("module", (qsm, flowrl), ids=lambda module: module.__name__)
def test_targets_follow_without_a_graph(module, tmp_path, monkeypatch):
    seen, critic_loss = [], module.critic_loss
    monkeypatch.setattr(module, "critic_loss", lambda *inputs: seen.append(inputs[1]) or critic_loss(*inputs))
    module.main(small_args(module, run_dir=str(tmp_path)))
    assert seen and not any(parameter.requires_grad for parameter in seen[-1].parameters())


# All of them.


def states(module, steps, folder, **flags) -> list[dict]:
    """Checkpoints of one run at the given steps."""
    found, path = [], None
    for step in steps:
        if path:
            module.main(module.read_args(["--resume", path, "--total-timesteps", f"{step}"]))
        else:
            flags = {"eval_frequency": 0} | flags
            path = module.main(small_args(module, total_timesteps=step, run_dir=str(folder), **flags))
        found.append(module.load_checkpoint(path))
    return found


@pytest.mark.parametrize(("module", "tau"), ((qsm, 0.2), (flowrl, 0.9)), ids=("qsm", "flowrl"))
def test_targets_take_tau_of_the_online_networks(module, tau, tmp_path):
    every = {} if module is qsm else {"policy_frequency": 1}
    old, new = states(module, (40, 41), tmp_path, tau=tau, **every)
    for key, target in new["target_critic"].items():
        expected = (1 - tau) * old["target_critic"][key] + tau * new["critic"][key]
        torch.testing.assert_close(target, expected)
        assert not torch.equal(target, old["target_critic"][key])


def test_flowrl_critics_start_alike(tmp_path, monkeypatch):
    seen, critic_loss = [], flowrl.critic_loss

    def watched(critic, *inputs):
        seen.append({name: [p.clone() for p in critic[name].parameters()] for name in ("q", "buffer_q")})
        return critic_loss(critic, *inputs)

    monkeypatch.setattr(flowrl, "critic_loss", watched)
    flowrl.main(small_args(flowrl, run_dir=str(tmp_path), total_timesteps=40))
    for q, buffer_q in zip(seen[0]["q"], seen[0]["buffer_q"], strict=True):
        assert torch.equal(q, buffer_q)
    assert any(not torch.equal(*pair) for pair in zip(seen[-1]["q"], seen[-1]["buffer_q"], strict=True))


def test_step_sizes_decay(tmp_path):
    (state,) = states(qsm, (80,), tmp_path / "qsm", policy_decay_steps=100)  # 50 updates, the last of them number 50
    rate = state["actor_optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(3e-4 * 0.5 * (1 + np.cos(np.pi * 49 / 100)))
    (state,) = states(ppo, (128,), tmp_path / "ppo")  # the fourth of four rollouts
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(3e-4 * 0.25)
    (state,) = states(ppo, (128,), tmp_path / "constant", anneal_lr=False)
    assert state["optimizer"]["param_groups"][0]["lr"] == 3e-4


def test_ppo_clips_the_gradient(tmp_path):
    """To next to nothing: Adam's epsilon then holds the weights."""
    moved = {}
    for norm in (0.5, 1e-12):
        old, new = states(ppo, (32, 64), tmp_path / f"{norm}", max_grad_norm=norm)
        moved[norm] = max((new["actor"][key] - old["actor"][key]).abs().max() for key in ("log_std",))
    assert moved[1e-12] < 1e-8 < 1e-5 < moved[0.5]


@pytest.mark.parametrize(("target", "sign"), ((1e3, 1), (-1e3, -1)))
def test_dime_temperature_meets_its_target(target, sign, tmp_path):
    old, new = states(dime, (40, 60), tmp_path, target_entropy=target)
    (before,), (after,) = old["temperature"].values(), new["temperature"].values()
    assert sign * (after - before) > 0


@pytest.mark.parametrize("module", OFF_POLICY, ids=lambda module: module.__name__)
def test_action_units_round_trip(module):
    for box in (BOX, HALF_BOX):
        actor = module.Actor(3, box, module.Args(hidden_dim=8))
        action = make_batch(20, 3, box)["action"]
        assert actor.to_unit(action).abs().max() <= 1 + 1e-6
        torch.testing.assert_close(actor.to_env(actor.to_unit(action)), action)
        noise = actor.draw_noise(200, torch.Generator().manual_seed(0))
        acted = actor.act(torch.randn(200, 3), noise)
        assert (acted >= torch.as_tensor(box.low) - 1e-6).all() and (acted <= torch.as_tensor(box.high) + 1e-6).all()


def critic_step(module, batch):
    """The critic's loss and the networks that take part in it: (loss, trained, held)."""
    torch.manual_seed(0)
    args = module.Args(hidden_dim=8, critic_hidden_dim=8, env_id="Hopper-v4")
    actor = module.frozen_view(module.Actor(3, BOX, args))
    noise = actor.draw_noise(len(batch["obs"]), torch.Generator().manual_seed(0))
    if module is dime:
        critic = dime.Critic(3, 2, args).eval()  # the batch's statistics would see the next observation
        next_u, _, log_prob = actor(batch["next_obs"], noise)
        u = actor.to_unit(batch["action"])
        return dime.critic_loss(critic, batch, u, next_u, log_prob, torch.tensor(0.1), args)[0], critic, actor
    if module is qsm:
        critic, target = qsm.Critic(3, 2, 8), qsm.Critic(3, 2, 8)
        return qsm.critic_loss(critic, target, actor, batch, noise, args)[0], critic, target
    critic, target = (
        torch.nn.ModuleDict({name: flowrl.Critic(3, 2, 8) for name in ("q", "buffer_q")}) for _ in range(2)
    )
    critic["value"] = flowrl.value_net(3, 8)
    target.requires_grad_(False)
    return flowrl.critic_loss(critic, target, actor, batch, noise, args)[0], critic, target


@pytest.mark.parametrize("module", OFF_POLICY, ids=lambda module: module.__name__)
def test_only_termination_ends_the_bootstrap_and_targets_get_no_gradient(module):
    torch.manual_seed(0)
    batch = make_batch(16, 3, BOX)
    moved = batch | {"next_obs": batch["next_obs"] + 1}
    ends = {"terminated": torch.ones(16)}
    assert critic_step(module, batch)[0] != critic_step(module, moved)[0]
    torch.testing.assert_close(critic_step(module, batch | ends)[0], critic_step(module, moved | ends)[0])
    loss, critic, held = critic_step(module, batch)
    loss.backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())
    assert all(parameter.grad is None for parameter in held.parameters())


@pytest.mark.parametrize("module", OFF_POLICY, ids=lambda module: module.__name__)
def test_presets_are_filled_in_and_recorded(module, tmp_path):
    assert all(preset.keys() == module.PUBLISHED.keys() for preset in module.PRESETS.values())
    for name, value in module.PUBLISHED.items():
        for task in ("Hopper-v4", "gymnasium.envs.mujoco:Hopper-v4"):
            assert getattr(module.Args(env_id=task), name) == module.PRESETS["Hopper"][name]
        assert getattr(module.Args(env_id="Hopper-v4", published=True), name) == value
        assert getattr(module.Args(env_id="Reacher-v4"), name) == value  # a task without a preset
        assert getattr(module.Args(env_id="Hopper-v4", published=True, **{name: 7.0}), name) == 7.0
    path = module.main(small_args(module, total_timesteps=40, run_dir=str(tmp_path)))
    for name, value in module.PRESETS["InvertedPendulum"].items():
        assert module.load_checkpoint(path)["args"][name] == value


BAD = {
    "--gamma 1.5": "--gamma 1.5: choose a number from 0 to 1",
    "--total-timesteps 0": "--total-timesteps 0: choose a number from 1 to",
    f"--seed {2**64}": "--seed",  # more than PyTorch's generators take
    "--env-id Hoper-v4": "Hopper",
    "--env-id Unbounded-v0": "bounded one-dimensional Box",
    "--device tpu": "choose auto, cpu",
    "--capture-video --eval-frequency 0": "--capture-video True: films evaluations",
    "--resume nowhere": "--resume nowhere: checkpoint.pt is missing",
    "--compile False": "write --compile or --no-compile",
}
OWN_BAD = {
    "ppo": {"--num-minibatches 3": "divisor", "--total-timesteps 5": "--num-steps", "--policy-lr -1": "from 0"},
    "qsm": {"--learning-starts 2000000": "--total-timesteps", "--reward-scale 0": "from 1e-09"}
    | {"--q-grad-coeff -1": "from 0"},
    "dime": {"--v-max -1": "from 1e-09", "--batch-size 90000": "--learning-starts", "--atoms 1": "from 2"},
    "flowrl": {"--expectile 2": "from 0 to 1", "--batch-size 90000": "raise --learning-starts"}
    | {"--batch-size 9 --buffer-size 5": "raise --buffer-size"}
    | {"--bc-coeff 0": "from 0.001"},
}


def test_bad_input_is_one_line_with_the_remedy(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    for flags, remedy in (BAD | OWN_BAD[name]).items():
        with pytest.raises(SystemExit) as ended:
            module.main(module.read_args(flags.split()))
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and remedy in error, (flags, error)
    assert not any(tmp_path.iterdir())


def test_every_number_has_its_limits(name, capsys):
    module = importlib.import_module(name)
    numbers = [field.name for field in dataclasses.fields(module.Args) if "int" in str(field.type)]
    floats = [field.name for field in dataclasses.fields(module.Args) if "float" in str(field.type)]
    cases = [("seed", 2**32 + 1)] + [(n, -1) for n in numbers]
    for number, bad in cases + [(f, value) for f in floats for value in (np.nan, np.inf, -np.inf)]:
        with pytest.raises(SystemExit):
            module.prepare(dataclasses.replace(module.Args(), **{number: bad}))
        assert f"--{number.replace('_', '-')} {bad}: choose a number from" in capsys.readouterr().err


def logged(path) -> set[tuple[str, int, float]]:
    """(tag, step, value), file by file: the names of those begun in one second are not in the order of time."""
    series = (scalars(file) for file in Path(path).glob("events*"))
    return {(tag, *point) for file in series for tag in file.keys() - {"charts/SPS"} for point in file[tag]}


def same(a, b) -> bool:
    """Whether two checkpoints, or parts of them, are equal bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def final(module, path) -> dict:
    """What a run leaves: its last checkpoint, but for what tells how it was cut, and its replay buffer."""
    state = module.load_checkpoint(path)
    file = Path(path, "replay.bin")
    state["replay"] = file.read_bytes() if file.exists() else b""
    args = {
        name: value for name, value in state["args"].items() if name not in ("resume", "run_dir", "exp_name", "compile")
    }
    return state | {"args": args}


def test_exact_resume(name, tmp_path, monkeypatch, capsys):
    """Stopped by SIGTERM in an episode, in an evaluation and in a later episode: the same bits at the end. The episodes
    have 13 steps, PPO's rollouts 32: its first and last stop are in a rollout, and in an episode older than that."""
    module = importlib.import_module(name)
    flags = {"env_id": "Swimming-v0", "eval_frequency": 20}
    whole = module.main(small_args(module, run_dir=str(tmp_path / "whole"), **flags))
    storage, evaluate, steps = module.Rollout if module is ppo else module.ReplayBuffer, module.evaluate, [38, 101]
    init, add = storage.__init__, storage.add

    def making(self, *inputs):
        init(self, *inputs)
        self.rows.fill_(np.nan)  # what memory holds after the run before may be the very rows that are missing

    def adding(self, **transition):
        row = add(self, **transition)
        if self.count in steps:
            steps.remove(self.count)
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    def evaluating(*inputs):
        if len(steps) == 1 and not seen[1:]:  # once between the two, at step 40
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*inputs)

    monkeypatch.setattr(storage, "__init__", making)
    monkeypatch.setattr(storage, "add", adding)
    monkeypatch.setattr(module, "evaluate", evaluating)
    path, seen = None, []
    while len(seen) < 3:
        args = small_args(module, run_dir=str(tmp_path / "parts"), **flags)
        if path:
            args = module.read_args(["--resume", path])
        with pytest.raises(SystemExit) as ended:
            module.main(args)
        assert ended.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "as in a notebook"
        (path,) = (str(folder) for folder in (tmp_path / "parts").iterdir())
        assert f"go on with: {sys.executable} {sys.argv[0]} --resume {path}\n" in capsys.readouterr().out
        step, _, episode_start, *_ = module.load_checkpoint(path)["counters"]
        seen.append((step, episode_start))
    assert module.main(module.read_args(["--resume", path])) == path
    assert seen == [(38, 26), (40, 39), (101, 91)]  # step, start of its episode
    assert same(final(module, path), final(module, whole))
    assert logged(path) == logged(whole)


def test_a_task_that_does_not_repeat_itself_begins_a_new_episode(name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(name)
    ends, gae = [], ppo.gae
    monkeypatch.setattr(ppo, "gae", lambda *series: ends.append(series[4].copy()) or gae(*series))
    path = module.main(small_args(module, total_timesteps=40, env_id="Unrepeatable-v0", run_dir=str(tmp_path)))
    assert "could not be repeated" not in capsys.readouterr().out
    module.main(module.read_args(["--resume", path, "--total-timesteps", "64"]))
    assert "the episode could not be repeated: a new one begins" in capsys.readouterr().out
    lengths = [(step, length) for step, length in scalars(path)["charts/episodic_length"] if step > 40]
    assert lengths == [(47, 7), (54, 7), (61, 7)]
    if module is ppo:  # no advantage reaches across the cut
        assert (1 + np.flatnonzero(np.concatenate(ends))).tolist() == [7, 14, 21, 28, 35, 40, 47, 54, 61]


def test_an_episode_that_ppo_does_not_hold_begins_anew(tmp_path, monkeypatch, capsys):
    """It keeps as many steps as an episode may have whose task has no limit: a task's own may be higher."""
    monkeypatch.setattr(ppo, "LONGEST_EPISODE", 40)
    anew = "the episode is longer than the 40 steps of it that are kept\n"
    anew += "the episode could not be repeated: a new one begins\n"
    for stop, said in ((36, ""), (60, anew)):
        flags = {"env_id": "Pendulum-v1", "eval_frequency": 0, "run_dir": str(tmp_path / str(stop))}
        path = ppo.main(small_args(ppo, total_timesteps=stop, **flags))
        capsys.readouterr()
        ppo.main(ppo.read_args(["--resume", path, "--total-timesteps", "300"]))
        out = capsys.readouterr().out
        assert said in out and ("repeated" in out) == bool(said)
        assert scalars(path)["charts/episodic_length"] == [(260, 200) if said else (200, 200)]


def test_compiled_functions_are_the_eager_ones(name, tmp_path, monkeypatch):
    """Traced whole, with their backward passes, but not translated to C++, which would take minutes; nothing is traced
    once the run has begun, when Ctrl-C would end a compiler."""
    module, compile_ = importlib.import_module(name), torch.compile
    traced, begun, start_run = [], [], module.start_run

    def backend(graph, inputs):
        assert signal.getsignal(signal.SIGTERM) is not module.stop
        traced.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda f, **flags: compile_(f, backend=backend, fullgraph=True, **flags))
    monkeypatch.setattr(module, "start_run", lambda *inputs: begun.append(len(traced)) or start_run(*inputs))
    monkeypatch.setattr(module, "has_compiler", lambda device: True)
    states = []
    for compiled in (False, True):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        flags = {"total_timesteps": 66, "run_dir": str(tmp_path), "compile": compiled, "eval_frequency": 33}
        states.append(module.load_checkpoint(module.main(small_args(module, exp_name=f"{compiled}", **flags))))
    assert begun == [0, len(traced)] and traced
    for part in ("actor", "critic"):
        for key, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][key], value, rtol=1e-4, atol=1e-4)


def test_the_compiling_pass_leaves_no_trace(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.setattr(torch, "compile", lambda function, **flags: function)
    monkeypatch.setattr(module, "has_compiler", lambda device: True)
    runs = [module.main(small_args(module, compile=i, run_dir=str(tmp_path), exp_name=str(i))) for i in (False, True)]
    assert same(*(final(module, path) for path in runs))


def test_last_evaluation_and_contradicting_flags(name, tmp_path, capsys):
    module = importlib.import_module(name)
    path = module.main(small_args(module, run_dir=str(tmp_path), eval_frequency=50))
    assert [step for step, _ in scalars(path)["eval/episodic_return"]] == [50, 100, 120], "the last step's as well"
    for flags, remedy in (
        (["--total-timesteps", "200", "--gamma", "0.5"], "--gamma 0.5: the checkpoint has 0.99"),
        ([], "finished; raise --total-timesteps"),
    ):
        with pytest.raises(SystemExit) as ended:
            module.read_args(["--resume", path, *flags])
        assert ended.value.code == 2 and remedy in capsys.readouterr().err


def test_runs_alone_from_an_empty_folder(name, tmp_path):
    shutil.copy(ROOT / "baselines" / f"{name}.py", tmp_path)
    flags = "--env-id InvertedPendulum-v4 --total-timesteps 64 --eval-frequency 32 --eval-episodes 1 --hidden-dim 8"
    flags += " --no-compile --device cpu --log-frequency 8"
    flags += " --num-steps 32" if name == "ppo" else " --learning-starts 40 --batch-size 8 --critic-hidden-dim 8"
    flags += " --num-minibatches 2" if name == "ppo" else ""
    command = [sys.executable, "-I", f"{name}.py", *flags.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    tags = scalars(run).keys()
    assert {"charts/SPS", "charts/episodic_return", "eval/episodic_return"} <= tags
    assert any(tag.startswith("losses/") for tag in tags) and any(tag.startswith("policy/") for tag in tags)
    if name != "ppo":  # of u in [-1, 1] at one state
        assert all(0 < value < 1 for _, value in scalars(run)["policy/std"])


def test_export_and_plot_take_their_runs(tmp_path):
    for module in (ppo, *OFF_POLICY):
        module.main(small_args(module, run_dir=str(tmp_path / "runs")))
    table = tmp_path / "runs.csv"
    for script, *flags in (
        ["export.py", tmp_path / "runs", "--csv", table],
        ["plot.py", "curves", "speed", "table", "--csv", table, "--out", tmp_path],
    ):
        done = subprocess.run([sys.executable, ROOT / "scripts" / script, *flags], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (\w+) \| \d+ \(1\) \|$", done.stdout, re.MULTILINE)
    assert rows == ["PPO", "QSM", "DIME", "FlowRL"] and (tmp_path / "curves.svg").exists()


# Learning.

SMALL = {"env_id": "tasks:Reach-v0", "eval_episodes": 20, "checkpoint_frequency": 0, "compile": False, "device": "cpu"}
SMALL |= {"gamma": 0.9, "policy_lr": 1e-3}
SMALL_OFF_POLICY = {"total_timesteps": 2000, "eval_frequency": 400, "learning_starts": 400, "batch_size": 64}
SMALL_OFF_POLICY |= {"hidden_dim": 64, "critic_hidden_dim": 64, "q_lr": 1e-3, "buffer_size": 4000}
SMALL_DIME = {"sampling_steps": 4, "alpha": 0.01, "updates_per_step": 1, "policy_frequency": 1}
# Flags, and the return that the best evaluation must reach: -15.2 is that of standing still, -1.8 the largest.
LEARNING = {
    "ppo": ({"total_timesteps": 4096, "eval_frequency": 512, "num_steps": 512, "num_minibatches": 8}, -8),
    "qsm": (SMALL_OFF_POLICY | {"tau": 0.05}, -11),
    "dime": (SMALL_OFF_POLICY | SMALL_DIME, -11),
    "flowrl": (SMALL_OFF_POLICY, -8),
}


def test_learns(name, tmp_path):
    """Reach-v0 of tasks.py, as the four scripts do."""
    module = importlib.import_module(name)
    flags, least = LEARNING[name]
    path = module.main(module.Args(run_dir=str(tmp_path), **(SMALL | flags)))
    returns = [value for _, value in scalars(path)["eval/episodic_return"]]
    assert returns[0] < -12 and max(returns) > least, returns
