"""Random flags, action boxes, dimensions and observations: the density is finite and right, actions stay in the box, or
one clear line ends the program before anything was written."""

import importlib
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import FLOWS, SCRIPTS
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

# Not warnings of ours: Gymnasium's about boxes without a width, NumPy's about bounds whose difference overflows.
pytestmark = pytest.mark.filterwarnings("ignore:.*Box action space", "ignore:overflow encountered")
quick = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
magnitudes = [1.0, 1e-3, 40.0, 1e-6, 1e6, 1e-30, 1e30]
observations = st.sampled_from([1.0, 0.0, 1e-6, 1e3, 1e6])


class AnyEnv(gym.Env):
    """Observations of any size and spaces that the test chooses."""

    box, obs_dim, obs_scale = None, 1, 1.0

    def __init__(self):
        self.action_space = self.box
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.obs_dim,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self._obs(), float(self.np_random.normal()), self.np_random.random() < 0.2, False, {}

    def _obs(self):
        return (self.obs_scale * self.np_random.normal(size=self.obs_dim)).astype(np.float32)


gym.register("Any-v0", AnyEnv, max_episode_steps=5)


def mostly(sound, other):
    return st.integers(0, 15).flatmap(lambda i: other if i == 15 else sound)


@st.composite
def boxes(draw, magnitudes):
    """Bounds on any scale and on any side of 0; some without a width, or with one that overflows."""
    scales, dims = st.sampled_from(magnitudes), st.integers(1, 6)
    widths = draw(mostly(st.just(scales), st.just(st.sampled_from([0.0, 3e38]))))
    sides = [(draw(st.sampled_from([-1, 0, 1])), draw(scales), draw(widths)) for _ in range(draw(dims))]
    center = np.array([side * scale for side, scale, _ in sides])
    width = np.array([max(width, abs(side) * scale * 1e-5 * (width > 0)) for side, scale, width in sides])
    return gym.spaces.Box(np.float32(center - width), np.float32(center + width))


@st.composite
def flags(draw):
    low = draw(mostly(st.floats(-20, 1.9), st.floats()))
    flags = {"K": draw(st.integers(1, 10)), "drift": draw(st.booleans()), "bounded": draw(st.booleans())}
    widths = st.floats(0.05, 2 - low if flags["drift"] else 8) if low < 1.9 else st.just(1.0)
    flags |= {"log_std_min": low, "log_std_max": low + draw(mostly(widths, st.floats()))}
    flags |= {"alpha": draw(mostly(st.floats(1e-4, 2), st.floats())), "autotune": draw(st.booleans())}
    return flags | {"normalize_obs": draw(st.booleans())}


def arguments(module, flags: dict, **more):
    """Args of a script, of the flags that it has."""
    names = {"K": "sampling_steps", "drift": "drift_correction", "bounded": "bounded_candidate"}
    flags = {names.get(name, name): value for name, value in flags.items()} | more
    flags |= {"hidden_dim": 8, "d_model": 8, "n_layers": 1, "env_id": "Any-v0", "device": "cpu"}
    return module.Args(**{name: value for name, value in flags.items() if hasattr(module.Args, name)})


def accepted(module, args, box, obs_dim, capsys, obs_scale=1.0):
    """Whether the program starts; if not it ends with one line and exit code 2."""
    AnyEnv.box, AnyEnv.obs_dim, AnyEnv.obs_scale = box, obs_dim, obs_scale
    capsys.readouterr()
    try:
        module.prepare(args)
        module.make_env(args)
    except SystemExit as error:
        message = capsys.readouterr().err
        assert error.code == 2 and message.startswith("error: --") and message.count("\n") == 1, message
        event("refused")
        return False
    return True


def log_cosh(x):
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)


def independent_log_prob(actor, obs, path, drift):
    """The path's log-density by torch.distributions, and how far rounding in its residuals may move it."""
    K, log_prob, slack = len(path) - 1, Normal(0.0, 1.0).log_prob(path[0]), 0
    for k, (x, following) in enumerate(zip(path[:-1], path[1:], strict=True)):
        t = k / K
        v, log_std = actor.velocity(actor.norm(obs), x, actor.t[k])
        sigma = torch.exp(log_std)
        score = (t * v - x) / (1 - t)  # of a flow-matching field's marginal at t
        b = v + sigma**2 / 2 * score if drift else v
        mean, step = x + b / K, sigma / math.sqrt(K)
        log_prob = log_prob + Normal(mean, step).log_prob(following)
        rounding = 64 * 2.2e-16 * (x.abs() + mean.abs() + following.abs() + (b / K).abs()) / step
        slack = slack + rounding * (1 + ((following - mean) / step).abs()) + rounding**2
    return log_prob.sum(-1), slack.sum(-1)


@pytest.mark.parametrize("name", SCRIPTS)
@settings(quick, max_examples=300)
@given(
    flags(), boxes(magnitudes), st.integers(1, 12), observations, st.sampled_from([0.0, 1.0, 10.0]), st.integers(0, 9)
)
def test_density_is_finite_and_right_and_actions_are_in_the_box(name, capsys, flags, box, obs_dim, scale, gain, seed):
    """gain multiplies the initial weights, as training may."""
    module = importlib.import_module(name)
    args = arguments(module, flags)
    if not accepted(module, args, box, obs_dim, capsys):
        return
    torch.manual_seed(seed)
    actor = module.Actor(obs_dim, box, args).eval()
    with torch.no_grad():
        for parameter in actor.velocity.parameters() if name in FLOWS else actor.parameters():
            parameter.mul_(1 + gain)
    obs = scale * torch.randn(5, obs_dim)
    obs[0] = 0
    noise = torch.randn(actor.noise_factors, 5, len(box.low))

    # Single precision, as in training: finite, and in the box as the environment gets it.
    with torch.no_grad():
        action, log_prob = actor(obs, noise)
        evaluated = actor.act(obs, noise, deterministic=True)
    assert log_prob.isfinite().all()
    for a in (action.numpy(), evaluated.numpy()):
        assert np.isfinite(a).all()
        rounding = 4 * np.spacing(np.maximum(abs(box.low), abs(box.high)))
        assert (a >= box.low - rounding).all() and (a <= box.high + rounding).all()
        assert all(box.contains(row) for row in a.clip(box.low, box.high))

    # Double precision: the formula, against torch.distributions.
    actor, obs, noise = actor.double(), obs.double(), noise.double()
    with torch.no_grad():
        path, log_stds = actor.rollout(obs, noise)
        action, log_prob = actor(obs, noise)
        if name in FLOWS:
            expected, slack = independent_log_prob(actor, obs, path, flags["drift"])
        else:
            (x,), (log_std,) = path, log_stds
            mean = actor.rollout(obs, noise, deterministic=True)[0][-1]
            rounding = 64 * 2.2e-16 * (x.abs() + mean.abs()) / log_std.exp()
            expected = Normal(mean, log_std.exp()).log_prob(x).sum(-1)
            slack = (rounding * (1 + noise[0].abs()) + rounding**2).sum(-1)
        slack = slack + 5e-9 * action.shape[1]  # softplus is the identity from 20 on, where it is off by 2e-9
        expected = expected - (actor.scale.log() - 2 * log_cosh(path[-1])).sum(-1)
        assert ((log_prob - expected).abs() <= 1e-9 * (1 + expected.abs()) + slack).all()
        assert torch.allclose(action, actor.scale * torch.tanh(path[-1]) + actor.bias)


@st.composite
def trainings(draw):
    """Flags of a run of a few steps, mostly sound."""
    positive = st.integers(1, 9)
    integers = ("batch_size", "buffer_size", "policy_frequency", "log_frequency", "eval_episodes", "critic_hidden_dim")
    flags = {name: draw(positive) for name in integers}
    flags |= {name: draw(st.integers(0, 9)) for name in ("eval_frequency", "checkpoint_frequency")}
    flags["learning_starts"] = draw(positive)
    flags |= {name: draw(st.booleans()) for name in ("crossq", "normalize_obs", "autotune")}
    flags |= {"total_timesteps": draw(st.integers(1, 12)), "gamma": draw(st.floats(0, 1)), "tau": draw(st.floats(0, 1))}
    flags |= {"adam_beta1": draw(st.floats(0, 0.999)), "seed": draw(st.integers(0, 2**32 - 1))}
    flags |= {name: draw(st.floats(0, 1e-2)) for name in ("policy_lr", "q_lr", "alpha_lr")}
    flags["total_timesteps"] += flags["learning_starts"]
    flags["batch_size"] = min(flags["batch_size"], flags["buffer_size"], flags["learning_starts"]) or 1
    if draw(st.integers(0, 15)) == 15:  # one that is not
        name = draw(st.sampled_from(sorted(flags)))
        flags[name] = draw(st.integers() if isinstance(flags[name], int) else st.floats())
    return flags


@pytest.mark.parametrize("name", SCRIPTS)
@settings(quick, max_examples=60)
@given(trainings(), flags(), boxes(magnitudes[:-2]), st.integers(1, 4), st.sampled_from([1.0, 0.0, 1e6, 1e30]))
def test_what_the_checks_accept_can_train(name, capsys, tmp_path_factory, training, flags, box, obs_dim, scale):
    module, folder = importlib.import_module(name), tmp_path_factory.mktemp("runs")
    flags = {key: value for key, value in flags.items() if key not in training} | training
    args = arguments(module, flags, compile=False, run_dir=str(folder))
    fine = accepted(module, args, box, obs_dim, capsys, scale)
    assume(training["total_timesteps"] < 100 and training["critic_hidden_dim"] < 100)
    try:
        assert module.main(args).startswith(str(folder)) and fine
    except SystemExit as error:
        message = capsys.readouterr().err if error.code == 2 else str(error)
        event("refused" if error.code == 2 else "ended")
        assert (error.code != 2) == fine and message.startswith("error: "), message
        if fine:
            assert "not finite" in message and (scale == 1e30 or args.gamma and max(box.high - box.low) > 1e20)
        else:
            assert not any(folder.iterdir())
