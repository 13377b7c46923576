"""Strips and sheet of a run, without the run."""

import pytest
import torch
from PIL import Image

from tests.training.test_adapters import teach
from training.adapters import METHODS
from training.config import AdapterSettings
from training.model import open_base
from training.previews import SEEDS, Previews
from training.run import Run
from training.sampling import guided_pipeline
from training.sheet import CELL, LABEL, LINE
from training.stages import BOTH, Stage


@pytest.fixture(params=METHODS)
def previews(request, config, tmp_path):
    pipe = guided_pipeline(open_base(config.base), "emoji")
    adapter = METHODS[request.param].attach(pipe.unet, AdapterSettings(method=request.param, rank=4))
    run = Run(tmp_path / "run")
    run.samples.mkdir(parents=True)
    return Previews(pipe, adapter, config, run)


def columns(path) -> int:
    return (Image.open(path).width - LABEL) // CELL


def pixels(previews, column) -> list[bytes]:
    return [picture.tobytes() for picture in previews.columns[column]]


def test_a_strip_shows_what_exists_by_then_and_leaves_the_adapter_alone(previews):
    teach(previews.adapter, "content")
    done = {"content": previews.adapter.learned("content")}
    previews.draw(Stage("content", 0, 4, (), {}), 2, {})
    assert columns(previews.run.samples / "step-000002.png") == 2  # base and content
    base, content = pixels(previews, "base"), pixels(previews, "content")
    assert len(base) == len(SEEDS) and base != content

    teach(previews.adapter, "style")
    before = {concept: previews.adapter.learned(concept) for concept in BOTH}
    previews.draw(Stage("style", 4, 4, (), {}), 6, done)
    assert columns(previews.run.samples / "step-000006.png") == 4
    assert pixels(previews, "base") == base and pixels(previews, "content") == content
    assert pixels(previews, "joined") not in (content, pixels(previews, "style"))
    for concept, learned in before.items():
        now = previews.adapter.learned(concept)
        assert now.keys() == learned.keys() and all(torch.equal(now[name], learned[name]) for name in learned)


def test_a_column_s_prompt_has_no_word_that_it_did_not_learn(previews, monkeypatch):
    asked = []
    monkeypatch.setattr("training.previews.draw", lambda pipe, prompt, seeds, *rest, **more: (
        asked.append(prompt), [Image.new("RGB", (32, 32))] * len(seeds))[1])  # fmt: skip
    previews.config.content.class_word, previews.config.style.class_word = "koala", "ink"
    previews.finish({"content", "style"})
    joined = "sks koala, zwx ink style"
    assert asked[:4] == ["koala, ink style", "sks koala, ink style", "koala, zwx ink style", joined]
    assert {*asked[4:]} == {joined}


def test_the_sheet_has_a_column_for_what_was_learned(previews):
    teach(previews.adapter, "style")
    previews.finish({"style"})
    assert list(previews.columns) == ["base", "style"] and previews.run.sheet.exists()


def test_more_prompts_are_drawn_below_and_in_full_size(previews):
    previews.finish({"style"})
    before = Image.open(previews.run.sheet).height
    previews.config.samples.prompts = ["a red zwx picture", "a blue one"]
    previews.finish({"style"})
    assert Image.open(previews.run.sheet).height == before + 2 * (LINE + CELL)
    sizes = [Image.open(path).size for path in sorted(previews.run.samples.glob("prompt-*.png"))]
    assert sizes == [(previews.config.resolution,) * 2] * 2 * len(SEEDS)
