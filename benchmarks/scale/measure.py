"""What one run, one picture and one open page take: python -m benchmarks.scale.measure RUN

From a finished run of the shipped defaults: its folder, and the seconds of its steps. From a studio with that run, on
this machine: the bytes that a page takes to open, those of a picture, the seconds of one, and the memory of a studio
that waits. Writes results.json, and docs/scale.md from it.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

import psutil
import tyro
from playwright.sync_api import sync_playwright

from app.drawing import usual
from app.painter import Model, Painter
from benchmarks.common.environment import environment
from benchmarks.common.studio import studio_process
from benchmarks.scale.table import DOC, RESULTS, filled
from benchmarks.screenshot import BROWSERS
from training import Run

PICTURES = 16


def main(run: tyro.conf.Positional[Path]) -> None:
    """Measure, and write the document.

    Args:
        run: a finished run's folder.
    """
    done = Run(run)
    files = [file for file in done.folder.rglob("*") if file.is_file()]
    found = {
        "run_bytes": sum(file.stat().st_size for file in files),
        "run_adapter_bytes": done.adapter.stat().st_size,
        "run_seconds": round(sum(entry["seconds_per_step"] for entry in done.read_metrics())),
        "run_steps": len(done.read_metrics()),
    }
    found |= drawing(done) | studio(done)
    RESULTS.write_text(json.dumps(environment() | found, indent=1) + "\n", encoding="utf-8")
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
    print(found)


def drawing(run: Run) -> dict[str, float]:
    """Seconds and bytes of a picture, a mean over some; the first one, which opens the base, is left out."""
    config = run.customization()
    model, painter = Model.of(config, run), Painter()
    recipe = usual(config, model)
    painter.draw(model, recipe, 1)
    began = time.monotonic()
    drawn = painter.draw(model, recipe, PICTURES)
    seconds = (time.monotonic() - began) / PICTURES
    size = sum(len(own.bytes_with(picture)) for picture, own in drawn) / PICTURES
    return {"picture_seconds": round(seconds, 3), "picture_bytes": round(size)}


def studio(run: Run) -> dict[str, int]:
    """Bytes that a browser takes to open the page, for the first time and again, and the memory of the studio."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shutil.copytree(run.folder, Path(folder) / "a")
        with studio_process(folder) as (address, process):
            first, again = pages(address)
            memory = psutil.Process(process.pid).memory_info().rss
    return {"page_bytes": first, "page_again_bytes": again, "studio_bytes": memory}


def pages(address: str) -> tuple[int, int]:
    """Bytes over the network of the page, opened twice by one browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page, totals = browser.new_page(), []
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        sizes: list[float] = []
        network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        for _ in range(2):
            sizes.clear()
            page.goto(address)
            page.wait_for_selector("#start")
            page.wait_for_timeout(5000)
            totals.append(round(sum(sizes)))
        browser.close()
    return totals[0], totals[1]


if __name__ == "__main__":
    tyro.cli(main)
