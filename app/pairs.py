"""Every content that was learned in every style that was, as a table of small pictures, joined without a run."""

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from app.copies import Copies, address
from app.drawing import usual
from app.library import Library
from app.mixing import having
from app.painter import Model, Painter, Stopped
from app.recipe import file_hash
from pipelines.errors import UserError
from training import Run, checkpoint

KINDS = ("content", "style")
MOST = 6  # contents, and styles: the newest
SEED = 0
FOLDER = ".pairs"  # beside the runs

# A click on a picture says which pair it is.
SCRIPT = """
element.addEventListener("click", ({ target }) => {
  const pair = target.closest("button[data-content]");
  if (pair) trigger("input", { ...pair.dataset });
});
"""


@dataclass(frozen=True)
class Pair:
    """A content of one run and a style of another, by the runs' names."""

    content: str
    style: str
    picture: Path | None = None
    said: str = ""  # why there is none


def drawn(library: Library, painter: Painter, stop: threading.Event) -> Iterator[list[list[Pair]]]:
    """The table again and again as it fills: a row for each content, a column for each style.

    A picture is kept by what its two adapters are, and is there at once the next time. Two runs of which one cannot
    take the other's say why.
    """
    contents, styles = ([name for name in having(library, kind) if _own(library, name, kind)][:MOST] for kind in KINDS)
    table = [[Pair(content, style) for style in styles] for content in contents]
    yield table
    for row in table:
        for at, pair in enumerate(row):
            try:
                row[at] = Pair(pair.content, pair.style, _picture(library, painter, pair, stop))
            except UserError as error:
                row[at] = Pair(pair.content, pair.style, said=_without_places(error.what, library.folder))
            except Stopped:
                return
            yield table


def _own(library: Library, name: str, kind: str) -> bool:
    """Whether a run has learned a concept, and not merely taken it from another."""
    config = library.find(name).customization()
    concept = config.concepts[kind]
    return concept.run is None or concept.further or config.steps.make > 0


def _picture(library: Library, painter: Painter, pair: Pair, stop: threading.Event) -> Path:
    """The picture of a pair; it is drawn if there is none.

    Raises:
        UserError: the two do not go together, or the base cannot draw.
        Stopped: `stop` was set.
    """
    from training import export  # what trains takes longer to import than all else together
    from training.mix import mixed

    content, style = (library.find(name) for name in (pair.content, pair.style))
    key = hashlib.sha256(f"{file_hash(content.adapter)} {file_hash(style.adapter)} {SEED}".encode()).hexdigest()[:32]
    kept = library.folder / FOLDER / f"{key}.png"
    if kept.exists():
        return kept
    with tempfile.TemporaryDirectory() as folder:
        run, config = Run(Path(folder) / "pair"), mixed(content.folder, style.folder)
        if content.folder == style.folder:
            run = content
        else:
            export.join(content.adapter, style.adapter, run.adapter)
        model = Model.of(config, run)
        [(picture, own)] = painter.draw(model, usual(config, model, SEED), 1, stop=stop)
        checkpoint.write_bytes(kept, own.bytes_with(picture), lasting=False)
    return kept


def _without_places(words: str, folder: Path) -> str:
    """A sentence with runs' names in it in place of where they lie."""
    for place in (f"{os.sep}{Run(folder).adapter.name}", f"{folder.resolve()}{os.sep}", f"{folder}{os.sep}"):
        words = words.replace(place, "")
    return words


def as_table(table: list[list[Pair]], copies: Copies) -> str:
    """The table as HTML; a picture is a button."""
    if not table or not table[0]:
        return ""
    head = "".join(f'<th scope="col">{escape(pair.style)}</th>' for pair in table[0])
    rows = (
        f'<tr><th scope="row">{escape(row[0].content)}</th>'
        + "".join(f"<td>{_cell(pair, copies)}</td>" for pair in row)
        + "</tr>"
        for row in table
    )
    return f'<div class="pairs"><table><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'


def _cell(pair: Pair, copies: Copies) -> str:
    name = escape(f"{pair.content} in {pair.style}")
    if pair.said:
        return f'<span title="{escape(pair.said)}">{escape(pair.said)}</span>'
    if pair.picture is None:
        return '<span aria-label="Not drawn yet">…</span>'
    return (
        f'<button type="button" data-content="{escape(pair.content)}" data-style="{escape(pair.style)}" title="{name}">'
        f'<img src="{address(copies.of(pair.picture))}" alt="{name}"></button>'
    )
