"""The rollout and its path density: normalisation, agreement with torch.distributions, and exact marginals."""

import math

import numpy as np
import pytest
import torch
from conftest import BOX, make_actor
from torch.distributions import AffineTransform, Normal, TanhTransform

ONE_D = type(BOX)(np.array([-0.5], np.float32), np.array([1.5], np.float32))


def field_of(actor, obs, x, k, drift):
    """b(t_k, x, s) and sigma at the k-th step, through the public signature of Velocity."""
    t = torch.full((1, 1), k / actor.K, dtype=x.dtype)
    v, log_std = actor.velocity(actor.norm(obs), x, t)
    if drift:
        var, t = torch.exp(2 * log_std), k / actor.K
        v = (1 - t + t * var / 2) / (1 - t) * v - var / (2 * (1 - t)) * x
    return v, torch.exp(log_std)


@pytest.mark.parametrize("drift", [False, True])
def test_path_density_integrates_to_one(flow, drift):
    """1-D, K = 2: the integral over (A_0, A_1, a) of the density that Actor.forward returns is 1."""
    narrow = {"d_model": 16} if flow.__name__ == "sac_flow_t" else {"hidden_dim": 16}  # the grid is large
    flags = {"sampling_steps": 2, "drift_correction": drift, "log_std_max": 0.5, "log_std_min": -0.7} | narrow
    actor = make_actor(flow, box=ONE_D, **flags)
    n = 60
    grid = torch.linspace(-5, 5, n, dtype=torch.float64)
    # Cells of the action axis, finer towards the bounds, where the squashed density is steep; their widths are plain
    # differences of actions, so that the Jacobian is not assumed.
    edges = torch.tanh(torch.linspace(-6, 6, 2 * n + 1, dtype=torch.float64)) + 0.5
    a0, a1, a = (g.reshape(-1, 1) for g in torch.meshgrid(grid, grid, edges[1::2], indexing="ij"))
    width = edges[2::2] - edges[:-2:2]
    obs, path = torch.randn(1, 3, dtype=torch.float64).expand(len(a), 3), [a0, a1, torch.atanh(a - 0.5)]
    noise = [a0]
    with torch.no_grad():
        for k in range(2):
            b, sigma = field_of(actor, obs, path[k], k, drift)
            noise.append((path[k + 1] - path[k] - b / 2) / (sigma * math.sqrt(0.5)))
        recovered, log_prob = actor(obs, torch.stack(noise))
    assert torch.allclose(recovered, a)
    mass = torch.exp(log_prob).view(-1, n) @ width * (10 / (n - 1)) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=2e-3)


def test_gaussian_density_integrates_to_one():
    import sac_gaussian

    actor = make_actor(sac_gaussian, box=ONE_D)
    action = torch.linspace(-0.5, 1.5, 20001, dtype=torch.float64)[1::2].reshape(-1, 1)
    obs = torch.zeros(len(action), 3, dtype=torch.float64)
    with torch.no_grad():
        (mean,), (log_std,) = actor.rollout(obs, torch.zeros(1, len(action), 1, dtype=torch.float64))
        recovered, log_prob = actor(obs, ((torch.atanh(action - 0.5) - mean) / log_std.exp())[None])
    assert torch.allclose(recovered, action)
    assert torch.exp(log_prob).sum().item() * 2e-4 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("drift", [False, True])
def test_density_agrees_with_torch_distributions(flow, drift):
    """Path density in an asymmetric box of two scales, factor by factor from torch.distributions."""
    actor = make_actor(flow, sampling_steps=5, drift_correction=drift, log_std_max=-0.5)
    obs, noise = torch.randn(64, 3, dtype=torch.float64), torch.randn(6, 64, 2, dtype=torch.float64)
    path, _ = actor.rollout(obs, noise)
    expected = Normal(0.0, 1.0).log_prob(path[0])
    for k in range(5):
        b, sigma = field_of(actor, obs, path[k], k, drift)
        expected = expected + Normal(path[k] + b / 5, sigma / math.sqrt(5)).log_prob(path[k + 1])
    squash, scale = TanhTransform(), AffineTransform(actor.bias, actor.scale)
    expected = expected - squash.log_abs_det_jacobian(path[5], squash(path[5]))
    expected = expected - scale.log_abs_det_jacobian(squash(path[5]), None)
    action, log_prob = actor(obs, noise)
    assert torch.allclose(log_prob, expected.sum(-1), atol=1e-8)
    assert torch.allclose(action, scale(squash(path[5])))


def test_entropy_gradient_reaches_the_noise_head(script):
    """d log p / d(log sigma head) exists: the term -log(sigma sqrt(dt)) is in the density."""
    actor = make_actor(script)
    noise = torch.randn(actor.noise_factors, 8, 2, dtype=torch.float64)
    _, log_prob = actor(torch.randn(8, 3, dtype=torch.float64), noise)
    log_prob.mean().backward()
    heads = {"sac_gaussian": lambda: actor.net[-1], "sac_flow_g": lambda: actor.velocity.noise[-1]}
    head = heads.get(script.__name__, lambda: actor.velocity.head)()
    assert (head.bias.grad[-2:] < 0).all()  # more noise, less density


def test_extreme_actions_keep_a_finite_density(script):
    actor = make_actor(script).float()
    x = torch.tensor([[-80.0, 80.0], [0.0, 0.0], [30.0, -1e4]])
    assert torch.isfinite(actor.log_det(x)).all()
    exact = torch.log(actor.scale.double() * (1 - torch.tanh(torch.tensor([[2.0, -1.5]]).double()) ** 2)).sum()
    assert actor.log_det(torch.tensor([[2.0, -1.5]])).item() == pytest.approx(exact.item(), abs=1e-5)


def test_actions_stay_in_an_asymmetric_box(script):
    actor = make_actor(script, log_std_max=2.0).float()
    noise = 3 * torch.randn(actor.noise_factors, 4096, 2)
    action = actor.act(torch.randn(4096, 3), noise).detach()
    low, high = torch.tensor(BOX.low), torch.tensor(BOX.high)
    assert (action >= low - 1e-6).all() and (action <= high + 1e-6).all()
    covered = (action.amax(0) - action.amin(0)) / (high - low)
    assert (covered > 0.5).all()  # both dimensions use their own range


class LinearField(torch.nn.Module):
    """The exact flow-matching field of a 1-D Gaussian target N(m, c^2), with constant noise."""

    m, c = 1.5, 0.5

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma

    def precompute(self, obs, t):
        return t

    def step(self, t, x, k):
        t = t[k]
        slope = (t * self.c**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * self.c**2)
        return slope * x + self.m - slope * t * self.m, torch.full_like(x, math.log(self.sigma))


# Terminal standard deviations by the exact recursion of each scheme, to the digits printed (spec: Gaussian target).
STEPS = (4, 10, 40, 160, 640)
EXACT = {
    (0.0, "euler"): (0.341, 0.431, 0.482, 0.495, 0.499),
    (0.1, "drift"): (0.344, 0.432, 0.482, 0.495, 0.499),
    (0.5, "drift"): (0.406, 0.457, 0.489, 0.497, 0.499),
    (0.5, "plain"): (0.520, 0.601, 0.650, 0.664, 0.667),
    (1.0, "drift"): (0.526, 0.501, 0.499, 0.500, 0.500),
    (2.0, "drift"): (2.31, 0.637, 0.523, 0.505, 0.501),
}


@pytest.mark.parametrize(("sigma", "scheme"), EXACT)
def test_terminal_marginal_is_the_exact_recursions(flow, sigma, scheme):
    """The rollout of a linear field is affine in its noise: unit noises give its exact terminal mean and deviation."""
    for K, expected in zip(STEPS, EXACT[sigma, scheme], strict=True):
        actor = make_actor(flow, box=ONE_D, sampling_steps=K, drift_correction=scheme == "drift")
        actor.velocity, actor.norm = LinearField(sigma or 1.0), torch.nn.Identity()
        noise = torch.cat([torch.zeros(K + 1, 1, 1), torch.eye(K + 1)[:, :, None]], dim=1).double()
        path, _ = actor.rollout(torch.zeros(K + 2, 3).double(), noise, deterministic=scheme == "euler")
        mean, response = path[-1][0], path[-1][1:] - path[-1][0]
        assert mean.item() == pytest.approx(1.5, abs=1e-6)
        assert response.norm().item() == pytest.approx(expected, abs=6e-4 if expected < 1 else 6e-3)


def test_one_step_without_velocity_is_a_gaussian(flow):
    """K = 1, v = 0: A_1 = A_0 + sigma eps, so integrating A_0 out leaves N(0, 1 + sigma^2)."""
    actor = make_actor(flow, box=ONE_D, sampling_steps=1)
    actor.velocity.precompute = lambda obs, t: None
    actor.velocity.step = lambda context, x, k: (torch.zeros_like(x), torch.full_like(x, math.log(0.7)))
    a0 = torch.linspace(-9, 9, 4001, dtype=torch.float64).reshape(-1, 1)
    for x1 in (-1.3, 0.0, 2.0):
        noise = torch.stack([a0, (x1 - a0) / 0.7])
        action, log_prob = actor(torch.zeros(len(a0), 3).double(), noise)
        marginal = torch.exp(log_prob + actor.log_det(torch.full_like(a0, x1))).sum() * (18 / 4000)
        expected = Normal(0.0, math.sqrt(1 + 0.49)).log_prob(torch.tensor(x1)).exp()
        assert marginal.item() == pytest.approx(expected.item(), rel=1e-6)
        assert torch.allclose(action, torch.full_like(a0, math.tanh(x1) + 0.5))
