"""Pictures that are dropped beside all zones, or pasted, in a real browser."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import Page, expect

from app import parameters
from benchmarks.screenshot import studio as open_studio
from tests.app.browser import watched
from tests.app.test_recipe import RECIPE

GIVE = """([kind, where, name, data]) => {
  const files = new DataTransfer(), bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  files.items.add(new File([bytes], name, { type: "image/png" }));
  const asked = { bubbles: true, cancelable: true, composed: true };
  const event = kind === "drop" ? new DragEvent(kind, { ...asked, dataTransfer: files })
                                : new ClipboardEvent(kind, { ...asked, clipboardData: files });
  document.querySelector(where).dispatchEvent(event);
  return event.defaultPrevented;
}"""


def give(page: Page, kind: str, where: str, path: Path) -> bool:
    """Drop or paste a file; whether the page does something with it, since else the browser would leave for it."""
    return page.evaluate(GIVE, [kind, where, path.name, base64.b64encode(path.read_bytes()).decode()])


@pytest.mark.slow
def test_a_picture_fills_the_page_that_it_belongs_to(project, browser, tmp_path):
    plain, text, ours, theirs = (tmp_path / f"{name}.png" for name in ("plain", "text", "ours", "theirs"))
    text.write_text("no picture")
    picture, said = Image.new("RGB", (40, 40), "green"), PngImagePlugin.PngInfo()
    picture.save(plain)
    replace(RECIPE, steps=200).save(picture, ours)
    said.add_text(parameters.KEY, "a lighthouse\nSteps: 7, Sampler: Euler a, CFG scale: 3, Seed: 5")
    picture.save(theirs, pnginfo=said)
    with open_studio(tmp_path / "runs", project) as address, watched(browser, address) as page:
        page.goto(address)
        expect(page.locator("#content-cards .card")).to_have_count(3)
        assert give(page, "drop", ".masthead", plain)
        useless = page.locator("#useless .warning")
        expect(useless).to_contain_text("does not say how it was drawn. To learn from it, drop it on the content")
        assert give(page, "drop", ".masthead", text)
        expect(useless).to_contain_text("text.png cannot be opened as a picture.")
        expect(page.locator("#content-cards .card")).to_have_count(3)
        assert give(page, "drop", "#content-pictures button", plain)
        expect(page.locator("#content-cards .card")).to_have_count(4)

        note, prompt = page.locator("#play-note"), page.locator("#prompt textarea")
        assert give(page, "drop", ".masthead", ours)
        expect(page.get_by_role("tab", name="3 Play")).to_have_attribute("aria-selected", "true")
        expect(note).to_contain_text('"Steps" is 200 in the picture, and here it goes from 1 to 50.')
        expect(prompt).to_have_value(RECIPE.prompt)
        expect(useless).to_have_count(0)
        page.get_by_role("tab", name="4 Library").click()
        assert give(page, "paste", "body", theirs)
        expect(page.get_by_role("tab", name="3 Play")).to_have_attribute("aria-selected", "true")
        expect(prompt).to_have_value("a lighthouse")
        expect(note).to_contain_text("Set from the text that web UIs write.")
