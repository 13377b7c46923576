"""A concept is kept at the least strength that shows nearly all of what was learned."""

import pytest

from training import Customization, customize, export
from training.strength import STRENGTHS, least_strength


@pytest.mark.parametrize(
    "slack, expected",
    [(0.0, 1.0), (0.01, 0.9), (0.05, 0.8), (0.25, 0.5), (1.0, 0.3)],
)
def test_the_least_strength_that_keeps_the_rest(slack, expected):
    asked = []
    assert least_strength(lambda s: asked.append(s) or 2 + 3 * (1 - s) ** 2, slack) == pytest.approx(expected)
    assert {*asked} <= {0.0, *STRENGTHS}


def test_what_has_learned_nothing_stays_as_it_is():
    assert least_strength(lambda s: 1.0, 0.05) == 1.0
    assert least_strength(lambda s: 1.0 + s, 0.05) == 1.0


OTHER_WAYS = ({}, {"method": "full"})  # to hold a style than as the embedded base's preset has it


@pytest.mark.parametrize(
    "adapter",
    [
        {"content_in": "words", "style_in": "not words"},
        *(pytest.param(how, marks=pytest.mark.slow) for how in OTHER_WAYS),
    ],
)
def test_a_run_s_file_holds_the_style_at_that_strength_and_says_so(config, tmp_path, adapter):
    data = config.model_dump(by_alias=True)
    data["adapter"] |= adapter
    data["steps"] |= {"make": 0, "break": 12}
    whole = customize(Customization(**data), tmp_path / "whole")
    data["style"]["slack"] = 0.3
    run = customize(Customization(**data), tmp_path / "run")
    (before, card), (after, _) = (export.read(one.adapter) for one in (whole, run))

    def products(factors):
        return {name: up.flatten(1) @ down.flatten(1) for name, (up, down) in factors.items()}

    # The strength that fits one layer fits them all, and the content is what it was.
    found = products(after)
    off = {strength: products(export.scaled(before, card, {"style": strength})[0]) for strength in STRENGTHS}
    far = {s: max(float((found[name] - one[name]).abs().max()) for name in found) for s, one in off.items()}
    strength = min(far, key=far.get)
    close = 2e-3 if "method" in adapter else 1e-6  # what a rank cuts off a difference is not quite the same part
    assert far[strength] < close < far[1.0] and strength < 1
    assert run.sheet.read_bytes() != whole.sheet.read_bytes()


def test_a_stage_that_follows_begins_from_it_and_a_run_that_goes_on_too(config, tmp_path):
    data = config.model_dump(by_alias=True)
    data["style"]["slack"] = 0.3
    straight = customize(Customization(**data), tmp_path / "straight")
    left = [config.steps.break_ * 2 + 1]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    customize(Customization(**data), tmp_path / "parts", should_stop=stop)
    again = customize(Customization(**data), tmp_path / "parts")
    assert again.adapter.read_bytes() == straight.adapter.read_bytes()
