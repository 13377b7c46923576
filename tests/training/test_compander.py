"""Weight Compander: bounds, slopes, learning."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pipelines import UserError
from training.adapters.compander import WeightCompander, compand
from training.optimizers.projected import GradNormLoRP


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 16))


def companded(model):
    return [module for module in model if hasattr(module, "weight") and compand(module)]


def test_registering_keeps_the_weight(model):
    before = [module.weight.detach().clone() for module in (model[0], model[4])]
    modules = companded(model)
    assert modules == [model[0], model[4]]
    for module, weight in zip(modules, before, strict=True):
        torch.testing.assert_close(module.weight, weight, rtol=0, atol=1e-7)


def test_weights_stay_within_the_bound_whatever_is_trained(model):
    (layer, *_) = companded(model)
    a = float(layer.parametrizations.weight[0].log_a.exp())
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(1e6)
    assert layer.weight.abs().max() <= a * math.pi / 2 * (1 + 1e-6)


def test_the_slope_is_the_formula_and_the_largest_weight_keeps_half():
    w = torch.tensor([0.0, 0.1, -0.4, 0.8], dtype=torch.float64)
    compander = WeightCompander.of(w)
    a, v = float(compander.log_a.exp()), compander.right_inverse(w).requires_grad_()
    compander(v).sum().backward()
    torch.testing.assert_close(v.grad, a * a / (a * a + v.detach() ** 2))
    assert v.grad[0] == pytest.approx(1) and v.grad[3] == pytest.approx(0.5)


def test_gradients_are_right():
    compander = WeightCompander(0.7, 0.3)
    v = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(compander, v)
    slope = 0.7 * 0.3 / (0.3**2 + v.detach() ** 2)
    torch.testing.assert_close(torch.autograd.grad(compander(v).sum(), v)[0], slope)


def test_it_learns_and_is_a_plain_weight_afterwards(model):
    companded(model)
    optimizer, x = GradNormLoRP(model.parameters(), lr=1e-2, rank=2), torch.randn(4, 3, 8, 8)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    before = model(x)
    for module in (model[0], model[4]):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    assert torch.equal(model(x), before)


def test_what_has_no_scale_is_left_out_or_named(model):
    assert compand(nn.Embedding(4, 8)) is None and compand(nn.LayerNorm(8)) is None
    with torch.no_grad():
        model[4].weight.zero_()
    assert companded(model) == [model[0]]
    with pytest.raises(UserError, match="no scale"):
        WeightCompander.of(torch.zeros(3, 3))
    with pytest.raises(UserError, match="a of the Weight Compander is -1"):
        WeightCompander(-1, 1)
