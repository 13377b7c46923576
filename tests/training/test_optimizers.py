import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import UserError
from training.optimizers.registry import make_optimizer
from training.optimizers.riemannian import precondition
from training.optimizers.settings import OPTIMIZERS
from training.optimizers.state import at_rest, flatten_state, load_state
from training.packages import PACKAGES

SETTINGS = {name: settings(weight_decay=0.1).own_settings() for name, settings in OPTIMIZERS.items()}


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 12), n=st.integers(1, 12), r=st.integers(1, 8), damping=st.sampled_from([1e-6, 1e-4, 1e-2]))
def test_preconditioning_is_the_formula(m, n, r, damping):
    up, down, grad_up, grad_down = rand(m, r, seed=1), rand(r, n, seed=2), rand(m, r, seed=3), rand(r, n, seed=4)
    new_up, new_down = precondition(grad_up, grad_down, up, down, damping)
    right, left = down @ down.T, up.T @ up
    right = right + damping * right.trace() / r * torch.eye(r)
    left = left + damping * left.trace() / r * torch.eye(r)
    torch.testing.assert_close(new_up, grad_up @ right.inverse(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(new_down, left.inverse() @ grad_down, rtol=1e-6, atol=1e-6)


def test_the_preconditioned_step_does_not_depend_on_how_the_product_is_split():
    up, down, grad = rand(6, 3, seed=1), rand(3, 5, seed=2), rand(6, 5, seed=3)
    mix = rand(3, 3, seed=4) + 3 * torch.eye(3)

    def step(up, down):
        new_up, new_down = precondition(grad @ down.T, up.T @ grad, up, down, 1e-12)
        return new_up @ down + up @ new_down

    torch.testing.assert_close(step(up @ mix, mix.inverse() @ down), step(up, down), rtol=1e-6, atol=1e-6)


def test_a_convolution_is_preconditioned_as_its_matrix():
    up, down, grad_up, grad_down = (
        rand(6, 3, seed=1),
        rand(3, 4, 2, 2, seed=2),
        rand(6, 3, seed=3),
        rand(3, 4, 2, 2, seed=4),
    )
    new_up, new_down = precondition(grad_up[..., None, None], grad_down, up[..., None, None], down, 1e-4)
    flat_up, flat_down = precondition(grad_up, grad_down.flatten(1), up, down.flatten(1), 1e-4)
    assert torch.equal(new_up[..., 0, 0], flat_up) and torch.equal(new_down.flatten(1), flat_down)


def test_an_empty_factor_gives_finite_gradients():
    new_up, new_down = precondition(rand(4, 2), rand(2, 4), torch.zeros(4, 2), torch.zeros(2, 4), 1e-4)
    assert new_up.isfinite().all() and new_down.isfinite().all()


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(PACKAGES, "prodigy", "not_installed_anywhere")
    with pytest.raises(UserError, match="pip install not_installed_anywhere"):
        make_optimizer("prodigy", [{"params": [torch.nn.Parameter(torch.ones(2))]}], **SETTINGS["prodigy"])


@pytest.mark.parametrize("error", ["ImportError('no CUDA here')", "OSError('libcudart.so: no CUDA here')"])
def test_a_package_that_does_not_start_is_named(tmp_path, monkeypatch, error):
    (tmp_path / "built_for_another.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGES, "prodigy", "built_for_another")
    with pytest.raises(UserError, match=r"the package built_for_another cannot be used here .*no CUDA here"):
        make_optimizer("prodigy", [{"params": [torch.nn.Parameter(torch.ones(2))]}], **SETTINGS["prodigy"])


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"adafactor"}))
def test_a_row_that_is_no_number_spoils_no_other(name):
    """Where a method keeps rows apart: in Adafactor, projected rows and moments in eight bits they share numbers.

    A run never comes so far: it ends before such a gradient is taken.
    """
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    weight = torch.nn.Parameter(rand(40, 8).float())
    optimizer = make_optimizer(name, [{"params": [weight], "lr": 1e-2, "peak": 1e-2}], **SETTINGS[name])
    for step in range(4):
        weight.grad = rand(40, 8, seed=step).float()
        if step == 1:
            weight.grad[5] = float("nan")
        optimizer.step()
    before = weight.detach().clone()
    weight.grad = rand(40, 8, seed=9).float()
    optimizer.step()
    others = torch.arange(40) != 5
    assert weight[others].isfinite().all() and not weight[5].isfinite().any()
    assert not torch.equal(weight[others], before[others])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_quadratic_is_lowered(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    weight = torch.nn.Parameter(rand(80, 64).float())
    lr = 1.0 if name == "prodigy" else 0.02
    optimizer = make_optimizer(name, [{"params": [weight], "lr": lr}], **SETTINGS[name])
    for _ in range(150):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    with at_rest(optimizer):
        assert weight.square().sum() < 0.5 * rand(80, 64).square().sum()


@pytest.mark.parametrize("name", SETTINGS)
def test_state_survives_flattening_to_the_bit(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    rates = (1.0, 1.0) if name == "prodigy" else (0.1, 0.01)

    def start():
        parameters = [torch.nn.Parameter(rand(80, 64, seed=i).float()) for i in range(3)]
        groups = [{"params": parameters[:2], "lr": rates[0]}, {"params": parameters[2:], "lr": rates[1]}]
        return parameters, make_optimizer(name, groups, **SETTINGS[name])

    def step(parameters, optimizer, k):
        for i, p in enumerate(parameters):
            p.grad = rand(80, 64, seed=100 * k + i).float()
        optimizer.step()

    straight, optimizer = start()
    for k in range(6):
        step(straight, optimizer, k)
    stopped, optimizer = start()
    for k in range(3):
        step(stopped, optimizer, k)
    tensors, numbers = flatten_state(optimizer)
    resumed, optimizer = start()
    for p, q in zip(resumed, stopped, strict=True):
        p.data.copy_(q.data)
    load_state(optimizer, {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(numbers)))
    for k in range(3, 6):
        step(resumed, optimizer, k)
    assert all(torch.equal(p, q) for p, q in zip(resumed, straight, strict=True))
