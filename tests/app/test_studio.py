"""The main job in a real browser, and the doors of the web application."""

import errno
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import gradio as gr
import psutil
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from safetensors import safe_open

from app import jobs, look, painter
from app.__main__ import HOUSE
from app.copies import Copies
from app.drafts import Drafts
from app.library import Library
from app.pages import in_words
from app.painter import Painter, Stopped
from app.recipe import Recipe, file_hash
from app.studio import build as studio_page
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError
from tests.app.conftest import pictures_of
from tests.app.test_recipe import RECIPE
from training import Customization

PATIENCE = 120_000  # milliseconds, for machines that do other things too
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CUT_OFF = ("AbortError", "Connection errored out")  # what a page says of its open requests when it is left
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium was found; install it from the system's packages")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)


@contextmanager
def watched(browser, address: str):
    """A page that notes every console error, failed response and request to elsewhere: there must be none."""
    faults = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("response", lambda r: faults.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    here = (address, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(here) else faults.append(r.url))
    yield page
    context.close()
    assert [fault for fault in faults if not any(words in fault for words in CUT_OFF)] == []


@pytest.fixture
def page(studio, browser):
    with watched(browser, studio[0]) as page:
        yield page


def test_the_main_job_by_hand(studio, page, tmp_path):
    address, library = studio
    page.goto(address)
    for concept in ("content", "style"):
        expect(page.locator(f"#{concept}-pictures img")).to_have_count(3)
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
    expect(page.locator("#content-findings .error")).to_contain_text("torn.png cannot be opened")
    expect(page.locator(".too-large")).to_have_count(0)
    page.click("#start")
    expect(page.locator("#project-note .error")).to_contain_text("torn.png cannot be opened")
    page.reload()
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
    expect(page.get_by_label("Magnitude lr")).to_be_hidden()
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

    # Start; and while it trains, the page can be closed and opened again.
    page.get_by_label("Adapter rank").fill("4")
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
    expect(page.locator(".progress")).to_have_attribute("data-status", "done")
    expect(page.locator("svg.curve")).to_be_visible()
    expect(page.locator(".progress")).to_contain_text("30 of 30")
    assert jobs.look(run).status == "done"

    # Draw, and draw the same once more from the picture's own recipe.
    page.click("#play")
    expect(page.locator("#prompt textarea")).to_have_value("sks koala, zwx style")
    page.click("#draw")
    expect(page.locator("#pictures img")).to_have_count(4)
    first = page.locator("#pictures img").first.get_attribute("src")
    picture = tmp_path / "first.png"
    picture.write_bytes(page.request.get(first).body())
    recipe = Recipe.read(picture)
    assert recipe.adapter == run.folder.name and Image.open(picture).size == (32, 32)
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

    page.get_by_role("button", name="Compare in a grid").click()
    page.get_by_label("Values").nth(1).fill("2, 99")
    page.click("#grid")
    expect(page.locator("#play-note .error")).to_contain_text('"Scale" is 99. Write numbers from 1 to 15')
    page.get_by_label("Values").nth(1).fill("2, 7")
    page.click("#grid")
    expect(page.locator("#pictures img")).to_have_count(9)  # and the sheet of them all
    expect(page.locator("#pictures").get_by_text("Scale 7.0, Style 0.5")).to_have_count(1)

    page.get_by_label("range slider for Content").fill("0.5")
    page.click("#draw")
    expect(page.locator("#pictures img")).to_have_count(4)
    picture.write_bytes(page.request.get(page.locator("#pictures img").first.get_attribute("src")).body())
    assert Recipe.read(picture).content == 0.5

    page.fill("#prompt textarea", " ")
    page.click("#draw")
    expect(page.locator("#play-note .error")).to_contain_text("The prompt is empty")

    with page.expect_download() as download:
        page.click("#adapter a")
    assert download.value.suggested_filename == f"{run.folder.name}.safetensors"
    download.value.save_as(tmp_path / "adapter.safetensors")
    with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
        assert json.loads(file.metadata()["joinery"])["rank"] == 4


def test_a_project_is_kept_from_the_first_keystroke_in_every_tab(project, browser, tmp_path):
    with open_studio(tmp_path / "runs", project) as address, watched(browser, address) as page:
        page.goto(address)
        name = page.locator("#project-name input, #project-name textarea")
        expect(page.locator("#project input")).to_have_value("Red on blue")
        name.fill("Blue on red")
        expect(page.locator("#project input")).to_have_value("Blue on red")
        Image.new("RGB", (40, 40), "green").save(tmp_path / "one more.png")
        page.locator("#content-pictures input[type=file]").first.set_input_files(tmp_path / "one more.png")
        expect(page.locator("#content-pictures img")).to_have_count(4)
        drafts = Drafts.of(Customization.load(project), tmp_path / "runs/.projects")

        def wait_for(key, right):
            for _ in range(PATIENCE // 100):
                if right(drafts.read("1").get(key)):
                    return
                page.wait_for_timeout(100)
            pytest.fail(f"{key} was not kept")

        wait_for("content.pictures", lambda kept: len(kept or []) == 4)
        page.get_by_role("button", name="Captions of the pictures").first.click()
        page.locator("#content-captions [role=gridcell]").last.dblclick()
        page.keyboard.type("{placeholder}, green all over")
        page.keyboard.press("Enter")
        wait_for("content.pictures", lambda kept: kept[-1][1] == "{placeholder}, green all over")
        other = page.context.new_page()
        other.set_default_timeout(PATIENCE)
        other.goto(address)
        for one in (page, other):
            expect(one.locator("#project-name input, #project-name textarea")).to_have_value("Blue on red")
        expect(other.locator("#content-pictures img")).to_have_count(4)

        # What one tab changes does not go over what another has changed since.
        other.get_by_role("button", name="Advanced").click()
        other.get_by_label("Adapter rank").fill("6")
        wait_for("adapter.rank", lambda kept: kept == 6)
        name.fill("Green on red")
        expect(page.locator("#project input")).to_have_value("Green on red")
        page.click("#new-project")
        expect(name).to_have_value("my project")
        expect(page.locator("#content-pictures img")).to_have_count(0)
        other.reload()
        expect(other.locator("#project input")).to_have_value("my project")
        other.locator("#project input").click()
        other.get_by_role("option", name="Green on red").click()
        other.get_by_role("button", name="Advanced").click()
        expect(other.get_by_label("Adapter rank")).to_have_value("6")
        expect(other.locator("#content-pictures img")).to_have_count(4)


def test_a_list_that_closes_changes_nothing(config, library, tmp_path):
    """Gradio says `input` of a list then too, so what a choice brings would go over what a person has written."""
    page = studio_page(library, config, Copies(tmp_path))
    closed = {number for number, field in page.blocks.items()
              if isinstance(field, gr.Dropdown) and not field.allow_custom_value}  # fmt: skip
    heard = [target for event in page.fns.values() for target in event.targets if target[0] in closed]
    assert {number for number, _ in heard} == closed
    assert "input" not in {name for _, name in heard}


def test_what_a_person_wrote_stays_until_a_recipe_is_dropped(tmp_path_factory, project, finished, browser, tmp_path):
    runs = tmp_path_factory.mktemp("shelf")  # as deep as the library is that the run comes from, and its base
    name = finished.folder.name
    recipe = replace(RECIPE, steps=200, adapter=name, adapter_hash=file_hash(finished.adapter))
    picture = recipe.save(Image.new("RGB", (32, 32)), tmp_path / "a.png")
    with open_studio(runs, project) as address, watched(browser, address) as page:
        page.goto(address)
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
        prompt.fill("others")
        expect(note).not_to_contain_text("200")
        page.get_by_role("tab", name="1 Project").click()
        expect(page.get_by_label("Learning rate: apart")).to_have_value("0.5")


def test_an_open_studio_starts_the_next_run_in_line(config, project, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_start", lambda run: run.write_state(status="preparing"))
    library = Library(tmp_path / "runs")
    first, second = (
        jobs.launch(library, config.model_copy(update={"seed": seed}), pictures_of(config)) for seed in (1, 2)
    )
    with open_studio(library.folder, project):
        assert jobs.look(second).status == "queued"
        first.write_state(status="done")
        deadline = time.monotonic() + PATIENCE / 1000
        while jobs.look(second).status == "queued" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert jobs.look(second).status == "preparing"


def test_only_drawing_waits_in_line(config, library, tmp_path):
    page = studio_page(library, config, Copies(tmp_path))
    asked = (event for event in page.fns.values() if event.targets[0][1] != "unload")
    queued = [event for event in asked if event.queue is not False]
    assert {event.concurrency_id for event in queued} == {"device"} and len(queued) == 4


def test_a_closed_tab_stops_its_drawing_and_who_waits_is_told(studio, page, monkeypatch):
    begun, ended, draw = [], [], Painter.draw

    def noted(*given):
        begun.append(given[-1])
        try:
            ended.append(len(pictures := draw(*given)))
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


def test_whatever_goes_wrong_is_a_sentence(config, library, tmp_path):
    page = studio_page(library, config, Copies(tmp_path))
    start = next(event.fn for event in page.fns.values() if event.fn and event.fn.__name__ == "start")
    with pytest.raises(gr.Error, match=r"made a fault\. Its terminal says which"):
        start(None)

    def raising(error):
        def handler():
            raise error

        return in_words(handler)

    for error, words in (
        (UserError("There is no run <b>", "Choose another one"), "There is no run &lt;b&gt;. Choose another one."),
        (OSError(errno.ENOSPC, "No space left on device"), "could not be read or written: No space left on device."),
    ):
        with pytest.raises(gr.Error) as said:
            raising(error)()
        assert words in said.value.message


def test_a_run_that_cannot_be_read_does_not_keep_the_studio_from_opening(config, library, tmp_path):
    run = library.create(config, pictures_of(config))
    run.config.write_text("no project")
    page = studio_page(library, config, Copies(tmp_path))
    look = next(
        event.fn
        for event in page.fns.values()
        if event.fn and event.fn.__name__ == "look" and event.targets[0][1] == "tick"
    )
    shown = look(run.folder.name, None, "")
    assert any("is not valid TOML" in str(value) for value in shown.values())


def test_it_fits_a_telephone(studio, page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(studio[0])
    for name in ("1 Project", "2 Train", "3 Play"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_health_and_adapters(studio):
    address, _ = studio
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        assert json.load(answer) == {"status": "ok"}
    for name in ("nothing", "..", "%2e%2e%2fbase"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/adapters/{name}.safetensors")
        assert refused.value.code == 404


def test_the_page_is_built_without_what_draws(tmp_path):
    """PyTorch and diffusers take longer to import than all else together."""
    code = (
        "import sys; from app.__main__ import Path, Studio; from app.studio import serve\n"
        f"serve(Path({str(tmp_path)!r}), Studio.project)\n"
        "print({'torch', 'diffusers', 'transformers', 'peft'} & sys.modules.keys())"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True)
    assert ended.stdout == "set()\n", ended.stdout + ended.stderr


def test_a_taken_port_is_refused_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([sys.executable, "-m", "app", "--port", port], cwd=HOUSE, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"Port {port} of 127.0.0.1 is taken") and ended.stderr.count("\n") == 1
