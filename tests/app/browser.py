"""A real browser for tests, which must meet no error and ask nobody else."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

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
    left = [fault for fault in faults if not any(words in fault for words in CUT_OFF)]
    assert left == [], left


@pytest.fixture
def page(studio, browser):
    with watched(browser, studio[0]) as page:
        yield page
