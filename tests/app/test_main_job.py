"""The main job in a real browser, from pictures to an adapter and back."""

import json
import re
import shutil

import psutil
import pytest
from PIL import Image
from playwright.sync_api import expect
from safetensors import safe_open

from app import jobs, look
from app.recipe import Recipe
from tests.app.browser import watched
from tests.app.conftest import open_studio


@pytest.mark.slow
def test_what_is_wrong_is_said_before_anything_starts(studio, page, tmp_path):
    address, library = studio
    page.goto(address)
    for concept in ("content", "style"):
        expect(page.locator(f"#{concept}-cards img")).to_have_count(3)
        expect(page.locator(f"#{concept}-findings")).to_contain_text("These pictures are fine")

    # What is tried out in a copy leaves the project as it was.
    page.click("#copy-project")
    expect(page.locator("#project-name input, #project-name textarea")).to_have_value("Red on blue copy")
    # What is wrong is said in words, before anything starts; of what is too large, before it is sent.
    (tmp_path / "huge.png").write_bytes(bytes(look.LARGEST_UPLOAD + 1))
    page.locator("#content-pictures input[type=file]").first.set_input_files(tmp_path / "huge.png")
    expect(page.locator(".too-large")).to_have_text(
        "huge.png has 51 MB, and 50 MB is the limit. Save it smaller, then add it again."
    )
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.locator("#content-pictures input[type=file]").first.set_input_files(tmp_path / "torn.png")
    expect(page.locator("#content-cards .error")).to_contain_text("torn.png cannot be opened")
    expect(page.locator(".too-large")).to_have_count(0)
    page.click("#start")
    expect(page.locator("#project-note .error")).to_contain_text("torn.png cannot be opened")
    page.reload()
    expect(page.locator("#project input")).to_have_value("Red on blue copy")  # the draft is in the fields now
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Adapter rank").fill("3")
    page.click("#start")
    expect(page.locator("#project-note .error")).to_contain_text('"Adapter rank" is 3')
    # An optimizer brings fields of its own, and what is entered in them is checked too.
    page.locator("#optimizer input").click()
    page.get_by_role("option", name="OwLore").click()
    expect(page.locator("#optimizer-about")).to_contain_text("A few blocks at a time")
    page.get_by_role("button", name="The optimizer's own settings").click()
    expect(page.get_by_label("Active")).to_have_value("0")
    expect(page.get_by_label("Magnitude LR")).to_be_hidden()
    page.get_by_label("Adapter rank").fill("4")
    expect(page.locator("#project-note .error")).to_have_count(0)  # a note goes when its cause does
    page.get_by_label("Active").fill("-1")
    page.click("#start")
    expect(page.locator("#project-note .error")).to_contain_text('"Active" is -1')
    page.get_by_text("Stable Diffusion 1.5").click()
    expect(page.get_by_label("Active")).to_be_hidden()
    page.reload()
    expect(page.locator("#project input")).to_have_value("Red on blue copy")
    page.get_by_role("button", name="Advanced").click()
    expect(page.get_by_label("Stable Diffusion 1.5")).to_be_checked()
    page.click("#delete-project")
    expect(page.locator("#project-note")).to_contain_text("in the trash")
    expect(page.get_by_label("Embedded emoji base")).to_be_checked()
    assert library.runs() == []


def test_the_main_job_by_hand(studio, page, tmp_path):
    address, library = studio
    page.goto(address)
    for concept in ("content", "style"):
        expect(page.locator(f"#{concept}-cards img")).to_have_count(3)
    page.get_by_role("button", name="Advanced").click()

    # Start; and while it trains, the page can be closed and opened again.
    page.get_by_label("Adapter rank").fill("4")
    page.click("#style-nearest")
    expect(page.locator("#style-nearest-word .good")).to_contain_text("is nearest to these pictures")
    expect(page.get_by_label("Class word").last).to_have_value("noto")
    page.click("#measure")
    expect(page.locator("#project-note")).to_contain_text("Doing the first steps of each stage")
    expect(page.locator("#project-note .good")).to_contain_text("that are free")
    assert library.runs() == []
    page.click("#start")
    expect(page.locator(".progress")).to_have_attribute("data-status", "preparing")
    expect(page.locator(".progress")).to_have_attribute("data-status", "running")
    run = library.running()
    child = psutil.Process(run.read_state()["pid"])
    child.suspend()
    page.reload()
    expect(page.locator(".progress")).to_have_attribute("data-status", "running")
    expect(page.locator(".progress")).to_contain_text(run.folder.name)
    expect(page.locator("#cancel")).to_be_visible()
    child.resume()
    expect(page.locator("#strips img").first).to_be_visible()
    slider, step = page.get_by_label("Step of the samples"), page.locator("#strips output")
    expect(slider).to_be_enabled()
    slider.press("Home")
    expect(step).to_have_text("step 5")
    expect(page.locator(".progress")).to_have_attribute("data-status", "done")
    expect(page.locator("#strips figure")).to_have_attribute("data-all", re.compile("finished"))
    expect(step).to_have_text("step 5")  # while more came
    slider.press("End")
    expect(step).to_have_text("finished")
    expect(page.locator("#strips img")).to_have_attribute("src", re.compile("sheet.png$"))
    expect(page.locator("svg.curve")).to_be_visible()
    expect(page.locator(".progress")).to_contain_text("30 of 30")
    assert jobs.look(run).status == "done"

    # Draw, and take the adapter away.
    page.click("#play")
    expect(page.locator("#prompt textarea")).to_have_value("sks koala, zwx noto style")
    page.click("#draw")
    expect(page.locator("#pictures img")).to_have_count(4)
    picture = tmp_path / "first.png"
    picture.write_bytes(page.request.get(page.locator("#pictures img").first.get_attribute("src")).body())
    assert Recipe.read(picture).adapter == run.folder.name and Image.open(picture).size == (32, 32)
    with page.expect_download() as download:
        page.click("#adapter a")
    assert download.value.suggested_filename == f"{run.folder.name}.safetensors"
    download.value.save_as(tmp_path / "adapter.safetensors")
    with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
        assert json.loads(file.metadata()["joinery"])["rank"] == 4


@pytest.mark.slow
def test_pictures_are_drawn_again_and_compared_in_every_way(tmp_path_factory, project, finished, browser, tmp_path):
    runs = tmp_path_factory.mktemp("drawing")
    shutil.copytree(finished.folder, runs / finished.folder.name)
    with open_studio(runs, project) as address, watched(browser, address) as page:
        page.goto(address)
        page.get_by_role("tab", name="3 Play").click()
        # Draw, and draw the same once more from the picture's own recipe.
        expect(page.locator("#prompt textarea")).to_have_value("sks koala, zwx style")
        page.click("#draw")
        expect(page.locator("#pictures img")).to_have_count(4)
        first = page.locator("#pictures img").first.get_attribute("src")
        picture = tmp_path / "first.png"
        picture.write_bytes(page.request.get(first).body())
        recipe = Recipe.read(picture)
        assert recipe.adapter == finished.folder.name and Image.open(picture).size == (32, 32)
        expect(page.locator("#pictures img").first).to_have_css("image-rendering", "pixelated")

        page.fill("#prompt textarea", "something else")
        page.click("#draw")
        expect(page.locator("#pictures img").first).not_to_have_attribute("src", first)
        page.get_by_role("button", name="Draw a picture again").click()
        page.locator("#recipe input[type=file]").set_input_files(picture)
        expect(page.locator("#play-note")).to_contain_text("as the picture was drawn")
        expect(page.locator("#prompt textarea")).to_have_value(recipe.prompt)
        page.click("#draw")
        # A file is served under a hash of its bytes, so the same address is the same picture with the same recipe.
        expect(page.locator("#pictures img").first).to_have_attribute("src", first)

        page.click("#compare")
        expect(page.locator("#pictures img")).to_have_count(16)
        for label in ("base", "content", "style", "joined"):
            expect(page.locator("#pictures").get_by_text(label, exact=True)).to_have_count(4)

        page.click("#rules")
        expect(page.locator("#pictures img")).to_have_count(8)
        for label in ("APG", "CFG"):
            expect(page.locator("#pictures").get_by_text(label, exact=True)).to_have_count(4)
        expect(page.locator("#pair img").first).to_be_visible()

        page.get_by_role("button", name="Compare in a grid").click()
        page.get_by_label("Values").nth(1).fill("2, 99")
        page.click("#grid")
        expect(page.locator("#play-note .error")).to_contain_text('"Scale" is 99. Write numbers from 1 to 15')
        page.get_by_label("Values").nth(1).fill("2, 7")
        page.click("#grid")
        expect(page.locator("#pictures img")).to_have_count(9)  # and the sheet of them all
        expect(page.locator("#pictures").get_by_text("Scale 7.0, Style 0.5")).to_have_count(1)
        expect(page.locator("#pair")).to_be_hidden()

        page.get_by_label("range slider for Content").fill("0.5")
        page.click("#draw")
        expect(page.locator("#pictures img")).to_have_count(4)
        picture.write_bytes(page.request.get(page.locator("#pictures img").first.get_attribute("src")).body())
        assert Recipe.read(picture).content == 0.5

        page.fill("#prompt textarea", " ")
        page.click("#draw")
        expect(page.locator("#play-note .error")).to_contain_text("The prompt is empty")
