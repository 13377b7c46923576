"""The judges, on drawings made here."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines import UserError
from training.base import data, judge, recipes
from training.base.data import SPLIT, Pictures
from training.draws import keyed

CONTENTS = [*SPLIT["contents"][:3], "a thing of no name"]
STYLES = SPLIT["styles"][:2]
COLOURS = {STYLES[0]: (220, 30, 30), STYLES[1]: (30, 60, 220)}


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Pictures:
    """Patterns whose colour is the style, and whose form is the content."""
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path))
    torch.set_num_threads(1)
    y, x = np.mgrid[:64, :64] // 8
    forms = y % 2 == 0, x % 2 == 0, (abs(y - 3.5) < 2) & (abs(x - 3.5) < 2), (x + y) % 2 == 0
    pixels, pairs = [], []
    for style in STYLES:
        for form, content in zip(forms, CONTENTS, strict=True):
            pixels.append(np.where(form[..., None], COLOURS[style], 255).astype(np.uint8))
            pairs.append((content, style))
    return Pictures(torch.from_numpy(np.stack(pixels)), pairs)


@pytest.fixture(params=["judge", "judge-2"])
def recipe(request):
    return recipes.JUDGES["tiny"][request.param]


def test_a_judge_learns_styles_and_contents_and_is_read_back(pictures, recipe, tmp_path):
    made = judge.make("judge", recipe, pictures)
    named = [pair for pair in pictures.pairs if pair[0] in SPLIT["contents"]]
    pixels = pictures.take(named).pixels
    right = judge.accuracy(made.says(pixels, STYLES, CONTENTS[:3]), named)
    assert right["style"] == 1 and right["content"] > 0.5

    made.save(tmp_path / "saved")
    again = judge.Judge.load(tmp_path / "saved")
    assert torch.allclose(made.features(pixels), again.features(pixels), atol=1e-2)
    assert again.features(pixels).shape == (6, again.trunk.width)


def test_a_judge_that_was_stopped_is_the_same_as_one_that_was_not(pictures, recipe, tmp_path, monkeypatch):
    short = replace(recipe, schedule=replace(recipe.schedule, steps=5, save_every=2))
    whole = judge.make("judge", short, pictures)
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path / "again"))
    parts = [judge.make("judge", short, pictures, stop_after=0) for _ in range(5)]
    assert parts[:4] == [None] * 4
    assert all(map(torch.equal, whole.state_dict().values(), parts[4].state_dict().values()))


def test_another_recipes_checkpoints_are_refused(pictures, recipe):
    short = replace(recipe, schedule=replace(recipe.schedule, steps=2))
    judge.make("judge", short, pictures)
    with pytest.raises(UserError, match="begun with other settings"):
        judge.make("judge", replace(short, seed=9), pictures)


def test_augmented_pictures_are_a_function_of_the_generator(pictures):
    one, two = (judge.augment(pictures.pixels, keyed("a")) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, judge.augment(pictures.pixels, keyed("b")))
    assert one.shape == (8, 3, 64, 64) and one.min() >= -1 and one.max() <= 1


def test_a_folder_without_a_judge_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no judge"):
        judge.Judge.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"trunk": "other"}))
    with pytest.raises(UserError, match="holds no judge"):
        judge.Judge.load(tmp_path)


def test_a_check_leaves_an_eighth_out():
    cells = [(content, style) for content in SPLIT["contents"] for style in SPLIT["styles"]]
    assert 0.08 < sum(map(judge.left_out, cells)) / len(cells) < 0.17


def test_accuracy_counts_contents_and_styles_apart():
    true = [("fox", "noto"), ("bell", "noto"), ("fox", "blob"), ("bell", "blob")]
    said = [("fox", "noto"), ("bell", "blob"), ("bell", "blob"), ("fox", "noto")]
    assert judge.accuracy(said, true) == {"content": 0.5, "style": 0.5, "both": 0.25}


def test_known_pairs_are_the_splits(pictures):
    known, without = data.known_pairs(pictures), data.known_pairs(pictures, left_out=True)
    assert without == [("cat face", "noto")]
    assert {*known, *without} == {p for p in pictures.pairs if p[0] in SPLIT["contents"]} and len(known) == 5
