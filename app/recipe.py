"""Pictures that carry their own recipe: all that is needed to draw them again, in a text chunk of the PNG.

A second chunk says what it can of it in the words of the common web UIs (`app/parameters.py`).
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from PIL import Image, PngImagePlugin

from app import parameters
from app.chunks import chunks_of
from pipelines import APG, CFG, UserError
from training import checkpoint
from training.formats import shown

KEY = "joinery"  # of the text chunk
RULES = {"APG": APG, "CFG": CFG}


@dataclass(frozen=True)
class Recipe:
    """How a picture was drawn. Names and hashes stand for files: a picture is shared, a machine's paths are not."""

    prompt: str
    seed: int
    content: float
    style: float
    guidance: str  # one of RULES
    guidance_settings: dict[str, float | None]
    guidance_scale: float
    steps: int
    resolution: int
    base: str
    base_hash: str = ""
    adapter: str = ""  # the run's name; empty: the base alone
    adapter_hash: str = ""
    negative_prompt: str = ""
    image: str = ""  # sha256 of the pixels of the picture that it started from; empty: from noise alone
    strength: float = 1.0  # share of the steps that are taken from there
    mask: str = ""  # the same of a picture that is white where that one changes; empty: everywhere
    width: int = 0  # in pixels, as the height; 0: the resolution
    height: int = 0
    checkpoint: int = 0  # step of the run after which the adapter was kept; 0: as it ended
    sampler: str = ""  # one of `training.families` for the base; empty: the base's own
    format: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture, in pixels."""
        return self.width or self.resolution, self.height or self.resolution

    def save(self, picture: Image.Image, path: Path) -> Path:
        """Write the picture as PNG with this recipe in it."""
        checkpoint.write_bytes(path, self.bytes_with(picture))
        return path

    def bytes_with(self, picture: Image.Image) -> bytes:
        """The picture as a PNG's bytes, with this recipe in them."""
        chunks, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
        said = asdict(self)
        later = {"image": ("image", "strength"), "mask": ("mask",), "sampler": ("sampler",)}
        later |= {"width": ("width", "height"), "checkpoint": ("checkpoint",)}
        for name, keys in later.items():
            if not said[name]:  # pictures of before there was such a thing say nothing of it
                for key in keys:
                    del said[key]
        chunks.add_itxt(KEY, json.dumps(said))
        chunks.add_text(parameters.KEY, parameters.text_of(self))
        picture.save(buffer, "PNG", pnginfo=chunks)
        return buffer.getvalue()

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether a picture carries one, sound or not."""
        return KEY in chunks_of(path)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe in a picture.

        Raises:
            UserError: it is no picture, or none with a recipe that this version understands and can follow.
        """
        text = chunks_of(path).get(KEY)
        if text is None:
            raise UserError(
                f"{path.name} carries no recipe", "Choose a PNG made by Joinery, as it was downloaded, not a screenshot"
            )
        try:
            data = json.loads(text)
            if data["format"] != 1:
                raise ValueError
            recipe = cls(**data)
            if not all(_is(getattr(recipe, field.name), field.type) for field in fields(cls)):
                raise TypeError
            recipe._check_guidance(path.name)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"The recipe in {path.name} is damaged or from a newer version", "Choose another picture"
            ) from None
        return recipe

    def differences(self, base_hash: str, adapter_hash: str = "") -> list[str]:
        """What is another one here than when the picture was drawn: "base", "adapter", both or nothing.

        Args:
            base_hash, adapter_hash: of what would be drawn with; an empty base_hash is not known, and not compared.
        """
        pairs = {"base": (self.base_hash, base_hash), "adapter": (self.adapter_hash, adapter_hash)}
        known = {name: pair for name, pair in pairs.items() if name == "adapter" or all(pair)}
        return [name for name, (then, now) in known.items() if then != now]

    def said(self, base_hash: str, adapter_hash: str = "") -> str:
        """The same in words, for the page."""
        named = {"base": f"the base ({self.base})", "adapter": f"the adapter ({self.adapter or 'none'})"}
        others = [named[name] for name in self.differences(base_hash, adapter_hash)]
        if not others:
            return "All fields are as the picture was drawn."
        verb = "is" if len(others) == 1 else "are"
        return f"{' and '.join(others).capitalize()} {verb} not what the picture was drawn with. All else is set."

    def _check_guidance(self, where: str) -> None:
        """Raise a UserError if there is no such rule, or if it refuses its settings."""
        if self.guidance not in RULES:
            raise UserError(
                f"The recipe in {where} names the guidance {self.guidance!r}, and there is {' and '.join(RULES)} here",
                "Choose another picture",
            )
        rule = RULES[self.guidance]
        unknown = sorted(self.guidance_settings.keys() - {field.name for field in fields(rule)})
        if unknown:
            raise UserError(
                f"The recipe in {where} sets {', '.join(unknown)}, which {self.guidance} does not have",
                "Choose another picture",
            )
        rule(**self.guidance_settings)


def _is(value: Any, annotation: Any) -> bool:
    """Whether a field can have a value; a text must be one that can be written."""
    kind = int | float if annotation is float else get_origin(annotation) or annotation
    return isinstance(value, kind) and not (isinstance(value, str) and shown(value) != value)


def file_hash(path: Path) -> str:
    """A file's sha256, as a recipe names an adapter."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
