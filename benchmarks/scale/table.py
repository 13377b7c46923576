"""The numbers of docs/scale.md, from results.json: python -m benchmarks.scale.table"""

import json
from pathlib import Path
from typing import Any

from benchmarks.common.document import put, table

RESULTS = Path(__file__).with_name("results.json")
DOC = Path(__file__).parents[2] / "docs/scale.md"
DESIGNERS, DAYS = 100, 21  # working days a month
RUNS, PICTURES, OPENINGS = 2, 100, 5  # of a designer, a day
KEPT = 3  # months that runs and pictures are kept
HOURS = 8  # of a working day


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def units(found: dict[str, Any]) -> str:
    rows = [["one", "takes"]]
    rows.append(["run", f"{minutes(found['run_seconds'])} of one core, {size(found['run_bytes'])} of disk"])
    rows.append(["its adapter", size(found["run_adapter_bytes"])])
    rows.append(["picture", f"{found['picture_seconds']:.2f} s of one core, {size(found['picture_bytes'])}"])
    rows.append(["opening of the page", f"{size(found['page_bytes'])}, again {size(found['page_again_bytes'])}"])
    rows.append(["studio that waits", f"{size(found['studio_bytes'])} of memory"])
    return table(rows)


def hundred(found: dict[str, Any]) -> str:
    """What a hundred designers take in a day and in all."""
    runs, pictures = DESIGNERS * RUNS, DESIGNERS * PICTURES
    training = runs * found["run_seconds"] / 3600
    drawing = pictures * found["picture_seconds"] / 3600
    kept = DAYS * KEPT * (runs * found["run_bytes"] + pictures * found["picture_bytes"])
    sent = pictures * found["picture_bytes"] + DESIGNERS * (
        found["page_bytes"] + (OPENINGS - 1) * found["page_again_bytes"]
    )
    rows = [["of a hundred designers", "a day"]]
    rows.append([f"training, {runs} runs", f"{training:.1f} hours of one core: {training / HOURS:.1f} cores at work"])
    rows.append([f"drawing, {pictures} pictures", f"{drawing:.1f} hours of one core"])
    rows.append(["network, pages and pictures", size(sent)])
    rows.append([f"disk, if all is kept for {KEPT} months", size(kept)])
    return table(rows)


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def size(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def filled(text: str) -> str:
    """The document with its tables made anew."""
    return put(text, units=units(read()), hundred=hundred(read()))


if __name__ == "__main__":
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
