"""What every method of learning must do: one interface, whichever weights learn."""

import pytest
import torch

from tests.tiny import tiny_pipeline
from training import Customization
from training.adapters import METHODS
from training.config import AdapterSettings
from training.families import FAMILIES
from training.memory import BUDGETS
from training.plan import plan
from training.stages import BOTH


@pytest.fixture
def unet():
    return tiny_pipeline().unet


@pytest.fixture(params=METHODS)
def adapter(request, unet):
    return METHODS[request.param].attach(unet, AdapterSettings(method=request.param, rank=8))


@torch.no_grad()
def output(unet):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    prompt = torch.randn(1, 5, unet.config.cross_attention_dim, generator=generator)
    return unet(latents, 500, encoder_hidden_states=prompt).sample


def teach(adapter, concept):
    """Something learned of one concept, with the other off; the adapter as it then stands."""
    for other in BOTH:
        adapter.load(other, adapter.fresh() if other == concept else None)
    generator = torch.Generator().manual_seed(len(concept))
    with torch.no_grad():
        for parameter in adapter.parameters(concept):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    learned = adapter.learned(concept)
    adapter.load(concept, learned)  # what has just learned is put on anew before it is scaled
    return learned


def test_a_fresh_one_changes_nothing(unet, adapter):
    bare = output(tiny_pipeline().unet)
    assert torch.equal(output(unet), bare)
    for concept in BOTH:
        adapter.load(concept, adapter.fresh())
    assert torch.equal(output(unet), bare)


def test_concepts_come_and_go_to_the_bit(unet, adapter):
    bare = output(unet)
    content = teach(adapter, "content")
    alone = output(unet)
    style = teach(adapter, "style")
    assert not torch.equal(alone, bare) and not torch.equal(output(unet), alone)
    adapter.load("content", content)
    both = output(unet)
    for scales, expected in [((0, 0), bare), ((1, 0), alone), ((1, 1), both)]:
        adapter.set_scales(*scales)
        torch.testing.assert_close(output(unet), expected)
    assert all(torch.equal(adapter.learned("style")[name], value) for name, value in style.items())
    adapter.load("style", None)
    assert torch.equal(output(unet), alone)


def test_only_what_it_says_learns(unet, adapter):
    said = {p for concept in BOTH for p in adapter.parameters(concept)}
    assert said == {p for p in unet.parameters() if p.requires_grad}


def test_a_file_holds_factors_of_the_rank_for_each_layer_of_what_is_learned(unet, adapter):
    learned = teach(adapter, "content")
    factors = adapter.factors()
    assert factors.keys() == learned.keys() and adapter.places.keys() == set(BOTH)
    assert all(up.shape[1] == down.shape[0] == 8 for up, down in factors.values())


@pytest.mark.parametrize("method", METHODS)
def test_its_stages_follow_one_another_and_teach_each_concept(method):
    config = Customization(content={"pictures": "c"}, style={"pictures": "s"}, adapter={"method": method})
    stages = plan(config)
    assert [stage.first for stage in stages] == [0, *(stage.end for stage in stages[:-1])]
    assert {concept for stage in stages for concept in stage.teaches} == set(BOTH)
    assert all(set(stage.teaches) <= stage.rates.keys() for stage in stages)


@pytest.mark.parametrize("method", METHODS)
def test_a_concept_learns_from_others_with_the_weight_that_it_has(method):
    settings = {"adapter": {"method": method}}
    for stage in plan(both_of(settings, content={"prior_weight": 1}, style={"prior_weight": 0.1})):
        others = [part for part in stage.parts if part.concept.startswith("other ")]
        for part, concept in zip(others, stage.teaches, strict=True):
            assert concept in part.moves and set(part.moves) <= stage.rates.keys()
            assert part.weight == {"content": 1, "style": 0.1}[concept]
        assert all(part.weight == 1 for part in stage.parts if part not in others)
    if method == "plp":
        settings["adapter"] |= {"content_in": "words", "style_in": "not words"}  # without stand-ins
    content, style, *make = plan(both_of(settings, content={"prior_weight": 1}))
    assert [part.moves for part in content.parts] == [("content",)] * 2 and content.rates.keys() == {"content"}
    assert [part.moves for part in style.parts] == [("style",)] and style.rates.keys() == {"style"}
    assert all([part.moves for part in stage.parts] == [BOTH, BOTH, ("content",)] for stage in make)
    alone = plan(both_of(settings | {"others": {"count": 0}}, content={"prior_weight": 1}))
    assert not any(part.concept.startswith("other ") for stage in alone for part in stage.parts)


@pytest.mark.parametrize("method", METHODS)
def test_a_concept_has_steps_and_a_rate_of_its_own(method):
    content, style, *make = plan(both_of({"adapter": {"method": method}}, style={"steps": 70, "rate": 0.5}))
    assert (content.steps, style.steps, style.first) == (200, 70, 200)
    assert style.rates["style"] == content.rates["content"] / 2
    assert all(stage.first == 270 and stage.rates["style"] == stage.rates["content"] / 2 for stage in make)


def both_of(tables, **concepts):
    own = {kind: {"pictures": kind, "prior_weight": 0, "rate": 1, "steps": 0} | concepts.get(kind, {}) for kind in BOTH}
    return Customization(**{"steps": {"break": 200, "make": 300}} | tables, **own)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_row_of_settings_for_every_method_and_memory_or_none(family):
    rows = FAMILIES[family].memory
    assert not rows or rows.keys() == METHODS.keys()
    assert all(own.keys() == set(BUDGETS) for own in rows.values())
