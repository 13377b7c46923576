"""Pictures that drawings start from, kept by their pixels, so that a recipe can name one and find it again."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.errors import UserError
from training import checkpoint
from training.pictures import cropped, open_picture


@dataclass(frozen=True)
class Starts:
    """A folder of PNGs, each named by the sha256 of its RGB bytes. Equal pictures are one."""

    folder: Path

    @classmethod
    def of(cls, runs: Path) -> "Starts":
        """That of a folder of runs, which lies in it beside the album."""
        return cls(runs / ".starts")

    def add(self, path: Path, size: tuple[int, int]) -> str:
        """Keep a picture as training would see it: upright, in sRGB, its middle part of a width and height in pixels.

        Returns:
            the name under which `get` finds it.
        Raises:
            UserError: it is no picture, is too small or too large, or the disk is full.
        """
        return self._keep(cropped(open_picture(path), size))

    def add_mask(self, painted: Image.Image, size: tuple[int, int]) -> str:
        """Keep what was painted over a picture as a mask, at that picture's width and height in pixels.

        Args:
            painted: white where it is, of any size; it lies over the whole picture.
        Returns:
            the name under which `get` finds it; empty where nothing was painted.
        """
        mask = painted.convert("L").resize(size, Image.Resampling.BOX)
        mask = mask.point(lambda share: 255 if share > 127 else 0)
        return self._keep(mask.convert("RGB")) if mask.getbbox() else ""

    def _keep(self, image: Image.Image) -> str:
        name, buffer = _name(image), io.BytesIO()
        kept = self.folder / f"{name}.png"
        if not kept.exists():
            image.save(buffer, "PNG")
            checkpoint.write_bytes(kept, buffer.getvalue())
        return name

    def path(self, name: str) -> Path:
        """Where the picture of this name lies; a name from outside reaches no other folder.

        Raises:
            UserError: it is gone, or has other pixels now.
        """
        path = self.folder / f"{name}.png"
        if not re.fullmatch("[0-9a-f]{64}", name) or not path.is_file() or _name(open_picture(path)) != name:
            raise UserError("The picture that the drawing started from is not there any more", "Choose another one")
        return path

    def get(self, name: str) -> Image.Image:
        """The picture of this name, RGB.

        Raises:
            UserError: as `path`.
        """
        return open_picture(self.path(name))


def _name(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
