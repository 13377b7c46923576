"""A concept is kept at the least strength that shows nearly all of what was learned."""

import numpy as np
import pytest
import torch

from pipelines.errors import UserError
from training import Customization, customize, export, loop, others, strength
from training.concepts import EncodedConcept
from training.draws import keyed
from training.model import encode_pictures, encode_prompts
from training.run import Run
from training.sheet import Stopped
from training.state import State
from training.strength import REACHES, STRENGTHS, THINGS, denoising_error, least_strength, reach_of, reaching_strength


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "share, expected",
    [(0.0, 1.0), (0.25, 0.25), (0.5, 0.88), (0.75, 1.33), (1.0, 1.75)],
)
def test_the_least_strength_that_reaches_a_share_of_the_most(share, expected):
    shown = dict(zip(REACHES, (0.2, 0.3, 0.35, 0.45, 0.55, 0.7, 0.8, 0.6), strict=True))
    assert reaching_strength(shown.__getitem__, share) == expected


def test_a_style_that_shows_on_nothing_else_stays_as_it_is():
    assert reaching_strength(lambda s: -s, 0.67) == 1.0


def test_a_run_s_style_is_as_strong_as_it_has_to_be_to_show_on_other_things(config, tmp_path, monkeypatch):
    asked = []

    def reached(strength: float) -> float:
        return asked.append(strength) or min(strength, 1.5)

    data = config.model_dump(by_alias=True)
    data["steps"] |= {"make": 0}
    whole = customize(Customization(**data), tmp_path / "whole")
    data["style"]["reach"] = 0.9
    monkeypatch.setattr(strength, "reach_of", lambda *given: reached)
    run = customize(Customization(**data), tmp_path / "run")
    (before, card), (after, _) = (export.read(one.adapter) for one in (whole, run))
    stronger, _ = export.scaled(before, card, {"style": 1.35})
    for name, pair in after.items():
        ours, wanted = (up.flatten(1) @ down.flatten(1) for up, down in (pair, stronger[name]))
        assert torch.allclose(ours, wanted, atol=1e-6)
    assert asked == [*REACHES]


def test_how_far_a_style_reaches_is_what_its_adapter_explains_of_other_things_drawn_in_it(config, tmp_path):
    """Against the same worked out step by step; it is the same each time, and the adapter is left as it was."""
    config.others.contents = config.others.contents[:3]
    work, state = loop.prepare_work(config, Run(tmp_path / "run"), lambda: False), State()
    stage = next(one for one in work.stages if one.name == "style")
    state.step = stage.first
    loop.begin_stage(work, state, stage)
    while state.step < stage.end:
        loop.train_step(work, state, stage)
        state.step += 1
    own, learned = work.concepts["style"], work.adapter.learned("style")

    def explained(pictures) -> float:
        errors = []
        for scale in (0.0, 1.0):
            work.adapter.set_scales(content=0.0, style=scale)
            generator = keyed(config.seed, "strength", "style", 0)
            errors.append(denoising_error(work.pipe, pictures, config.steps.batch_size, generator))
        work.adapter.set_scales()
        return errors[0] - errors[1]

    assert explained(own) > 0  # it has learned something
    assert config.style.class_word == ""
    prompts = [f"{thing}, zwx style" for thing in config.others.contents[:THINGS]]
    work.adapter.set_scales(content=0.0, style=1.5)
    images = others.draw(work.pipe, prompts, tuple(range(len(prompts))), config.resolution)
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])
    said = encode_prompts(work.pipe, prompts, config.resolution)
    drawn = EncodedConcept(encode_pictures(work.pipe, pixels), said, "")
    expected = explained(drawn) / explained(own)

    reached = reach_of(work.pipe, work.adapter, config, own)
    assert reached(1.5) == pytest.approx(expected, rel=1e-5) and reached(1.5) == reached(1.5) != reached(0.5)
    after = work.adapter.learned("style")
    assert all(torch.equal(after[name], learned[name]) for name in learned)
    with pytest.raises(Stopped):
        reach_of(work.pipe, work.adapter, config, work.concepts["style"], lambda: True)(1.0)


def test_two_measures_of_a_style_s_strength_are_one_too_many():
    with pytest.raises(UserError, match=r"style\.reach is 0\.5 and style\.slack 0\.1"):
        Customization(style={"pictures": ".", "reach": 0.5, "slack": 0.1})
