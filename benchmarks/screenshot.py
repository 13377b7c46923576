"""Take pictures of the studio's pages: python -m benchmarks.screenshot [PAGE] [--runs FOLDER]

The README's is of the third page: the newest finished run, drawn from seed 0 with nothing, content, style, and both.
The others are the guide's. Needs a Chromium and playwright (requirements-dev.txt).
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import uvicorn
from playwright.sync_api import Page, expect, sync_playwright

from app.__main__ import HOUSE, listen
from app.studio import serve
from training.run import runs_folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds


@contextmanager
def studio(runs: Path, project: Path, **settings: Any) -> Iterator[str]:
    """The address of a studio that shows a folder of runs, with what else `serve` takes; it closes with the context."""
    with served(serve(runs, project, **settings)) as address:
        yield address


@contextmanager
def served(application: Callable) -> Iterator[str]:
    """The address at which a web application answers on this machine; it ends with the context."""
    with listen("127.0.0.1", 0) as door:
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)


def project(page: Page) -> None:
    expect(page.locator("#estimate")).to_contain_text("steps")
    expect(page.locator("#style-cards .card")).to_have_count(5)


def train(page: Page) -> None:
    page.get_by_role("tab", name="2 Train").click()
    expect(page.locator("svg.curve")).to_be_visible()
    expect(page.locator("#strips img").first).to_be_visible()


def play(page: Page) -> None:
    page.get_by_role("tab", name="3 Play").click()
    expect(page.locator("#adapter a")).to_be_visible()
    page.get_by_label("New seed each time").uncheck()
    page.get_by_label("Seed", exact=True).fill("0")
    page.click("#compare")
    expect(page.locator("#pictures img")).to_have_count(16)
    expect(page.locator("#pictures")).not_to_contain_text("Drawing")


def library(page: Page) -> None:
    page.get_by_role("tab", name="4 Library").click()
    page.locator("#album button").first.click()
    expect(page.locator("#shot-recipe")).to_contain_text("Prompt")
    expect(page.locator("#export a")).to_be_visible()


PAGES = {
    "project": (project, "studio-project"),
    "train": (train, "studio-train"),
    "play": (play, "studio"),
    "library": (library, "studio-library"),
}


def take(
    which: Annotated[Literal["project", "train", "play", "library"], tyro.conf.Positional] = "play",
    runs: Path | None = None,
    out: Path | None = None,
    width: int = 1280,
    dark: bool = False,
) -> None:
    """Take a picture.

    Args:
        which: the page.
        runs: the folder of the studio's runs; the data folder's if not given.
        out: the PNG to write; that of the docs if not given.
        width: of the window; 390 is a telephone's.
        dark: as people see it who asked their system for dark windows.
    """
    prepare, name = PAGES[which]
    out = out or HOUSE / f"docs/pictures/{name}{'-dark' if dark else ''}.png"
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with studio(runs or runs_folder(), HOUSE / "samples/project.toml") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", device_scale_factor=1.5
        )
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.goto(address)
        prepare(page)
        page.mouse.move(0, 0)
        page.wait_for_function("[...document.querySelectorAll('img')].every(img => img.complete)")
        out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=out, full_page=True)
        browser.close()
    print(out)


if __name__ == "__main__":
    tyro.cli(take)
