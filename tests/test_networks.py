"""Velocity networks, BatchRenorm and the critic against references."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import FLOWS, make_actor
from torch import nn


def test_decoder_layer_is_a_transformer_decoder_layer():
    """With any queries and keys: self-attention under a diagonal mask, cross-attention to one state token."""
    layer = importlib.import_module("sac_flow_t").DecoderLayer(96)
    reference = nn.TransformerDecoderLayer(
        96, 4, 384, dropout=0, activation="gelu", norm_first=True, batch_first=True, layer_norm_eps=1e-6
    )
    for mine, theirs in (
        (layer.self_attention, reference.self_attn),
        (layer.cross_attention, reference.multihead_attn),
    ):
        theirs.in_proj_weight.data[192:], theirs.in_proj_bias.data[192:] = mine[0].weight.data, mine[0].bias.data
        theirs.out_proj.load_state_dict(mine[1].state_dict())
    reference.linear1.load_state_dict(layer.widen.state_dict())
    reference.linear2.load_state_dict(layer.narrow.state_dict())
    nn.init.normal_(layer.norm_self.weight), nn.init.normal_(layer.norm_feed_forward.bias)
    reference.norm1.load_state_dict(layer.norm_self.state_dict())
    reference.norm3.load_state_dict(layer.norm_feed_forward.state_dict())

    tokens, state = torch.randn(5, 4, 96), torch.randn(5, 1, 96)  # four tokens (K = 4) of five samples
    expected = reference(tokens, state, tgt_mask=~torch.eye(4, dtype=torch.bool))
    actual = torch.stack([layer(tokens[:, k], *layer.precompute(state[:, 0])) for k in range(4)], dim=1)
    assert torch.allclose(actual, expected, atol=1e-5)
    # The queries and keys of the reference are dead weights.
    expected.square().sum().backward()
    assert reference.self_attn.in_proj_weight.grad[:192].abs().max() < 1e-4 * reference.linear1.weight.grad.abs().max()


@pytest.mark.parametrize("name", FLOWS)
def test_precompute_and_step_are_forward(name):
    """The rollout's hoisted path and Velocity.forward agree, with per-sample times too."""
    actor = make_actor(importlib.import_module(name), sampling_steps=4)
    obs, x = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    context = actor.velocity.precompute(obs, actor.t)
    for k in range(4):
        expected = actor.velocity(obs, x, torch.full((7, 1), k / 4).double())
        for mine, theirs in zip(actor.velocity.step(context, x, k), expected, strict=True):
            assert torch.allclose(mine, theirs) and mine.shape == (7, 2)
    assert not torch.allclose(*(actor.velocity.step(context, x, k)[0] for k in (0, 3)))  # time matters


@pytest.mark.parametrize("layers", [1, 3])
def test_velocity_matches_an_unsplit_first_layer(layers):
    """Flow-G's layer stored by input equals one layer on [s; A; embedded t], initialised like one."""
    velocity = make_actor(importlib.import_module("sac_flow_g"), candidate_layers=layers).velocity
    parts = [velocity.from_obs.weight, velocity.from_x.t(), velocity.from_time.weight]
    weight, bound = torch.cat(parts, dim=1), (3 + 2 + 32) ** -0.5
    assert weight.abs().max() <= bound and all(part.abs().max() > 0.9 * bound for part in parts)
    obs, x, t = torch.randn(6, 3).double(), torch.randn(6, 2).double(), torch.rand(6, 1).double()
    angle = t * velocity.frequency
    embedding = velocity.time(torch.cat([angle.sin(), angle.cos()], dim=-1))
    h = F.silu(F.linear(torch.cat([obs, x, embedding], dim=1), weight, velocity.from_obs.bias))
    g, deep = torch.sigmoid(velocity.gate(h[:, :512])), h[:, 512:]
    assert len(velocity.deeper) == layers - 1
    for layer in velocity.deeper:
        deep = F.silu(layer(deep))
    c = velocity.candidate(deep)
    assert torch.allclose(velocity(obs, x, t)[0], g * (c - x))


def test_closed_gate_is_the_identity_map():
    actor = make_actor(importlib.import_module("sac_flow_g"))
    assert torch.sigmoid(actor.velocity.gate.bias).mean().item() == pytest.approx(0.9933, abs=1e-4)
    actor.velocity.gate.bias.data.fill_(-100.0)
    noise = torch.randn(5, 9, 2).double()
    path, _ = actor.rollout(torch.randn(9, 3).double(), noise, deterministic=True)
    assert torch.equal(path[-1], noise[0])


def test_log_std_is_bounded(script):
    """The bounds are met in the limit, and a head that gives 0 is in their middle."""
    actor = make_actor(script, log_std_min=-3.0, log_std_max=1.0)
    noise = torch.randn(actor.noise_factors, 1000, 2, dtype=torch.float64)
    _, log_stds = actor.rollout(1e6 * torch.randn(1000, 3, dtype=torch.float64), noise)
    assert all(log_std.min() >= -3 and log_std.max() <= 1 for log_std in log_stds)
    assert torch.equal(script.bounded(torch.tensor([-1e3, 0, 1e3]), -3.0, 1.0), torch.tensor([-3.0, -1, 1]))


def numpy_batch_renorm(x, state, train, warm):
    """Ioffe (2017), algorithm 1, with CrossQ's constants; state = (mean, var) is updated in place."""
    mean, var = state
    if not train:
        return (x - mean) / np.sqrt(var + 1e-3)
    batch_mean, batch_var = x.mean(0), x.var(0)
    std, running_std = np.sqrt(batch_var + 1e-3), np.sqrt(var + 1e-3)
    r, d = (np.clip(std / running_std, 1 / 3, 3), np.clip((batch_mean - mean) / running_std, -5, 5)) if warm else (1, 0)
    state[:] = 0.99 * mean + 0.01 * batch_mean, 0.99 * var + 0.01 * batch_var
    return (x - batch_mean) / std * r + d


def test_batch_renorm_against_numpy(script):
    """Before and after the warm-up, training and evaluation mode, in range and clipped."""
    rng, layer = np.random.default_rng(0), script.BatchRenorm(4, warmup=30).double()
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    weight, bias, state = (
        layer.weight.detach().numpy(),
        layer.bias.detach().numpy(),
        np.array([np.zeros(4), np.ones(4)]),
    )
    for call in range(60):
        scale = 20.0 if call % 10 == 9 else 1.0  # far off: r and d reach their bounds
        x = scale * rng.normal([0, 1, -2, 5], [1, 0.3, 2, 1], (32, 4))
        expected = numpy_batch_renorm(x, state, True, call >= 30) * weight + bias
        np.testing.assert_allclose(layer(torch.as_tensor(x)).detach().numpy(), expected, atol=1e-10)
        layer.track([layer])
    assert layer.steps == 60
    layer.eval()
    expected = numpy_batch_renorm(x, state, False, True) * weight + bias
    np.testing.assert_allclose(layer(torch.as_tensor(x)).detach().numpy(), expected, atol=1e-10)
    assert layer.steps == 60  # evaluation leaves no trace


def test_batch_renorm_that_never_corrects_is_one_with_a_late_warm_up(script):
    """To the bit, forward and backward: what NEVER spares is arithmetic alone."""
    torch.manual_seed(0)
    layers = [script.BatchRenorm(4, warmup) for warmup in (script.NEVER, script.NEVER - 1)]
    for layer in layers:
        torch.manual_seed(1)
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    for _ in range(3):
        x = 3 * torch.randn(32, 4) + 1
        outputs, gradients = [], []
        for layer in layers:
            leaf = x.clone().requires_grad_()
            outputs.append(layer(leaf))
            gradients.append(torch.autograd.grad(outputs[-1].square().sum(), [leaf, layer.weight, layer.bias]))
            layer.track([layer])
        assert torch.equal(*outputs)
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert layers[0].steps == layers[1].steps == 3
    assert torch.equal(layers[0].running_var, layers[1].running_var)


@pytest.mark.parametrize("crossq", [True, False])
def test_critic_is_normalised_layers_with_relu(script, crossq):
    """The folded evaluation mode and the ReLU written out agree with the plain composition, in value and gradient."""
    torch.manual_seed(0)
    critic = script.Critic(3, 2, 16, crossq).double()
    obs, action = torch.randn(32, 3).double(), torch.randn(32, 2).double().requires_grad_()
    critic(obs, action)
    for norm in (norm for norms in critic.norms or () for norm in norms):
        norm.track([norm])
    for mode in (True, False):
        critic.train(mode)
        expected = []
        for head, layers in enumerate(critic.layers):
            x = torch.cat([obs, action], dim=1)
            for i, layer in enumerate(layers):
                x = F.relu(x) if i else x
                x = layer(critic.norms[head][i](x) if crossq else x)
            expected.append(x.squeeze(1))
        expected = torch.stack(expected)
        actual = critic(obs, action)
        tolerance = (
            1e-9 if not crossq or not mode else 0.5
        )  # the second training pass sees moved statistics: warm-up only
        assert actual.shape == (2, 32) and torch.allclose(actual, expected, atol=tolerance)
        gradients = [torch.autograd.grad(q.sum(), action, retain_graph=True)[0] for q in (actual, expected)]
        assert torch.allclose(*gradients, atol=1e-9)
