"""A picture to start from on the Play page, in a real browser."""

import shutil
from dataclasses import replace

import pytest
from PIL import Image
from playwright.sync_api import expect

from app.album import Album
from app.recipe import file_hash
from app.starts import Starts
from benchmarks.screenshot import studio as open_studio
from tests.app.browser import PATIENCE, watched
from tests.app.test_recipe import RECIPE


@pytest.mark.slow
def test_a_picture_is_dropped_drawn_from_and_recalled(tmp_path_factory, project, finished, browser, tmp_path):
    runs, name = tmp_path_factory.mktemp("shelf"), finished.folder.name
    shutil.copytree(finished.folder, runs / name)
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    (tmp_path / "none.png").write_text("no picture")
    gone = replace(RECIPE, image="0" * 64, strength=0.5, adapter=name, adapter_hash=file_hash(finished.adapter))
    gone.save(Image.new("RGB", (32, 32)), tmp_path / "gone.png")
    with open_studio(runs, project) as address, watched(browser, address) as page:
        page.goto(address)
        page.get_by_role("tab", name="3 Play").click()
        expect(page.locator("#play-run input")).to_have_value(name)
        page.get_by_role("button", name="Start from a picture").click()
        note, shown = page.locator("#play-note"), page.locator("#start img")
        page.locator("#start input[type=file]").set_input_files(tmp_path / "none.png")
        expect(note).to_contain_text("none.png cannot be opened")
        expect(note).not_to_contain_text("/")
        expect(shown).to_have_count(0)
        page.locator("#start input[type=file]").set_input_files(tmp_path / "red.png")
        expect(shown).to_have_count(1)
        expect(note).to_have_text("")
        page.click("#draw")
        expect(page.locator("#pictures img")).to_have_count(4)
        album = Album.of(runs)
        recipes = {(shot.recipe.image, shot.recipe.mask) for shot in album.find()}
        assert len(album.find()) == 4 and recipes == {(Starts.of(runs).add(tmp_path / "red.png", (32, 32)), "")}

        # A click on a picture says how it was drawn, and takes that over.
        page.locator("#pictures button.thumbnail-item").nth(1).click()
        expect(page.locator("#drawn-so")).to_contain_text("strength 0.6")
        page.click("#use-drawn")
        expect(note).to_have_text("All fields are as the picture was drawn.")
        page.get_by_role("button", name="What guidance did at each step").click()
        expect(page.locator("#guided svg rect")).not_to_have_count(0)
        page.get_by_label("New seed each time").check()

        page.get_by_role("button", name="Change only a part of it").click()
        paint_over(page)
        page.click("#draw")
        expect(note).to_have_text("")
        until(page, lambda: len(album.find()) == 8)
        (mask,) = {shot.recipe.mask for shot in album.find()} - {""}
        painted = Starts.of(runs).get(mask).convert("L").getbbox()
        assert painted and painted != (0, 0, 32, 32)
        part = next(shot.path for shot in album.find() if shot.recipe.mask)

        page.get_by_role("button", name="Draw a picture again").click()
        page.locator("#recipe input[type=file]").set_input_files(tmp_path / "gone.png")
        expect(note).to_contain_text("The picture that the drawing started from is not there any more.")
        expect(shown).to_have_count(0)
        page.locator("#recipe").get_by_role("button", name="Clear").click()
        page.locator("#recipe input[type=file]").set_input_files(album.find()[0].path)
        expect(note).to_have_text("All fields are as the picture was drawn.")
        expect(shown).to_have_count(1)

        page.locator("#recipe").get_by_role("button", name="Clear").click()
        page.locator("#recipe input[type=file]").set_input_files(part)
        expect(note).to_have_text("All fields are as the picture was drawn.")
        until(page, lambda: page.evaluate(PAINTED))
        page.get_by_label("New seed each time").check()
        page.click("#draw")
        until(page, lambda: len(album.find()) == 12)
        assert {shot.recipe.mask for shot in album.find()} == {"", mask}

        # Another size shows another part of the picture, over which nothing is painted.
        page.locator("#size input").fill("24 x 32")
        page.locator("#size input").press("Enter")
        until(page, lambda: not page.evaluate(PAINTED))
        box = page.locator("#painted canvas").bounding_box()
        assert abs(box["width"] / box["height"] - 24 / 32) < 0.02
        page.click("#draw")
        until(page, lambda: len(album.find()) == 16)
        newest = album.find()[0].recipe
        assert newest.size == (24, 32) == Starts.of(runs).get(newest.image).size and not newest.mask


# Whether there is paint on the canvas.
PAINTED = """() => {
  const canvas = document.querySelector("#painted canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, at) => at % 4 === 3 && value > 0);
}"""


def paint_over(page):
    """A stroke across the canvas."""
    canvas = page.locator("#painted canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=10)
    page.mouse.up()


def until(page, true):
    for _ in range(PATIENCE // 200):
        if true():
            return
        page.wait_for_timeout(200)
    raise AssertionError("it never came true")
