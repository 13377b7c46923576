"""Pages in a real browser: what is kept, what waits, what fits."""

import shutil
from dataclasses import replace

import pytest
from PIL import Image
from playwright.sync_api import expect

from app import painter
from app.drafts import Drafts
from app.painter import Painter, Stopped
from app.recipe import file_hash
from benchmarks.screenshot import studio as open_studio
from tests.app.browser import PATIENCE, watched
from tests.app.test_recipe import RECIPE
from training import Customization


@pytest.mark.slow
def test_a_project_is_kept_from_the_first_keystroke_in_every_tab(project, browser, tmp_path):
    with open_studio(tmp_path / "runs", project) as address, watched(browser, address) as page:
        page.goto(address)
        name = page.locator("#project-name input, #project-name textarea")
        expect(page.locator("#project input")).to_have_value("Red on blue")
        name.fill("Blue on red")
        expect(page.locator("#project input")).to_have_value("Blue on red")
        wide = Image.new("RGB", (80, 40), "green")
        wide.paste("white", (0, 0, 20, 20))
        wide.save(tmp_path / "IMG_1.png")
        (tmp_path / "IMG_1.txt").write_text("{placeholder}, green")
        both = [tmp_path / "IMG_1.png", tmp_path / "IMG_1.txt"]
        page.locator("#content-pictures input[type=file]").first.set_input_files(both)
        expect(page.locator("#content-cards img")).to_have_count(4)
        drafts = Drafts.of(Customization.load(project), tmp_path / "runs/.projects")

        def wait_for(key, right):
            for _ in range(PATIENCE // 100):
                if right(drafts.read("1").get(key)):
                    return
                page.wait_for_timeout(100)
            pytest.fail(f"{key} was not kept")

        wait_for("content.pictures", lambda kept: len(kept or []) == 4 and kept[3].caption == "{placeholder}, green")
        card = page.locator("#content-cards .card").last
        expect(card.locator("li")).to_contain_text("Much of what is to be seen lies outside the square")
        caption = card.get_by_label("Caption of IMG_1.png")
        expect(caption).to_have_value("{placeholder}, green")
        caption.press("Control+End")
        caption.press_sequentially(" all over")
        wait_for("content.pictures", lambda kept: kept[3].caption == "{placeholder}, green all over")
        expect(card.locator(".learned")).to_have_text("sks, green all over")
        expect(card.locator("mark")).to_have_text("sks")
        expect(caption).to_be_focused()  # what comes back from the studio takes nothing from who types
        square = card.get_by_label("Which part of IMG_1.png is learned, from left to right")
        square.press("Home")
        wait_for("content.pictures", lambda kept: kept[3].crop == 0)
        expect(card.locator("li")).to_have_count(0)
        expect(card.locator("img")).to_have_css("object-position", "0% 0%")

        # A mask that comes after its picture darkens what lies outside, which then counts little.
        Image.linear_gradient("L").resize(wide.size).save(tmp_path / "IMG_1.mask.png")
        page.locator("#content-pictures input[type=file]").first.set_input_files([tmp_path / "IMG_1.mask.png"])
        expect(card.locator("img.mask")).to_have_css("object-position", "0% 0%")
        outside = page.get_by_label("number input for Outside the masks").first
        expect(outside).to_have_value("0.1")
        wait_for("content.unmasked_weight", lambda kept: kept == 0.1)
        card.get_by_label("Take the mask of IMG_1.png out").click()
        expect(card.locator("img")).to_have_count(1)
        expect(outside).to_be_hidden()

        # A caption that was typed goes with its picture.
        page.get_by_label("Caption of picture-1.png").first.fill("the second")
        page.get_by_label("Caption of picture-2.png").first.fill("the third")
        page.get_by_label("Remove picture-1.png").first.click()
        expect(page.locator("#content-cards .card")).to_have_count(3)
        expect(page.get_by_label("Caption of picture-2.png").first).to_have_value("the third")
        expect(caption).to_have_value("{placeholder}, green all over")
        other = page.context.new_page()
        other.set_default_timeout(PATIENCE)
        other.goto(address)
        for one in (page, other):
            expect(one.locator("#project-name input, #project-name textarea")).to_have_value("Blue on red")
        expect(other.locator("#content-cards img")).to_have_count(3)

        # What one tab changes does not go over what another has changed since.
        other.get_by_role("button", name="Advanced").click()
        other.get_by_label("Adapter rank").fill("6")
        wait_for("adapter.rank", lambda kept: kept == 6)
        name.fill("Green on red")
        expect(page.locator("#project input")).to_have_value("Green on red")
        page.click("#new-project")
        expect(name).to_have_value("my project")
        expect(page.locator("#content-cards img")).to_have_count(0)
        other.reload()
        expect(other.locator("#project input")).to_have_value("my project")
        other.locator("#project input").click()
        other.get_by_role("option", name="Green on red").click()
        other.get_by_role("button", name="Advanced").click()
        expect(other.get_by_label("Adapter rank")).to_have_value("6")
        expect(other.locator("#content-cards img")).to_have_count(3)


@pytest.mark.slow
def test_what_a_person_wrote_stays_until_a_recipe_is_dropped(tmp_path_factory, project, finished, browser, tmp_path):
    runs = tmp_path_factory.mktemp("shelf")  # as deep as the library is that the run comes from, and its base
    name = finished.folder.name
    recipe = replace(RECIPE, steps=200, adapter=name, adapter_hash=file_hash(finished.adapter))
    picture = recipe.save(Image.new("RGB", (32, 32)), tmp_path / "a.png")
    with open_studio(runs, project) as address, watched(browser, address) as page:
        page.goto(address)
        expect(page.locator("#project input")).to_have_value("Red on blue")  # the draft is in the fields now
        page.get_by_role("button", name="Advanced").click()
        page.get_by_label("Learning rate: apart").fill("0.5")
        page.locator("#optimizer input").click()
        expect(page.get_by_role("option", name="OwLore")).to_be_visible()
        page.locator("#project-name input").click()
        expect(page.get_by_role("option", name="OwLore")).to_have_count(0)

        page.get_by_role("tab", name="3 Play").click()
        expect(page.locator("#play-run input")).to_have_value("Base model alone")
        expect(page.get_by_label("range slider for Content")).to_be_disabled()
        prompt = page.locator("#prompt textarea")
        prompt.fill("my own words")
        shutil.copytree(finished.folder, runs / name)
        for _ in range(40):  # until the list has been sent anew
            page.locator("#play-run input").click()
            page.wait_for_timeout(300)
            offered = page.get_by_role("option", name=name).count()
            prompt.click()
            if offered:
                break
        assert offered
        page.wait_for_timeout(500)
        expect(page.locator("#play-run input")).to_have_value("Base model alone")
        expect(prompt).to_have_value("my own words")

        page.get_by_role("button", name="Draw a picture again").click()
        page.locator("#recipe input[type=file]").set_input_files(picture)
        note = page.locator("#play-note")
        expect(note).to_contain_text('"Steps" is 200 in the picture, and here it goes from 1 to 50. All else is set.')
        expect(page.locator("#play-run input")).to_have_value(name)
        expect(prompt).to_have_value(RECIPE.prompt)
        expect(page.get_by_label("range slider for Content")).to_be_enabled()
        page.get_by_role("button", name="Compare in a grid").click()
        page.get_by_label("Across").click()
        page.get_by_role("option", name="Checkpoint").click()
        expect(page.get_by_label("Values").first).to_have_value("2, 4, end")
        prompt.fill("others")
        expect(note).not_to_contain_text("200")
        page.get_by_role("tab", name="1 Project").click()
        expect(page.get_by_label("Learning rate: apart")).to_have_value("0.5")

        # A reload shows Play as it was.
        page.get_by_role("tab", name="3 Play").click()
        page.wait_for_timeout(1000)
        kept = page.evaluate("localStorage['joinery-play']")
        page.get_by_label("range slider for Content").fill("0.5")
        page.wait_for_function("kept => localStorage['joinery-play'] !== kept", arg=kept)
        page.reload()
        page.get_by_role("tab", name="3 Play").click()
        expect(prompt).to_have_value("others")
        expect(page.locator("#play-run input")).to_have_value(name)
        expect(page.get_by_label("range slider for Content")).to_have_value("0.5")


@pytest.mark.slow
def test_a_closed_tab_stops_its_drawing_and_who_waits_is_told(studio, page, monkeypatch):
    begun, ended, draw = [], [], Painter.draw

    def noted(*given, **named):
        begun.append(given[-1])
        try:
            ended.append(len(pictures := draw(*given, **named)))
        except Stopped:
            ended.append("stopped")
            raise
        return pictures

    monkeypatch.setattr(Painter, "draw", noted)
    other = page.context.new_page()
    for one in (other, page):
        one.goto(studio[0])
        one.get_by_role("tab", name="3 Play").click()
        expect(one.locator("#prompt textarea")).not_to_have_value("")
    with painter._one_at_a_time:
        other.click("#draw")
        while not begun:
            page.wait_for_timeout(50)
        page.click("#draw")
        expect(page.locator("#play-note")).to_contain_text("Waiting for another drawing.")
        other.close()
        assert begun[0].wait(PATIENCE / 1000)
    expect(page.locator("#pictures img")).to_have_count(4)
    assert ended == ["stopped", 4]


def test_it_fits_a_telephone(studio, page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(studio[0])
    for name in ("1 Project", "2 Train", "3 Play", "4 Library"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
