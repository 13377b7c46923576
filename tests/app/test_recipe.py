"""Recipes: into a picture and out of it, and drawn again from it."""

import json
import re
import struct
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from app import drawing, figures
from app.library import Library
from app.line import Line
from app.painter import Model, Painter, Stopped
from app.preview import shown_meanwhile
from app.recipe import KEY, Recipe, file_hash
from pipelines import APG, UserError
from pipelines.guidance import PRESETS
from training import Customization
from training.config import Content, Style
from training.families.diffusion import SAMPLERS

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


def recipe_bytes(folder) -> bytes:
    return RECIPE.save(Image.new("RGB", (8, 8)), folder / "whole.png").read_bytes()


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
    huge = bytearray(recipe_bytes(tmp_path))
    huge[16:24] = struct.pack(">II", 30_000, 30_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    path.write_bytes(huge)
    with pytest.raises(UserError, match="cannot be opened"):
        Recipe.read(path)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"guidance": "PAG"}, "names the guidance 'PAG', and there is APG and CFG here"),
        ({"guidance": ["APG"]}, "damaged or from a newer version"),
        ({"guidance_settings": {"eta": 0.5, "zeta": 1}}, "sets zeta, which APG does not have"),
        ({"guidance": "CFG", "guidance_settings": {"eta": 0.5}}, "sets eta, which CFG does not have"),
        ({"guidance_settings": {"eta": "much"}}, "eta is 'much'. Give a number from 0"),
        ({"guidance_settings": {"eta": 3}}, "eta is 3. Give a number from 0"),
        ({"guidance_settings": "eta"}, "damaged or from a newer version"),
        ({"base": {}}, "damaged or from a newer version"),
        ({"steps": "many"}, "damaged or from a newer version"),
    ],
)
def test_a_recipe_that_no_rule_can_follow_is_refused_in_words(tmp_path, change, words):
    path = replace(RECIPE, **change).save(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    with pytest.raises(UserError, match=words):
        Recipe.read(path)


@pytest.mark.parametrize(
    "base, adapter, others, words",
    [
        ("b", "a", [], "All fields are as the picture was drawn."),
        ("", "a", [], "All fields are as the picture was drawn."),
        ("c", "a", ["base"], "The base (base) is not what the picture was drawn with."),
        ("b", "x", ["adapter"], "The adapter (fox) is not what"),
        ("b", "", ["adapter"], "The adapter (fox) is not what"),
        ("c", "x", ["base", "adapter"], "The base (base) and the adapter (fox) are not what"),
    ],
)
def test_a_recipe_says_which_of_base_and_adapter_differ(base, adapter, others, words):
    recipe = replace(RECIPE, base_hash="b", adapter="fox", adapter_hash="a")
    assert recipe.differences(base, adapter) == others
    assert recipe.said(base, adapter).startswith(words)


def test_what_a_recipe_leaves_out_of_its_rule_is_the_rules_default():
    own = APG()
    for settings, expected in (
        ({"eta": 0.5}, (0.5, own.norm_threshold, own.momentum, 0, 1)),
        ({"norm_threshold": None, "interval": [0.2, 0.8]}, (own.eta, 0, own.momentum, 0.2, 0.8)),
        ({}, (own.eta, own.norm_threshold, own.momentum, 0, 1)),
    ):
        values, odd = drawing.recall(replace(RECIPE, guidance_settings=settings), {})
        assert not odd and expected == tuple(
            values[key] for key in ("eta", "norm_threshold", "momentum", "start", "stop")
        )
    values, _ = drawing.recall(replace(RECIPE, guidance="CFG"), {})
    assert values["stop"] == 1 and "eta" not in values


def test_what_no_field_can_take_is_named_and_all_else_is_set():
    ranges = {"steps": (1, 50), "guidance_scale": (1, 15), "content": (0, 1.5), "seed": (0, 99), "eta": (0, 1)}
    assert drawing.recall(RECIPE, ranges)[1] == []
    odd = replace(RECIPE, steps=200, guidance_scale="much", seed=-1, prompt=["a"])
    values, named = drawing.recall(odd, ranges)
    assert set(named) == {"steps", "guidance_scale", "seed", "prompt"}
    assert values.keys().isdisjoint(named) and values["content"] == RECIPE.content


def test_the_fields_and_the_recipe_say_the_same(model):
    values, _ = drawing.recall(RECIPE, {})
    made = drawing.recipe_of(values | {"fresh": False}, model)
    assert drawing.recall(made, {})[0] == values and made.seed == RECIPE.seed
    assert drawing.recipe_of(values | {"fresh": True}, model).seed != RECIPE.seed
    for change, words in (
        ({"prompt": " "}, "prompt is empty"),
        ({"seed": None}, "seed is None"),
        ({"eta": 2}, "eta is 2"),
    ):
        with pytest.raises(UserError, match=words):
            drawing.recipe_of(values | {"fresh": False} | change, model)


@pytest.mark.parametrize(
    "faults, base, said",
    [
        ([], "b", ("All fields are as the picture was drawn.", "good")),
        (["No."], "b", ("No. All else is set.", "warning")),
        ([], "c", ("The base (base) is not what the picture was drawn with. All else is set.", "warning")),
        (["No."], "c", ("No. The base (base) is not what the picture was drawn with. All else is set.", "warning")),
    ],
)
def test_what_is_said_of_a_recalled_picture(faults, base, said):
    assert drawing.recalled(replace(RECIPE, base_hash="b"), faults, base, "") == said


def test_only_what_was_learned_is_compared_each_in_words_that_it_knows():
    concepts = {"content": Content(pictures="a", class_word="bear"), "style": Style(pictures="b", class_word="ink")}
    whole, content, style = "sks bear, zwx ink style", "sks bear, ink style", "bear, zwx ink style"
    recipe = replace(RECIPE, prompt=whole)
    for names, prompts in (
        ((), {"base": whole}),
        (("content",), {"base": style, "content": whole}),
        (("style",), {"base": content, "style": whole}),
        (concepts, {"base": "bear, ink style", "content": content, "style": style, "joined": whole}),
    ):
        columns = drawing.by_scales(recipe, {name: concepts[name] for name in names})
        assert {label: drawn.prompt for label, drawn in columns.items()} == prompts


PLAIN = {"prompt": "a", "content": 1, "style": 1, "seed": 0, "fresh": True, "negative_prompt": ""}  # of all fields
PLAIN |= {"size": drawing.SQUARE, "sampler": ""}  # the base's own
RANGES = {"style": (0, 1.5), "steps": (1, 50), "seed": (0, 99)}


def test_a_grid_changes_two_fields_and_nothing_else(model):
    values = PLAIN | {"steps": 2} | drawing.looks("emoji", 7.0)["Balanced"]
    across = drawing.Axis.read("style", "0, 0.5,,0", RANGES)
    down = drawing.Axis.read("guidance", "cfg, APG", RANGES)
    assert across.values == [0, 0.5] and down.values == ["CFG", "APG"]
    rows = drawing.by_grid(values, model, across, down)
    assert [[(one.guidance, one.style) for one in row] for row in rows] == [
        [("CFG", 0), ("CFG", 0.5)],
        [("APG", 0), ("APG", 0.5)],
    ]
    others = [replace(one, guidance="", style=0, guidance_settings={}) for row in rows for one in row]
    assert all(one == others[0] for one in others)  # the seed is one as well
    alone = drawing.by_grid(values, model, drawing.Axis.read("steps", "1, 3", RANGES), None)
    assert [[one.steps for one in row] for row in alone] == [[1, 3]]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("style", " , ", "style has no values. Write some, with commas between them"),
        ("prompt", " ; ", "prompt has no values. Write some, with semicolons between them"),
        ("style", "0, much", "style is much. Write numbers from 0 to 1.5"),
        ("style", "0, 2", "style is 2. Write numbers"),
        ("style", "nan", "style is nan. Write numbers"),
        ("steps", "1.5", "steps is 1.5. Write whole numbers"),
        ("guidance", "APG, magic", "guidance is 'magic'. Choose of APG, CFG"),
        ("sampler", "euler, magic", "sampler is 'magic'. Choose of DPM++ 2M, "),
    ],
)
def test_values_of_a_grid_that_cannot_be_are_named(name, text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        drawing.Axis.read(name, text, RANGES)


def test_a_grid_goes_over_prompts_and_over_the_strength_of_a_start(model):
    values = PLAIN | {"steps": 4} | drawing.looks("emoji", 7.0)["Balanced"]
    prompts = drawing.Axis.read("prompt", "a bear, ink; a boat; ", RANGES)
    strengths = drawing.Axis("strength", [0.5, 1.0])
    with pytest.raises(UserError, match="strength changes nothing without a picture"):
        drawing.by_grid(values, model, prompts, strengths)
    rows = drawing.by_grid(values | {"image": "0" * 64, "strength": 0.6}, model, prompts, strengths)
    drawn = [[(one.prompt, one.strength) for one in row] for row in rows]
    assert drawn == [[("a bear, ink", share), ("a boat", share)] for share in (0.5, 1.0)]


def test_a_grid_goes_over_runs_each_on_its_own_base(model):
    values = PLAIN | {"steps": 4} | drawing.looks("emoji", 7.0)["Balanced"]
    with pytest.raises(UserError, match=r"run is 'nobody'\. Choose of first, second"):
        drawing.Axis.read("run", "first, nobody", RANGES, {"run": ["first", "second"]})
    runs = drawing.Axis.read("run", "Second, first", RANGES, {"run": ["first", "second"]})
    assert runs.values == ["second", "first"]
    models = {"first": model, "second": replace(model, name="other", resolution=64)}
    [[one, two]] = drawing.by_grid(values, model, runs, None, lambda name, step: models[name])
    assert (one.adapter, one.base, one.resolution) == ("second", "other", 64)
    assert (two.adapter, two.base, two.resolution) == ("first", model.name, model.resolution)


def test_a_grid_goes_over_the_checkpoints_of_a_run(model, finished):
    values = PLAIN | {"steps": 4, "run": "it"} | drawing.looks("emoji", 7.0)["Balanced"]
    known = {"checkpoint": drawing.checkpoints(finished)}
    assert known == {"checkpoint": ["2", "4", "end"]} and drawing.checkpoints(None) == []
    with pytest.raises(UserError, match=r"checkpoint is '3'\. Choose of 2, 4, end"):
        drawing.Axis.read("checkpoint", "3", RANGES, known)
    steps = drawing.Axis.read("checkpoint", "4, END", RANGES, known)
    styles = drawing.Axis("style", [0.5, 1])
    rows = drawing.by_grid(values, model, steps, styles, lambda name, step: replace(model, checkpoint=step))
    drawn = [[(one.adapter, one.checkpoint, one.style) for one in row] for row in rows]
    assert drawn == [[("it", 4, style), ("it", 0, style)] for style in (0.5, 1)]


def test_a_run_is_drawn_with_as_it_was_after_a_step(painter, model, finished, tmp_path):
    last, [(picture, recipe)] = painter.draw(model, RECIPE, 1), painter.draw(replace(model, checkpoint=2), RECIPE, 1)
    assert recipe.checkpoint == 2 and recipe.adapter_hash == file_hash(finished.adapter_after(2))
    assert (np.asarray(picture) != pixels(last)[0]).any()
    again = Recipe.read(recipe.save(picture, tmp_path / "a.png"))
    assert again == recipe and drawing.recall(again, {})[0]["checkpoint"] == 2
    assert "after step 2" in figures.recipe(again, 0.0)
    assert (pixels(painter.draw(replace(model, checkpoint=2), again, 1))[0] == np.asarray(picture)).all()
    assert b"checkpoint" not in last[0][1].bytes_with(last[0][0])
    assert Library(finished.folder.parent).holding(recipe.adapter_hash, 2) == finished
    with pytest.raises(UserError, match="has no adapter of step 3"):
        painter.draw(replace(model, checkpoint=3), RECIPE, 1)


def test_a_grid_has_two_sides_and_an_end(model):
    many = drawing.Axis("seed", [*range(33)])
    with pytest.raises(UserError, match="The grid has 66 pictures"):
        drawing.by_grid({"seed": 0}, model, many, drawing.Axis("style", [0, 1]))
    with pytest.raises(UserError, match="Both sides of the grid are the same"):
        drawing.by_grid({"seed": 0}, model, many, many)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_look_is_known_again_by_its_numbers_and_in_a_picture_s_recipe(preset, model):
    known = drawing.looks(preset, 7.0)
    others = PLAIN | {"fresh": False, "steps": 2}
    values = dict(eta=1, norm_threshold=0, momentum=0) | others
    for name, look in known.items():
        values |= look
        assert drawing.look_of(values, known) == name
        recalled, odd = drawing.recall(drawing.recipe_of(values, model), {})
        assert odd == [] and drawing.look_of(values | recalled, known) == name
    assert drawing.look_of(values | {"guidance_scale": 6.5}, known) is None
    assert ("As in the paper" in known) == (preset == "emoji")


@pytest.mark.parametrize(
    "resolution, sizes",
    [
        (64, [(64, 64), (56, 72), (72, 56), (48, 88), (88, 48)]),
        (512, [(512, 512), (448, 576), (576, 448), (384, 672), (672, 384)]),
        (1024, [(1024, 1024), (896, 1152), (1152, 896), (768, 1344), (1344, 768)]),  # of SDXL's own training
    ],
)
def test_shapes_have_about_the_pixels_of_the_square_and_are_known_again(resolution, sizes):
    assert [drawing.size_of(shape, resolution) for shape in drawing.SHAPES] == sizes
    assert [drawing.shape_of(size, resolution) for size in sizes] == [*drawing.SHAPES]
    for width, height in sizes:
        assert abs(width * height / resolution**2 - 1) < 0.05
    assert drawing.size_of(" 40x 48", resolution=64) == (40, 48)
    assert drawing.shape_of((40, 48), resolution) == "40 x 48"


@pytest.mark.parametrize(
    "text, said",
    [
        ("large", "size is 'large'. Choose a shape, or write width x height"),
        ("", "size is ''. Choose a shape"),
        ("64 x 8", "size is 64 x 8. This base takes sides from 16 to 256"),
        ("264 x 64", "size is 264 x 64. This base takes sides"),
        (
            "256 x 128",
            "size is 256 x 128. This base takes sides from 16 to 256, and at most 4 times the 64 x 64 pixels",
        ),
    ],
)
def test_a_size_that_the_base_cannot_be_asked_for_is_named(text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        drawing.size_of(text, 64)


def test_a_picture_has_the_size_and_the_sampler_that_its_recipe_says(painter, model, tmp_path):
    first = painter.draw(model, RECIPE, 1)
    wide = painter.draw(model, replace(RECIPE, width=48, height=24), 2)
    assert {picture.size for picture, _ in wide} == {(48, 24)}
    assert Recipe.read(wide[0][1].save(wide[0][0], tmp_path / "a.png")).size == (48, 24)
    with pytest.raises(UserError, match=r"size is 36 x 24\. Set both sides to multiples of 8"):
        painter.draw(model, replace(RECIPE, width=36, height=24), 1)
    drawn = {name: pixels(painter.draw(model, replace(RECIPE, sampler=name, steps=5), 1)) for name in SAMPLERS}
    assert len({picture.tobytes() for picture in drawn.values()}) == len(drawn)
    again = painter.draw(model, replace(RECIPE, sampler="Euler a", steps=5), 2)
    assert (pixels(again)[:1] == drawn["Euler a"]).all()  # its noise is a picture's own
    with pytest.raises(UserError, match=r"There is no sampler 'magic'\. Choose of DPM"):
        painter.draw(model, replace(RECIPE, sampler="magic"), 1)
    assert (pixels(painter.draw(model, RECIPE, 1)) == pixels(first)).all()  # and the base's own is back


def test_a_stop_is_kept_while_a_wish_waits(painter, model):
    line = Line()
    mine, other = line.ask("me"), line.ask("other")
    assert line.ask("me") is None and (line.ahead(mine), line.ahead(other)) == (0, 1)
    line.stop("me")
    with pytest.raises(Stopped):
        painter.draw(model, RECIPE, 1, stop=line.stopped(mine))
    assert line.ahead(other) == 0 and not line.stopped(other).is_set()
    again = line.ask("me")
    assert not line.stopped(again).is_set()
    line.leave(again)
    assert line.ask("me")


def test_a_picture_is_drawn_again_from_its_own_recipe(painter, model, finished, tmp_path):
    seen = []
    drawn = painter.draw(model, RECIPE, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 9), (6, 9), (9, 9)]
    recipes = [recipe for _, recipe in drawn]
    assert [recipe.seed for recipe in recipes] == [7, 8, 9]
    assert recipes[0].adapter == finished.folder.name and recipes[0].adapter_hash == file_hash(finished.adapter)
    assert recipes[0].guidance_settings["eta"] == 0.0 and len(recipes[0].base_hash) == 64
    assert str(finished.folder.parent) not in json.dumps(recipes[0].__dict__)

    assert painter.base_hash(model) == recipes[0].base_hash
    assert painter.base_hash(replace(model, base="another")) == ""

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


def test_what_was_drawn_before_a_stop_is_not_lost(painter, model, monkeypatch):
    whole, stop = painter.draw(model, RECIPE, 2), threading.Event()
    monkeypatch.setattr("app.painter.AT_ONCE", 1)  # one picture a batch
    with pytest.raises(Stopped) as stopped:
        painter.draw(model, RECIPE, 2, lambda done, total: stop.set() if 2 * done > total else None, stop)
    [(picture, recipe)] = stopped.value.drawn
    assert recipe == whole[0][1]
    np.testing.assert_allclose(pixels([(picture, recipe)])[0].astype(int), pixels(whole)[0].astype(int), atol=1)


def test_a_drawing_is_seen_as_it_grows_and_says_what_it_waits_for(model):
    seen, said = [], []
    recipe = replace(RECIPE, steps=9)
    drawn = Painter().draw(model, recipe, 2, say=said.append, preview=seen.append)
    assert said == [f"Opening the base {model.name}", f"Loading the adapter of {model.run.folder.name}"]
    # Each nearer to what comes of it.
    ends = pixels(drawn).astype(float)
    far = [np.abs(np.stack([np.asarray(one) for one in some]) - ends).mean() for some in seen]
    assert [len(some) for some in seen] == [2, 2] and seen[0][0].size == drawn[0][0].size
    assert far[1] < far[0]
    plain = Painter().draw(model, recipe, 2)
    assert (pixels(plain) == pixels(drawn)).all()


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_work_shows_comes_before_its_result(fails):
    def work(show):
        show("a")
        show("b")
        return 1 / (0 if fails else 1)

    shown = shown_meanwhile(work)
    assert [next(shown), next(shown)] == ["a", "b"]
    with pytest.raises(ZeroDivisionError if fails else StopIteration) as ended:
        next(shown)
    assert fails or ended.value.value == 1


def test_a_missing_base_or_adapter_is_said_in_words(painter, model, library, config):
    with pytest.raises(UserError, match="The base model"):
        painter.draw(replace(model, base="no/such/folder/here"), RECIPE, 1)
    run = library.create(config, {"content": [], "style": []})
    with pytest.raises(UserError, match="has no adapter yet"):
        painter.draw(replace(model, run=run), RECIPE, 1)
    painter.draw(model, RECIPE, 1)
