"""The rules by themselves: their formulas, in float64 and over random tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import APG, CFG, UserError
from pipelines.guidance import GuidanceState, limit_rms, project, rms
from tests.pipelines.reference import apg_direction

seeds = st.integers(0, 2**31)


def pair(seed: int, batch: int = 3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, 4, 8, 8, generator=generator)


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0, 1), st.floats(0.01, 3), st.floats(-0.9, 0))
def test_apg_is_the_paper_s_algorithm_over_several_evaluations(seed, eta, threshold, momentum):
    rule, state = APG(eta=eta, norm_threshold=threshold, momentum=momentum), GuidanceState()
    running = torch.zeros(3, 4, 8, 8, dtype=torch.float64)
    for step in range(4):
        conditional, unconditional = pair(seed + step)
        got = rule.direction(conditional, unconditional, state)
        for i in range(3):
            want, running[i] = apg_direction(
                conditional[i].double(), unconditional[i].double(), running[i], eta, threshold, momentum
            )
            assert (got[i] - want).norm() <= 1e-4 * want.norm()


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_the_perpendicular_part_is_perpendicular(seed):
    conditional, unconditional = pair(seed)
    direction = APG(eta=0.0).direction(conditional, unconditional, GuidanceState())
    for u, d in zip(direction.double(), conditional.double(), strict=True):
        assert abs((u * d).sum()) / (u.norm() * d.norm()) < 1e-6


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(1e-3, 10))
def test_the_limit_holds_and_leaves_short_directions_alone(seed, threshold):
    direction = pair(seed)[0]
    limited = limit_rms(direction, threshold)
    assert (rms(limited) <= threshold * (1 + 1e-5)).all()
    short = rms(direction).flatten() <= threshold
    assert torch.equal(limited[short], direction[short])


def test_nothing_is_left_of_a_difference_that_is_all_parallel():
    conditional = pair(0)[0]
    direction = APG(eta=0.0, norm_threshold=None, momentum=0).direction(conditional, 0.5 * conditional, GuidanceState())
    assert direction.abs().max() < 1e-5
    assert torch.allclose(project(conditional, conditional), conditional, atol=1e-5)


def test_a_difference_of_zero_stays_zero_and_finite():
    same = pair(0)[0]
    assert torch.equal(APG().direction(same, same.clone(), GuidanceState()), torch.zeros_like(same))
    zero = torch.zeros_like(same)
    assert APG().direction(zero, same, GuidanceState()).isfinite().all()


def test_the_running_direction_is_kept_unclipped():
    conditional, unconditional = pair(0)
    state = GuidanceState()
    APG(norm_threshold=1e-3, momentum=-0.5).direction(conditional, unconditional, state)
    assert torch.equal(state.running_direction, conditional - unconditional)


def test_the_published_limit_in_the_paper_s_units():
    assert APG.paper("sdxl").norm_threshold == pytest.approx(0.0586, abs=1e-4)
    assert APG.paper("SDXL").momentum == -0.5


def test_a_limit_in_the_paper_s_unit_is_no_limit_and_said_to_be_none(caplog):
    for radius in (15, 5.0, 2.5):
        caplog.clear()
        APG(norm_threshold=radius)
        assert f"norm_threshold is {radius:g}, which limits nothing" in caplog.text and "0.0586" in caplog.text
    caplog.clear()
    for name in ("sdxl", "edm2-s", "dit-xl/2"):
        APG.paper(name)
    APG(norm_threshold=None)
    assert not caplog.text


def test_rules_that_mean_the_same_are_equal():
    rules = {rule(interval=interval) for rule in (APG, CFG) for interval in (None, (0.0, 1.0), [0, 1])}
    assert rules == {APG(), CFG()}
    assert APG(interval=[0.2, 0.8]) == APG(interval=(0.2, 0.8)) != APG()


@pytest.mark.parametrize(
    "make",
    [
        lambda: APG(eta=-0.1),
        lambda: APG(eta=math.nan),
        lambda: APG(norm_threshold=0.0),
        lambda: APG(norm_threshold=-1.0),
        lambda: APG(momentum=-1.0),
        lambda: APG(momentum=0.1),
        lambda: APG.paper("sd9"),
        lambda: CFG(interval=(0.5, 0.5)),
        lambda: CFG(interval=(-0.1, 1.0)),
        lambda: CFG(interval=(0.0, 0.5, 1.0)),
        lambda: APG(interval=0.5),
        lambda: APG(interval="01"),
        lambda: APG(interval=(0, "1")),
        lambda: APG(interval={0: 1}),
        lambda: APG(eta="0"),
        lambda: APG(eta=None),
        lambda: APG(norm_threshold="15"),
        lambda: APG(norm_threshold=math.inf),
        lambda: APG(momentum=None),
        lambda: APG(skip_above="1"),
        lambda: APG.paper(None),
    ],
)
def test_values_out_of_range_are_refused_with_a_remedy(make):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.remedy
