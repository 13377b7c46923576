"""Pictures that carry their own recipe: all that is needed to draw them again, in a text chunk of the PNG."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from pipelines.errors import UserError

KEY = "joinery"  # of the text chunk


@dataclass(frozen=True)
class Recipe:
    """How a picture was drawn. Names and hashes stand for files: a picture is shared, a machine's paths are not."""

    prompt: str
    seed: int
    content: float
    style: float
    guidance: str  # APG or CFG
    guidance_settings: dict[str, float | None]
    guidance_scale: float
    steps: int
    resolution: int
    base: str
    base_hash: str = ""
    adapter: str = ""  # the run's name; empty: the base alone
    adapter_hash: str = ""
    negative_prompt: str = ""
    format: int = 1

    def save(self, picture: Image.Image, path: Path) -> Path:
        """Write the picture as PNG with this recipe in it."""
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(KEY, json.dumps(asdict(self)))
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "PNG", pnginfo=chunks)
        return path

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe in a picture.

        Raises:
            UserError: it is no picture, or none with a recipe that this version understands.
        """
        try:
            with Image.open(path) as picture:
                picture.load()  # text chunks may stand after the pixels
                text = getattr(picture, "text", {}).get(KEY)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            raise UserError(f"{path.name} cannot be opened as a picture", "Choose a PNG made by Joinery") from None
        if text is None:
            raise UserError(
                f"{path.name} carries no recipe", "Choose a PNG made by Joinery, as it was downloaded, not a screenshot"
            )
        try:
            data = json.loads(text)
            if data["format"] != 1:
                raise ValueError
            return cls(**data)
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"The recipe in {path.name} is damaged or from a newer version", "Choose another picture"
            ) from None


def file_hash(path: Path) -> str:
    """A file's sha256, as a recipe names an adapter."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
