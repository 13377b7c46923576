"""What the shipped defaults make of cells, in README and docs/break-for-make.md: python -m benchmarks.pairs.report

A table of all development cells that are scored so far, from results/cells.jsonl. Then the picture of contents by
styles, once all of its cells are scored, and the line below it: each content and each style learned once with the
shipped defaults, joined without training after it, and drawn from the first seed, with the true picture beside it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from benchmarks.common.document import put, table
from benchmarks.pairs.cells import CHOSEN, Cell, cells, pictures
from benchmarks.pairs.methods.joined import joined
from benchmarks.pairs.run import lines, scales_of
from benchmarks.pairs.score import GUIDANCE, drawer
from benchmarks.pairs.summary import interval
from pipelines.errors import UserError
from training import sheet
from training.config import HOUSE

PICTURE = HOUSE / "docs/pictures/pairs.png"
CONTENTS = 4  # in the picture: the first of cells.json
SIDE = 112  # of a drawn picture, in pixels
JUDGES = ("judge", "judge-2")
FIGURES = ("content", "style", "harmonic", "frontier", "kept")


def main() -> None:
    """Write the table, draw the picture, and write its line.

    Raises:
        UserError: a cell of the picture has not been scored.
    """
    torch.set_num_threads(1)
    contents, styles = list(CHOSEN["contents"]["development"])[:CONTENTS], list(CHOSEN["styles"]["development"])
    scored = by_cell(lines())
    write("docs/break-for-make.md", cells=cells_table(scored))
    shown = [Cell(content, style) for style in styles for content in contents]
    if missing := [cell for cell in shown if cell not in scored]:
        one = missing[0]
        raise UserError(f"{one.content} in {one.style} has not been scored", "Run benchmarks.pairs.run joined first")
    rows = {style: [one for content in contents for one in pair(Cell(content, style))] for style in styles}
    columns = [label for content in contents for label in (content, "true")]
    sheet.save(sheet.compose(rows, "Each content and each style learned once, joined", columns, cell=SIDE), PICTURE)
    said = line([scored[cell] for cell in shown])
    for name, place in (("README.md", "docs/pictures"), ("docs/break-for-make.md", "pictures")):
        seen = f"![Contents by styles, each learned once, with the true pictures]({place}/{PICTURE.name})"
        write(name, pairs=f"{seen}\n\n*{said}*")


def by_cell(found: list[dict]) -> dict[Cell, dict]:
    """The lines of development cells drawn with the shipped defaults, in the order of cells.json."""
    own = {
        Cell(line["content"], line["style"]): line
        for line in found
        if line["method"] == "joined" and not line["changes"] and line["seed"] == 0
    }
    return {cell: own[cell] for cell in cells("development") if cell in own}


def line(scored: Sequence[dict]) -> str:
    """What both judges tell of some cells, in words."""
    told = []
    for judge in JUDGES:
        content, style = (float(np.mean([one[judge][figure] for one in scored])) for figure in ("content", "style"))
        told.append(f"{content:.2f} of the content and {style:.2f} of the style")
    return (
        f"As shares of what is told of true pictures, two judges tell {told[0]}, and {told[1]}, of 16 pictures a pair."
    )


def cells_table(scored: dict[Cell, dict]) -> str:
    """A row a cell, and their means with bootstraps of 95 %: first judge / second. Frontiers, if all have one."""
    whole = min(map(scales_of, scored.values()), default=0) > 1
    figures = [figure for figure in FIGURES if whole or figure != "frontier"]
    rows = [["content in style", *figures]]
    for cell, one in scored.items():
        rows.append([f"{cell.content} in {cell.style}", *(both([f"{one[j][f]:.2f}" for j in JUDGES]) for f in figures)])
    means = []
    for figure in figures:
        found = [np.array([one[judge][figure] for one in scored.values()]) for judge in JUDGES]
        said = []
        for values in found:
            low, high = interval(values) if len({*values}) > 1 else (values[0], values[0])
            said.append(f"{values.mean():.2f} ({low:.2f} to {high:.2f})")
        means.append(both(said))
    return table([*rows, [f"**mean of {len(scored)}**", *means]])


def both(said: list[str]) -> str:
    return " / ".join(said)


def pair(cell: Cell) -> list[Image.Image]:
    """What is drawn of a cell, and its true picture."""
    ready = joined(cell, 0, {})
    ready.set_scales(1.0, 1.0)
    drawn = drawer(ready.pipe, GUIDANCE)([ready.prompt], (0,))[0]
    return [Image.fromarray(drawn.numpy()), pictures().image((cell.content, cell.style))]


def write(name: str, **contents: str) -> None:
    path = HOUSE / name
    path.write_text(put(path.read_text(encoding="utf-8"), **contents), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
