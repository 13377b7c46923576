"""Every picture that was drawn, on disk: a folder for each, named by its bytes, so that equal pictures are one.

It holds the PNG with its recipe, and the empty file `favourite` if it is one. Nothing else says what there is.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from PIL import Image

from app.recipe import Recipe
from app.trash import to_trash
from pipelines.errors import UserError
from training import checkpoint

FAVOURITE, TRASH = "favourite", "trash"


@dataclass(frozen=True)
class Shot:
    """A picture that was drawn."""

    path: Path
    recipe: Recipe
    drawn: float  # when, in seconds since 1970; the last time if it was drawn again

    @property
    def name(self) -> str:
        """By which an album finds it."""
        return self.path.parent.name

    @cached_property
    def words(self) -> str:
        """All that a search looks through."""
        return f"{self.recipe.prompt} {self.recipe.adapter} {self.recipe.base} {self.path.stem}".casefold()

    @property
    def favourite(self) -> bool:
        return (self.path.parent / FAVOURITE).exists()


@dataclass(frozen=True)
class Album:
    """A folder of pictures. What was read of them once is kept in memory: a picture never changes."""

    folder: Path
    _read: dict[str, Shot] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, runs: Path) -> "Album":
        """That of a folder of runs, which lies in it."""
        return cls(runs / ".pictures")

    def add(self, picture: Image.Image, recipe: Recipe, label: str = "") -> Path:
        """Keep a picture with its recipe, under a name that tells what it is.

        Raises:
            UserError: the disk is full, or the file cannot be written.
        """
        stem = "-".join(filter(None, [recipe.adapter or recipe.base.split("/")[-1], label, f"seed-{recipe.seed}"]))
        data = recipe.bytes_with(picture)
        folder = self.folder / sha256(data).hexdigest()[:32]
        path = next(folder.glob("*.png"), folder / f"{stem}.png")
        if path.exists():  # drawn again: it is the newest now
            os.utime(path)
            return path
        try:
            checkpoint.write_bytes(path, data)
        except UserError as error:
            raise UserError(error.what, "Make room there, then draw again") from None
        return path

    def find(self, words: str = "", favourites: bool = False) -> list[Shot]:
        """The pictures whose prompt, run, base or file has all these words, the newest first."""
        wanted = words.casefold().split()
        found = (shot for shot in self._all() if all(word in shot.words for word in wanted))
        return [shot for shot in found if not favourites or shot.favourite]

    def get(self, name: str) -> Shot:
        """The picture of this name; a name from outside reaches no other folder.

        Raises:
            UserError: there is none.
        """
        for path in self.folder.glob("*/*.png"):
            if path.parent.name == name and (shot := self._shot(path)):
                return shot
        raise UserError("That picture is not there any more", "Choose another one")

    def mark(self, name: str, favourite: bool) -> None:
        mark = self.get(name).path.parent / FAVOURITE
        mark.touch() if favourite else mark.unlink(missing_ok=True)

    def remove(self, name: str) -> Path:
        """Move a picture into the trash, a folder beside the pictures, and say where it is."""
        return to_trash(self.get(name).path.parent, self.folder / TRASH, name)

    def _all(self) -> list[Shot]:
        """All pictures, the newest first; what cannot be read is left out."""
        there = filter(None, map(self._shot, self.folder.glob("*/*.png")))
        return sorted(there, key=lambda shot: shot.drawn, reverse=True)

    def _shot(self, path: Path) -> Shot | None:
        """A picture, read once; None of another's file, a link elsewhere, or one that was removed meanwhile."""
        with suppress(UserError, OSError):
            if path.parent.is_symlink() or path.is_symlink():
                return None
            known, drawn = self._read.get(path.parent.name), path.stat().st_mtime
            if known is None or known.drawn != drawn:
                known = Shot(path, known.recipe if known else Recipe.read(path), drawn)
                self._read[path.parent.name] = known
            return known
        return None
