"""Pictures as a person gave them, and what comes in with them: captions from text files, or from the files' names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import UserError
from training import captions
from training.config import Concept
from training.formats import find_pictures, is_mask, mask_beside, masked_stem, sorted_out
from training.pictures import MIDDLE

# What cameras, telephones, scanners and websites call their files.
NO_WORDS = re.compile(
    r"\b(copy|download|dscn?|file|image|img|photo|pic|picture|pxl|scan|screenshot|un(named|titled))\b", re.I
)


class Given(NamedTuple):
    """A picture of a project."""

    path: Path
    caption: str | None = None  # the one that is its own
    crop: float = MIDDLE  # where on its longer side the square lies that is learned
    mask: Path | None = None  # white where the subject is


def pictures_of(concept: Concept) -> list[Given]:
    """The pictures that a concept of a project file has."""
    return [
        Given(
            path, captions.beside(path) or None, concept.crops.get(path.name, MIDDLE), mask if mask.exists() else None
        )
        for path in find_pictures(concept.pictures)
        for mask in [mask_beside(path)]
    ]


def added(before: list[Given], files: Sequence[Path], caption: str) -> tuple[list[Given], dict[Path, str]]:
    """Pictures with more of them, each captioned by the text file of its name, or else by its own name.

    A text file or a mask may also come after its picture.

    Args:
        caption: that of pictures without one of their own; words of a file's name join it.
    Returns:
        all pictures; and the files that are none, with the reason.
    """
    found = sorted_out(files)
    left_out, texts = dict(found.left_out), {}
    for path in files:
        if path.suffix.lower() == ".txt":
            try:
                texts[path.stem] = captions.read(path)
            except UserError:
                left_out[path] = "it cannot be read; save it as UTF-8 text"
    masks = {masked_stem(path): path for path in files if is_mask(path)}
    new = [Given(path, _from_name(path, caption)) for path in found.pictures]
    known = {one.path.stem for one in before}

    def late(path: Path) -> bool:
        """Whether it has come after its picture, and is of use all the same."""
        return masked_stem(path) in known if is_mask(path) else path.stem in known & texts.keys()

    every, left_out = before + new, {path: why for path, why in left_out.items() if not late(path)}
    every = [one._replace(caption=texts.get(one.path.stem) or one.caption) for one in every]
    return [one._replace(mask=masks.get(one.path.stem) or one.mask) for one in every], left_out


def _from_name(path: Path, caption: str) -> str | None:
    """A caption with a file's name as words, before that of a style; None of a name without words."""
    words = captions.file_name(path).rstrip(" 0123456789")
    parts = words.split()
    if not parts or not all(map(str.isalpha, parts)) or NO_WORDS.search(words) or "{file_name}" in caption:
        return None
    return captions.with_words(words, caption)
