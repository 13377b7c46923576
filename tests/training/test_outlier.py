"""OwLore's layer sampler, and steps inside the backward pass."""

import itertools
import logging

import pytest
import torch
from torch import nn

from pipelines import UserError
from tests.tiny import tiny_unet
from training.adapters import PartlyLearnable
from training.optimizers.backward import StepInBackward
from training.optimizers.outlier import OutlierLayerSampler, blocks_of, choose_scores, outlier_shares
from training.optimizers.projected import GradNormLoRP


def model(count=5, width=48):
    torch.manual_seed(0)
    return nn.ModuleDict({f"block{i}": nn.Sequential(nn.Linear(width, width), nn.Tanh()) for i in range(count)})


def forward(blocks, seed=0, scale=1.0):
    x = scale * torch.randn(6, 48, generator=torch.Generator().manual_seed(seed))
    for block in blocks.values():
        x = block(x)
    return x


def optimizer_of(blocks, name="gradnorm-lorp"):
    if name == "adamw":
        return torch.optim.AdamW(blocks.parameters(), lr=1e-2)
    return GradNormLoRP(blocks.parameters(), lr=1e-2, rank=8, update_proj_gap=4)


def sampler_of(blocks, optimizer, **settings):
    scores = {name: float(i) for i, name in enumerate(blocks)}
    return OutlierLayerSampler(optimizer, dict(blocks), scores, **{"active": 2, "every": 3, **settings})


def train(blocks, optimizer, sampler, first, last):
    for step in range(first, last):
        sampler.before_step(step)
        optimizer.zero_grad()
        (forward(blocks, step) - 0.5).square().mean().backward()
        optimizer.step()


def test_a_denoisers_blocks_are_found():
    unet = tiny_unet()
    names = blocks_of(unet)
    assert names and all(type(block).__name__ == "BasicTransformerBlock" for block in names.values())
    assert all(unet.get_submodule(name) is block for name, block in names.items())
    assert any("resnets" in name for name in blocks_of(unet, resnets=True))


def test_shares_are_the_formula_and_do_not_change_with_scale():
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(30, 40, bias=False), nn.Linear(40, 20, bias=False))
    x = torch.randn(7, 5, 30) ** 3
    found = outlier_shares({"b": layers}, lambda: layers(x))[3.0]
    A = [
        layer.weight.detach().abs().double() * seen.reshape(35, -1).double().norm(dim=0)
        for layer, seen in ((layers[0], x), (layers[1], layers[0](x).detach()))
    ]
    A = torch.cat([a.flatten() for a in A])
    assert found["b"] == (3 * A.mean() < A).double().mean() > 0
    assert outlier_shares({"b": layers}, lambda: layers(1000 * x))[3.0] == found
    single = nn.Linear(30, 40, bias=False)
    before = outlier_shares({"b": single}, lambda: single(x))
    single.weight.data *= 0.01
    assert outlier_shares({"b": single}, lambda: single(x)) == before


def test_a_convolution_is_scored_by_its_channels():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    x = torch.randn(2, 4, 5, 5) * torch.tensor([20.0, 1, 1, 1])[:, None, None]
    found = outlier_shares({"b": conv}, lambda: conv(x))[3.0]
    A = conv.weight.detach().abs().double() * x.double().square().sum((0, 2, 3)).sqrt()[:, None, None]
    assert found["b"] == (3 * A.mean() < A).double().mean() > 0


def test_under_an_adapter_the_base_weights_are_scored():
    plain, adapted = tiny_unet(), tiny_unet()
    adapted.load_state_dict(plain.state_dict())
    PartlyLearnable(adapted, 4, "all")

    def scores(unet):
        latents, text = torch.ones(1, 4, 16, 16), torch.ones(1, 6, 32)
        return outlier_shares(blocks_of(unet, resnets=True), lambda: unet(latents, 100, text))

    assert scores(adapted) == scores(plain)


def test_a_block_that_calibration_misses_is_named():
    blocks = model()
    with pytest.raises(UserError, match="block1"):
        outlier_shares(dict(blocks), lambda: blocks["block0"](torch.ones(1, 48)))


def test_the_largest_threshold_with_outliers_is_taken_or_all_are_equal(caplog):
    shares = {13.0: {"a": 0.0, "b": 0.0, "c": 0.1}, 5.0: {"a": 0.2, "b": 0.0, "c": 0.3}, 3.0: dict.fromkeys("abc", 0.5)}
    assert choose_scores(shares) == shares[5.0]
    with caplog.at_level(logging.INFO, "joinery"):
        assert choose_scores({13.0: {"a": 0.0, "b": 0.0}}) == {"a": 1.0, "b": 1.0}
    assert "uniformly" in caplog.text


def test_draws_are_distinct_and_follow_the_law():
    blocks = model()
    sampler = sampler_of(blocks, optimizer_of(blocks), active=2, floor=0.2)
    p = sampler.probabilities
    assert p.sum().item() == pytest.approx(1) and p[0].item() == pytest.approx(0.2 / 5)
    # Drawing without replacement: the chance of each ordered pair, summed over those that hold a block.
    expected = torch.zeros(5, dtype=torch.float64)
    for i, j in itertools.permutations(range(5), 2):
        chance = p[i] * p[j] / (1 - p[i])
        expected[i] += chance
        expected[j] += chance
    draws, names, counts = 4000, list(blocks), torch.zeros(5)
    for number in range(draws):
        chosen = sampler.draw(number)
        assert len(set(chosen)) == 2
        for name in chosen:
            counts[names.index(name)] += 1
    sigma = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() < 3 * sigma).all()


def test_equal_scores_and_too_few_outliers_draw_uniformly():
    blocks = model()
    for scores in (dict.fromkeys(blocks, 1.0), dict.fromkeys(blocks, 0.0), {n: float(n == "block0") for n in blocks}):
        sampler = OutlierLayerSampler(optimizer_of(blocks), dict(blocks), scores, active=2, floor=0.0)
        assert torch.equal(sampler.probabilities, torch.full((5,), 0.2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["adamw", "gradnorm-lorp"])
def test_only_the_drawn_blocks_move_and_have_state(name):
    blocks = model()
    optimizer = optimizer_of(blocks, name)
    sampler = sampler_of(blocks, optimizer)
    for window in range(6):
        before = {n: [p.detach().clone() for p in block.parameters()] for n, block in blocks.items()}
        train(blocks, optimizer, sampler, 3 * window, 3 * window + 3)
        learning = set(sampler.draw(window))
        for n, block in blocks.items():
            for old, new in zip(before[n], block.parameters(), strict=True):
                assert torch.equal(old, new) != (n in learning)
                assert (new in optimizer.state) == (n in learning)
                if n in learning:
                    assert int(optimizer.state[new]["step"]) <= 3 * (window + 1)


def test_a_block_that_returns_starts_anew():
    blocks = model()
    optimizer = optimizer_of(blocks)
    sampler = sampler_of(blocks, optimizer, active=1, every=2)
    windows = [sampler.draw(number)[0] for number in range(30)]
    back = next(i for i in range(2, 30) if windows[i] in windows[: i - 1] and windows[i] != windows[i - 1])
    train(blocks, optimizer, sampler, 0, 2 * back + 1)
    assert {state["step"] for state in optimizer.state.values()} == {1}


def test_resumed_in_a_window_it_goes_on_to_the_bit():
    straight = model()
    optimizer = optimizer_of(straight)
    train(straight, optimizer, sampler_of(straight, optimizer), 0, 11)

    stopped = model()
    optimizer = optimizer_of(stopped)
    sampler = sampler_of(stopped, optimizer)
    train(stopped, optimizer, sampler, 0, 7)
    resumed = model()
    resumed.load_state_dict(stopped.state_dict())
    fresh = optimizer_of(resumed)
    again = OutlierLayerSampler(fresh, dict(resumed), dict.fromkeys(resumed, 1.0), active=2, every=3)
    fresh.load_state_dict(optimizer.state_dict())
    again.load_state_dict(sampler.state_dict())
    train(resumed, fresh, again, 7, 11)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"active": 6}, "active is 6"),
        ({"active": -1}, "active is -1"),
        ({"every": 0}, "every"),
        ({"floor": 1.5}, "floor"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    blocks = model()
    with pytest.raises(UserError, match=said):
        sampler_of(blocks, optimizer_of(blocks), **settings)


@pytest.mark.parametrize("name", ["adamw", "gradnorm-lorp"])
def test_a_step_in_the_backward_pass_is_the_step_after_it(name):
    after, inside = model(), model()
    first, second = optimizer_of(after, name), optimizer_of(inside, name)
    in_backward = StepInBackward(second)
    for k in range(9):
        first.zero_grad()
        forward(after, k).square().mean().backward()
        first.step()
        forward(inside, k).square().mean().backward()
        assert all(p.grad is None for p in inside.parameters())
        for group in (*first.param_groups, *second.param_groups):
            group["lr"] = 1e-2 / (k + 2)
    assert all(torch.equal(a, b) for a, b in zip(after.parameters(), inside.parameters(), strict=True))
    in_backward.remove()
    before = [p.detach().clone() for p in inside.parameters()]
    forward(inside).square().mean().backward()
    assert all(torch.equal(a, b) and b.grad is not None for a, b in zip(before, inside.parameters(), strict=True))


def test_the_sampler_and_steps_in_the_backward_pass_go_together():
    after, inside = model(), model()
    first, second = optimizer_of(after), optimizer_of(inside)
    one, other = sampler_of(after, first), sampler_of(inside, second)
    other.before_step(0)  # most blocks are frozen when the steps move into the backward pass
    StepInBackward(second)
    train(after, first, one, 0, 9)
    for step in range(9):
        other.before_step(step)
        (forward(inside, step) - 0.5).square().mean().backward()
    assert all(torch.equal(a, b) for a, b in zip(after.parameters(), inside.parameters(), strict=True))


def test_steps_of_several_losses_are_refused():
    with pytest.raises(UserError, match="each of its 2 losses"):
        StepInBackward(optimizer_of(model()), losses=2)
