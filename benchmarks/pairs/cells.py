"""Cells: a held-out content in a held-out style, and what a customization sees of each.

`cells.json` was written before any run. Contents are the first sixteen, by a hash of their names, of the held-out ones
that every held-out style has; the class words are words of the base's own list that a person would give.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from pipelines.errors import UserError
from training import Customization, checkpoint, sheet
from training.base import data
from training.base.data import Pair, Pictures
from training.run import runs_folder

CHOSEN = json.loads(Path(__file__).with_name("cells.json").read_text(encoding="utf-8"))
CONTENTS = {content: word for part in CHOSEN["contents"].values() for content, word in part.items()}
STYLES = {style: word for part in CHOSEN["styles"].values() for style, word in part.items()}
SHOWN = 5  # pictures of a content, and of a style
PLACEHOLDERS = {"content": "sks", "style": "zwx"}


@dataclass(frozen=True)
class Cell:
    content: str
    style: str

    @property
    def prompt(self) -> str:
        """What asks for it once both are learned."""
        return prompt_with(CONTENTS[self.content], STYLES[self.style])

    @property
    def class_words(self) -> str:
        """What asks for it in words that the base knows."""
        return f"{CONTENTS[self.content]}, {STYLES[self.style]} style"


def prompt_with(content: str, style: str) -> str:
    """What asks for a learned content in a learned style, by their class words."""
    return f"{PLACEHOLDERS['content']} {content}, {PLACEHOLDERS['style']} {style} style"


def cells(part: str) -> list[Cell]:
    """The cells of a part, "development" or "test".

    Development has its own contents in the styles that the judges know, test the others in all styles.
    """
    styles = CHOSEN["styles"]["development"] | (CHOSEN["styles"]["test"] if part == "test" else {})
    return [Cell(content, style) for style in styles for content in CHOSEN["contents"][part]]


@cache
def pictures() -> Pictures:
    """The clean sets and the share-alike ones together."""
    clean, unseen = data.load(), data.load("unseen")
    return Pictures(torch.cat([clean.pixels, unseen.pixels]), clean.pairs + unseen.pairs)


def shown(kind: str, name: str) -> list[Pair]:
    """The pairs whose pictures a customization sees of a content or a style.

    Args:
        kind: "content" or "style".
    Raises:
        UserError: there are not `SHOWN` of them.
    """
    if kind == "content":
        pairs = [(name, style) for style in CHOSEN["shown"]["styles of a content"]]
    else:
        pairs = [(content, name) for content in CHOSEN["shown"]["contents of a style"]]
    found = [pair for pair in pairs if pair in pictures().where][:SHOWN]
    if len(found) < SHOWN:
        raise UserError(f"{name} has {len(found)} of {SHOWN} pictures to show", "Name more in cells.json")
    return found


def folder_of(kind: str, name: str, count: int = SHOWN) -> Path:
    """The folder with so many pictures of a content or a style and their captions, as a person would bring them."""
    few = "" if count == SHOWN else f" {count}"
    folder = runs_folder().parent / "pairs/pictures" / kind / f"{name}{few}".replace(" ", "-")
    for content, style in shown(kind, name)[:count]:
        picture = folder / f"{content} in {style}.png"
        if not picture.exists():
            sheet.save(pictures().image((content, style)), picture)
        ours = "{placeholder} {class_word}"
        caption = f"{ours}, {style} style" if kind == "content" else f"{content}, {ours} style"
        checkpoint.write_bytes(picture.with_suffix(".txt"), caption.encode())
    return folder


def customization(kinds: dict[str, str], changes: dict | None = None, count: int = SHOWN) -> Customization:
    """A project as a person would write it.

    Args:
        kinds: "content" and "style" -> which; one may be missing.
        changes: tables of the project file over the defaults.
        count: of pictures that each is learned from.
    """
    tables = {kind: dict(table) for kind, table in (changes or {}).items() if isinstance(table, dict)}
    for kind, name in kinds.items():
        words = CONTENTS if kind == "content" else STYLES
        given = {"pictures": folder_of(kind, name, count), "placeholder": PLACEHOLDERS[kind], "class_word": words[name]}
        tables[kind] = given | tables.get(kind, {})
    for kind in {"content", "style"} - kinds.keys():
        tables.pop(kind, None)
    rest = {key: value for key, value in (changes or {}).items() if not isinstance(value, dict)}
    return Customization(name=" ".join(kinds.values()), **rest | tables)
