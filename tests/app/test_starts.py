"""Pictures that drawings start from: kept, drawn from to the same bytes, and what is said where that cannot be."""

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from app import drawing
from app.chunks import chunks_of
from app.mask import HEAD, MOST, SIDE, read
from app.painter import Model, Painter
from app.parameters import text_of
from app.recipe import KEY, Recipe
from app.starts import Starts
from pipelines import UserError
from tests.app.test_recipe import RECIPE
from training import Customization
from training.pictures import cropped, open_picture, read_pictures


@pytest.fixture
def starts(tmp_path) -> Starts:
    return Starts.of(tmp_path / "runs")


@pytest.fixture
def photo(tmp_path):
    """A picture on its side by its EXIF orientation, longer than wide."""
    image, exif = Image.radial_gradient("L").resize((60, 40)).convert("RGB"), Image.Exif()
    image.paste("red", (0, 0, 25, 20))
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    image.save(path, exif=exif)
    return path


def test_a_picture_is_kept_once_as_training_sees_it(starts, photo, tmp_path):
    name = starts.add(photo, (32, 32))
    kept = starts.get(name)
    assert kept.tobytes() == read_pictures([photo], 32, "")[0].image.tobytes() and kept.size == (32, 32)
    assert starts.add(starts.path(name), (32, 32)) == name  # it is its own copy
    assert [path.name for path in starts.folder.iterdir()] == [f"{name}.png"]
    assert starts.add(photo, (16, 16)) != name
    wide = starts.get(starts.add(photo, (40, 24)))
    assert wide.tobytes() == cropped(open_picture(photo), (40, 24)).tobytes() and wide.size == (40, 24)


def test_a_picture_that_is_gone_or_another_one_is_said(starts, photo, tmp_path):
    name = starts.add(photo, (32, 32))
    Image.new("RGB", (32, 32), "red").save(starts.path(name))
    Image.new("RGB", (32, 32), "red").save(starts.folder / "a.png")
    for other in (name, "a", "0" * 64, "../../photo", "\0"):
        with pytest.raises(UserError, match="started from is not there any more"):
            starts.get(other)
    (tmp_path / "b.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png")
    for path, words in (("b.png", "cannot be opened"), ("c.png", "8 x 8 pixels"), ("d.png", "does not exist")):
        with pytest.raises(UserError, match=words):
            starts.add(tmp_path / path, (32, 32))


def test_a_recipe_says_what_it_started_from_and_nothing_where_there_was_nothing(tmp_path):
    picture = Image.new("RGB", (8, 8))
    plain = chunks_of(RECIPE.save(picture, tmp_path / "a.png"))
    assert not {"image", "strength", "mask"} & json.loads(plain[KEY]).keys() and "Denoising" not in text_of(RECIPE)
    started = replace(RECIPE, image="0" * 64, strength=0.55)
    assert Recipe.read(started.save(picture, tmp_path / "b.png")) == started
    assert text_of(started) == text_of(RECIPE) + ", Denoising strength: 0.55"


def test_the_fields_and_the_recipe_say_the_same_of_a_start():
    model = Model("base", "base", "fp32", 32, "emoji")
    started = replace(RECIPE, image="0" * 64, strength=0.55, mask="1" * 64)
    values, odd = drawing.recall(started, {"strength": (0.05, 1)})
    made = drawing.recipe_of(values | {"fresh": False}, model)
    assert (made.image, made.strength, made.mask, odd) == (started.image, started.strength, started.mask, [])
    without = drawing.recipe_of(values | {"fresh": False, "image": ""}, model)
    assert without.strength == 1 and not without.mask
    assert drawing.recall(replace(started, strength=2), {"strength": (0.05, 1)})[1] == ["strength"]
    for strength, words in (
        (0.04, "strength is 0.04. Set it to a number from 0.05 to 1"),
        (1.5, "strength is 1.5. Set"),
        (None, "strength is None. Set"),
        (0.3, "strength is 0.3, which leaves none of 3 steps. Set it higher"),
    ):
        with pytest.raises(UserError, match=words):
            drawing.recipe_of(values | {"fresh": False, "strength": strength}, model)


def test_a_picture_is_drawn_from_another_and_again_to_the_same_bytes(finished, starts, photo, tmp_path):
    model, painter, seen = Model.of(Customization.load(finished.config), finished), Painter(starts), []
    recipe = replace(RECIPE, image=starts.add(photo, (32, 32)), strength=0.7)
    before = painter.draw(model, RECIPE, 1)[0][0].tobytes()
    (picture, own), *_ = painter.draw(model, recipe, 1, lambda done, total: seen.append((done, total)))
    path = own.save(picture, tmp_path / "a.png")
    assert seen == [(1, 2), (2, 2)] and own.adapter_hash
    again, same = Painter(starts).draw(model, Recipe.read(path), 1)[0]
    assert same.bytes_with(again) == path.read_bytes()

    for change in ({"strength": 1.0}, {"seed": 8}, {"style": 0.0}, {"image": starts.add(tmp_path / "a.png", (32, 32))}):
        assert painter.draw(model, replace(recipe, **change), 1)[0][0].tobytes() != picture.tobytes(), change
    assert painter.draw(model, RECIPE, 1)[0][0].tobytes() == before
    with pytest.raises(UserError, match="is not there any more"):
        painter.draw(model, replace(recipe, image="0" * 64), 1)


def painted(*boxes, size=64) -> Image.Image:
    """Grey, with a white box for each."""
    mask = Image.new("L", (size, size))
    for box in boxes:
        mask.paste(255, box)
    return mask


def test_what_is_painted_over_is_white_in_the_mask_at_the_size_of_the_picture(starts):
    mask = starts.get(starts.add_mask(painted((0, 0, 32, 32), (48, 48, 64, 64)), (32, 32))).convert("L")
    assert mask.size == (32, 32) and mask.getcolors() == [(704, 0), (320, 255)]
    assert mask.crop((0, 0, 16, 16)).getextrema() == (255, 255) and mask.getpixel((31, 31)) == 255
    assert starts.add_mask(painted(), (32, 32)) == ""


def test_what_a_page_paints_is_read_and_anything_else_refused():
    layer = Image.new("RGBA", (SIDE, SIDE))
    layer.paste("#e5484d", (0, 0, 100, 50))
    assert read(sent(layer)).getbbox() == (0, 0, 100, 50)
    small, grey = layer.resize((8, 8)), layer.convert("L")
    for other in (None, 1, "", HEAD, HEAD + "no", HEAD + "AAAA", sent(small), sent(grey), HEAD + "A" * MOST):
        with pytest.raises(UserError, match=r"cannot be read\. Clear it, and paint it again"):
            read(other)


def sent(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return HEAD + base64.b64encode(buffer.getvalue()).decode()


def test_only_what_is_painted_over_changes_and_again_to_the_same_bytes(finished, starts, photo, tmp_path):
    model, painter = Model.of(Customization.load(finished.config), finished), Painter(starts)
    begun = starts.add(photo, (32, 32))
    recipe = replace(RECIPE, image=begun, strength=1.0, mask=starts.add_mask(painted((0, 0, 32, 64)), (32, 32)))
    (first, own), (second, _) = painter.draw(model, recipe, 2)
    picture, left, right = starts.get(begun), (0, 0, 14, 32), (16, 0, 32, 32)
    for drawn in (first, second):
        assert drawn.crop(right).tobytes() == picture.crop(right).tobytes()
        assert drawn.crop(left).tobytes() != picture.crop(left).tobytes()
    assert first.crop(left).tobytes() != second.crop(left).tobytes()
    path = own.save(first, tmp_path / "a.png")
    again, same = Painter(starts).draw(model, Recipe.read(path), 1)[0]
    assert same.bytes_with(again) == path.read_bytes()
    assert painter.draw(model, replace(recipe, style=0.0), 1)[0][0].tobytes() != first.tobytes()
    assert painter.draw(model, replace(recipe, mask=""), 1)[0][0].crop(right).tobytes() != picture.crop(right).tobytes()
    with pytest.raises(UserError, match="is not there any more"):
        painter.draw(model, replace(recipe, mask="0" * 64), 1)
