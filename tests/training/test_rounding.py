import pytest
import torch

from pipelines import UserError
from tests.training.test_full import learned_weights, whole
from training import Customization, customize
from training.optimizers import GradNormLoRP, ProjectedAdamW
from training.optimizers.rounding import round_to_bfloat16_
from training.run import Run


def rounded(values, seed=0):
    x = values.clone()
    round_to_bfloat16_(x, torch.Generator().manual_seed(seed))
    return x


def test_it_goes_to_a_neighbour_and_is_right_in_the_mean():
    share = 0.3  # of the way from 1 to the next bfloat16
    for sign in (1, -1):
        found = rounded(torch.full((20_000,), sign * (1 + share / 128)))
        assert set(found.tolist()) == {sign * 1.0, sign * (1 + 1 / 128)}
        assert found.double().mean().item() == pytest.approx(sign * (1 + share / 128), abs=2e-4)


def test_what_bfloat16_has_stays_and_the_seed_decides():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(rounded(x)), rounded(x))
    exact = torch.tensor([0.0, -0.0, 1.5, torch.inf, -torch.inf, 2.0**-120])
    assert torch.equal(rounded(exact), exact)
    assert not torch.equal(rounded(x, seed=1), rounded(x))


@pytest.mark.parametrize("rank", [None, 4])
def test_steps_too_small_for_bfloat16_add_up(rank):
    """300 steps of 1e-4 on weights of 1, whose next bfloat16 below is .004 away."""
    shape = (64, 48)
    weight = torch.nn.Parameter(torch.ones(shape, dtype=torch.bfloat16))
    exact = torch.nn.Parameter(torch.ones(shape))
    gradient = torch.ones(shape)
    for parameter in (weight, exact):
        optimizer = ProjectedAdamW([{"params": [parameter], "rank": rank}], lr=1e-4, scale=1.0)
        for _ in range(300):
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    assert exact.mean().item() < 0.997
    assert weight.float().mean().item() == pytest.approx(exact.mean().item(), abs=5e-4)


def test_a_seed_gives_the_same_weights():
    def learned(seed):
        parameter = torch.nn.Parameter(torch.ones(64, 48, dtype=torch.bfloat16))
        optimizer = GradNormLoRP([{"params": [parameter], "rank": 4}], lr=1e-3, bits=8, seed=seed)
        for k in range(5):
            parameter.grad = torch.randn(64, 48, generator=torch.Generator().manual_seed(k)).bfloat16()
            optimizer.step()
        return parameter.detach()

    assert torch.equal(learned(0), learned(0))
    assert not torch.equal(learned(0), learned(1))


@pytest.mark.slow
def test_a_base_in_bf16_learns_its_own_weights_and_goes_on_to_the_same_bits(config, tmp_path):
    project = whole(config, precision="bf16")
    run = customize(project, tmp_path / "whole")
    steps = 0

    def stop():
        nonlocal steps
        steps += 1
        return steps > 3

    assert customize(project, tmp_path / "run", should_stop=stop).status == "cancelled"
    found, same = learned_weights(run), learned_weights(customize(project, tmp_path / "run"))
    for concept in ("content", "style"):
        assert found[concept] and all(w.dtype == torch.bfloat16 for w in found[concept].values())
        assert all(torch.equal(same[concept][name], w) for name, w in found[concept].items())
    assert Run(run.folder).adapter.exists()


def test_optimizers_that_would_lose_small_steps_are_refused(config):
    with pytest.raises(UserError, match=r"'adamw'.*gradnorm-lorp"):
        whole(config, precision="bf16", optimizer={"name": "adamw"})
    assert isinstance(whole(config, precision="fp32", optimizer={"name": "adamw"}), Customization)
