"""Recipes: into a picture and out of it, and drawn again from it."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from app.pages.play import _finer
from app.painter import Model, Painter, Stopped
from app.recipe import KEY, Recipe, file_hash
from pipelines import APG, UserError
from training import Customization

RECIPE = Recipe("sks koäla, zwx style", 7, 0.8, 1.25, "APG", {}, 5.0, 3, 32, "base", negative_prompt="grey")


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter()


@pytest.fixture(scope="module")
def model(finished) -> Model:
    return Model.of(Customization.load(finished.config), finished)


def pixels(drawn) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture, _ in drawn])


def test_a_recipe_comes_back_from_its_picture(tmp_path):
    recipe = replace(RECIPE, guidance_settings={"eta": 0.0, "norm_threshold": None, "interval": [0.0, 1.0]})
    path = recipe.save(Image.new("RGB", (8, 8), "red"), tmp_path / "new" / "a.png")
    assert Recipe.read(path) == recipe
    assert Image.open(path).size == (8, 8)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 2}', '{"format": 1, "prompt": "x"}', None])
def test_a_picture_without_a_sound_recipe_is_refused_in_words(tmp_path, text):
    chunks = PngImagePlugin.PngInfo()
    if text is not None:
        chunks.add_itxt(KEY, text)
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    with pytest.raises(UserError, match=r"a\.png"):
        Recipe.read(path)
    path.write_text("no picture")
    with pytest.raises(UserError, match="cannot be opened"):
        Recipe.read(path)


def test_what_a_recipe_leaves_out_of_its_rule_is_the_rules_default():
    own = APG()
    for settings, fields in (
        ({"eta": 0.5}, [0.5, own.norm_threshold, own.momentum, 0, 1]),
        ({"norm_threshold": None, "interval": [0.2, 0.8]}, [own.eta, 0, own.momentum, 0.2, 0.8]),
        ({}, [own.eta, own.norm_threshold, own.momentum, 0, 1]),
    ):
        assert _finer(replace(RECIPE, guidance_settings=settings)) == fields
    assert _finer(replace(RECIPE, guidance="CFG"))[3:] == [0, 1]


def test_a_picture_is_drawn_again_from_its_own_recipe(painter, model, finished, tmp_path):
    seen = []
    drawn = painter.draw(model, RECIPE, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 9), (6, 9), (9, 9)]
    recipes = [recipe for _, recipe in drawn]
    assert [recipe.seed for recipe in recipes] == [7, 8, 9]
    assert recipes[0].adapter == finished.folder.name and recipes[0].adapter_hash == file_hash(finished.adapter)
    assert recipes[0].guidance_settings["eta"] == 0.0 and len(recipes[0].base_hash) == 64
    assert str(finished.folder.parent) not in json.dumps(recipes[0].__dict__)

    recipe = Recipe.read(recipes[1].save(drawn[1][0], tmp_path / "b.png"))
    again = painter.draw(model, recipe, 1)
    assert again[0][1] == recipe
    np.testing.assert_allclose(pixels(again)[0].astype(int), pixels(drawn)[1].astype(int), atol=1)


def test_scales_guidance_and_adapter_each_make_a_difference(painter, model):
    first = pixels(painter.draw(model, RECIPE, 1))
    pipe = painter._pipe
    for change in ({"content": 0.0}, {"style": 0.0}, {"guidance": "CFG"}, {"guidance_scale": 9.0}, {"seed": 8}):
        assert (pixels(painter.draw(model, replace(RECIPE, **change), 1)) != first).any(), change
    alone = painter.draw(replace(model, run=None), RECIPE, 1)
    assert alone[0][1].adapter == alone[0][1].adapter_hash == ""
    nothing = painter.draw(model, replace(RECIPE, content=0.0, style=0.0), 1)
    np.testing.assert_allclose(pixels(nothing).astype(int), pixels(alone).astype(int), atol=1)
    assert (pixels(painter.draw(model, RECIPE, 1)) == first).all()
    assert painter._pipe is pipe  # opened once for all of these


def test_stop_ends_a_drawing_and_leaves_the_painter_fit(painter, model):
    first = pixels(painter.draw(model, RECIPE, 1))
    stop = threading.Event()
    with pytest.raises(Stopped):
        painter.draw(model, RECIPE, 1, lambda done, total: stop.set(), stop)
    assert (pixels(painter.draw(model, RECIPE, 1)) == first).all()


def test_a_missing_base_or_adapter_is_said_in_words(painter, model, library, config):
    with pytest.raises(UserError, match="The base model"):
        painter.draw(replace(model, base="no/such/folder/here"), RECIPE, 1)
    run = library.create(config, {"content": [], "style": []})
    with pytest.raises(UserError, match="has no adapter yet"):
        painter.draw(replace(model, run=run), RECIPE, 1)
    painter.draw(model, RECIPE, 1)
