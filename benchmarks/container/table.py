"""What results.json says of the image, as the table of docs/deploy.md: python -m benchmarks.container.table"""

import json
from pathlib import Path

from benchmarks.common.document import put, table

RESULT = Path(__file__).with_name("results.json")
DOC = Path(__file__).parents[2] / "docs/deploy.md"
ROWS = {  # what, and the words around its number
    "image_mb": ("size of the files in the image", "{:,.0f} MB"),
    "build_seconds": ("build", "{:.0f} s"),
    "customization_seconds": ("the sample project, learned in {steps} steps and drawn", "{:.0f} s"),
    "healthy_seconds": ("from the start to a healthy studio", "{:.1f} s"),
    "health_check_seconds": ("one health check", "{:.1f} s"),
    "stop_seconds": ("from `SIGTERM` to the end of a studio with nothing to do", "{:.1f} s"),
    "stop_training_seconds": ("from `SIGTERM` to the end of a studio that trains", "{:.1f} s"),
}


def numbers() -> str:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [["what", "measured"]]
    rows += [[what.format(**found), form.format(found[name])] for name, (what, form) in ROWS.items()]
    return table(rows)


def filled(text: str) -> str:
    """The document with its table made anew."""
    return put(text, image=numbers())


if __name__ == "__main__":
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
