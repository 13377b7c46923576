"""Pictures that were drawn, kept and found; what other programs write in theirs."""

import os
from dataclasses import replace

import pytest
from PIL import Image, PngImagePlugin

from app import drawing
from app.album import FAVOURITE, Album
from app.painter import Model
from app.parameters import Parameters, text_of
from app.recipe import Recipe
from pipelines import UserError
from tests.app.test_recipe import RECIPE

WEB_UI = """a castle <lora:fox:0.8>, ((dusk)),
wide <lora:ink:0.5>
Negative prompt: people, "text"
more
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 12, Size: 512x768, Model: dreams, \
Lora hashes: "fox: 1a, ink: 2b", Version: v1.10"""


@pytest.fixture
def album(tmp_path) -> Album:
    return Album(tmp_path / "pictures")


def drawn(album, **changes):
    """A picture of its own, a second younger than the one before."""
    recipe = replace(RECIPE, **changes)
    path = album.add(Image.new("RGB", (8, 8), (recipe.seed % 256, 0, 0)), recipe)
    os.utime(path, (recipe.seed, recipe.seed))
    return path


def test_every_picture_is_kept_and_found_the_newest_first(album, tmp_path):
    assert album.find() == []
    old, new = drawn(album, seed=1, adapter="Fox in ink"), drawn(album, seed=2, prompt="zwx harbour")
    assert [shot.path for shot in album.find()] == [new, old]
    assert new.name == "base-seed-2.png" and Recipe.read(new) == album.find()[0].recipe
    for words, found in (("harbour", [new]), ("FOX ink", [old]), ("fox harbour", []), ("", [new, old])):
        assert [shot.path for shot in album.find(words)] == found, words

    # The same drawn again is one picture, and the newest.
    again = album.add(Image.open(old), Recipe.read(old))
    assert again == old and [shot.path for shot in album.find()] == [old, new]
    # Another studio's, and another program's.
    assert [shot.path for shot in Album(album.folder).find()] == [old, new]
    (album.folder / "else").mkdir()
    Image.new("RGB", (8, 8)).save(album.folder / "else" / "a.png")
    assert len(album.find()) == 2


def test_a_link_to_pictures_elsewhere_is_passed_over(album, tmp_path):
    elsewhere = Album(tmp_path / "elsewhere")
    folder = elsewhere.add(Image.new("RGB", (8, 8)), RECIPE).parent
    album.folder.mkdir(parents=True)
    (album.folder / "evil").symlink_to(folder)
    assert album.find() == []
    with pytest.raises(UserError):
        album.mark("evil", True)
    assert not (folder / FAVOURITE).exists()


def test_favourites_and_the_trash(album):
    first, second = drawn(album, seed=1), drawn(album, seed=2)
    name = first.parent.name
    album.mark(name, True)
    assert [shot.path for shot in Album(album.folder).find(favourites=True)] == [first]
    album.mark(name, False)
    assert album.find(favourites=True) == []
    where = album.remove(name)
    assert [shot.path for shot in album.find()] == [second]
    assert where.parent.name == "trash" and (where / first.name).exists()
    for gone in (name, "..", "", "trash"):
        with pytest.raises(UserError, match="not there any more"):
            album.get(gone)


def test_a_recipe_stands_in_a_picture_twice(tmp_path):
    recipe = replace(RECIPE, adapter="fox", adapter_hash="ab" * 32)
    path = recipe.save(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    found = Parameters.read(path)
    assert found.loras == {"fox": 1} and found.values == {
        "prompt": RECIPE.prompt, "negative_prompt": "grey", "steps": 3, "guidance_scale": 5.0, "seed": 7,
        "guidance": "APG", "content": 0.8, "style": 1.25, "size": "32x32",
    }  # fmt: skip
    assert "<lora:fox:0.6>" in text_of(replace(recipe, content=0.6, style=0.6))
    # A picture of many megapixels is not decoded for its text.
    assert Recipe.is_in(path) and not Recipe.is_in(plain(tmp_path, "text"))


def plain(folder, text):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(folder / "plain.png", pnginfo=chunks)
    return folder / "plain.png"


def test_what_a_web_ui_writes_fills_the_fields_and_what_is_lost_is_said(tmp_path):
    found = Parameters.read(plain(tmp_path, WEB_UI))
    assert found.loras == {"fox": 0.8, "ink": 0.5}
    values, odd = drawing.recall_elsewhere(found, ["fox"], {"steps": (1, 10), "guidance_scale": (1, 15)})
    assert odd == ["steps"] and values == {
        "prompt": "a castle, ((dusk)),\nwide", "negative_prompt": 'people, "text"\nmore', "guidance_scale": 6.5,
        "seed": 12, "guidance": "CFG", "start": 0.0, "stop": 1.0, "run": "fox", "content": 0.8, "style": 0.8,
        "size": "512x768", "sampler": "DPM++ 2M Karras",
    }  # fmt: skip
    model = Model("emoji", "emoji", "float32", 512, "emoji")
    words, kind = drawing.recalled_elsewhere(found, ["Steps!"], model, "fox")
    assert kind == "warning" and words.endswith("Not restored: Model (dreams), LoRA (ink). Steps!")


@pytest.mark.parametrize(
    "text", ["a dog", "a dog\nSteps: many", "Negative prompt: a dog", "<lora:>", "a: b, c: d, e: f"]
)
def test_any_text_can_be_read(tmp_path, text):
    found = Parameters.read(plain(tmp_path, text))
    values, odd = drawing.recall_elsewhere(found, [], {"steps": (1, 10)})
    assert not odd and isinstance(values["prompt"], str)


def test_a_picture_that_says_nothing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert Parameters.read(tmp_path / "a.png") is None
