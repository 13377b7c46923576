"""Pictures and captions of a concept, and what training makes of them: cached latents and prompt embeddings."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import checkpoint
from training.model import encode_pictures, encode_prompts

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SMALLEST, LARGEST = 16, 100_000_000  # pixels on the shorter side; pixels in all

log = logging.getLogger("joinery")


@dataclass(frozen=True)
class Picture:
    """One picture as it will be trained on."""

    path: Path
    image: Image.Image  # RGB, square, at the training resolution
    caption: str
    duplicate_of: Path | None = None  # an earlier picture with the same pixels


@dataclass(frozen=True)
class Concept:
    """All that the training loop needs of a concept: latents, (n, c, h, w), and conditions with n rows each."""

    latents: Tensor
    conditions: dict[str, Tensor]
    digest: str  # of pictures, captions, resolution and encoders together

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device) -> "Concept":
        conditions = {key: value.to(device) for key, value in self.conditions.items()}
        return Concept(self.latents.to(device), conditions, self.digest)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.latents[index], {key: value[index] for key, value in self.conditions.items()}


def open_picture(path: Path) -> Image.Image:
    """Open a picture as RGB: upright by its EXIF orientation, transparency on white, the first frame of several.

    Raises:
        UserError: it is no picture, is damaged, is too small or too large.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if min(width, height) < SMALLEST or width * height > LARGEST:
                raise UserError(
                    f"{path} is {width} x {height} pixels; pictures from {SMALLEST} pixels a side to "
                    f"{LARGEST // 1_000_000} megapixels can be used",
                    "Resize it or take it out",
                )
            image = ImageOps.exif_transpose(image).convert("RGBA")
    except FileNotFoundError:
        raise UserError(f"The picture {path} does not exist", "Mend the path or take it out") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not a picture that can be read" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be opened ({reason})", "Save it anew as PNG or JPEG, or take it out") from None
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def find_pictures(paths: list[Path]) -> list[Path]:
    """The picture files that folders (not their subfolders) and files name, in a fixed order."""
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES)
        else:
            found.append(path)
    if not found:
        places = ", ".join(str(path) for path in paths)
        raise UserError(f"No pictures were found in {places}", "Put PNG or JPEG pictures there, or name another folder")
    return found


def read_pictures(
    paths: list[Path], resolution: int, caption: str | None, words: dict[str, str] | None = None
) -> list[Picture]:
    """Read pictures with their captions, each cropped to its central square and resized.

    Args:
        paths: folders and files.
        caption: for pictures without a .txt of the same name beside them; None stands for the file's own name.
        words: what {placeholder} and {class_word} stand for in captions.
    """
    pictures, seen = [], {}
    for path in find_pictures(paths):
        image = ImageOps.fit(open_picture(path), (resolution, resolution), Image.Resampling.LANCZOS)
        text = _caption_beside(path) or caption or path.stem.replace("-", " ").replace("_", " ")
        for key, word in (words or {}).items():
            text = text.replace("{" + key + "}", word)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        text = " ".join(text.split()).replace(" ,", ",")  # a word may be empty
        pictures.append(Picture(path, image, text, seen.get(digest)))
        seen.setdefault(digest, path)
    return pictures


def _caption_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    try:
        return text.read_text(encoding="utf-8").strip() if text.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The caption {text} cannot be read ({error})", "Save it as UTF-8 text") from None


def prepare(pipe: DiffusionPipeline, pictures: list[Picture], cache: Path) -> Concept:
    """Encode pictures and captions, or take them from the cache, whose files are named by a hash of all they hold.

    Of pictures with the same pixels one is kept, and the log says so.
    """
    for picture in pictures:
        if picture.duplicate_of:
            log.warning("%s has the same pixels as %s and is left out", picture.path, picture.duplicate_of)
    pictures = [picture for picture in pictures if not picture.duplicate_of]
    resolution = pictures[0].image.width
    encoders = [pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
    identity = json.dumps(
        [
            resolution,
            [(hashlib.sha256(p.image.tobytes()).hexdigest(), p.caption) for p in pictures],
            [fingerprint(encoder) for encoder in encoders if encoder is not None],
            str(pipe.unet.dtype),
        ]
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()
    file = cache / f"{digest[:32]}.safetensors"
    try:
        tensors = load_file(file)
    except (FileNotFoundError, SafetensorError):  # a damaged cache file is made anew, like a missing one
        pixels = np.stack([np.asarray(picture.image) for picture in pictures])
        pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        tensors = {"latents": encode_pictures(pipe, pixels)}
        tensors |= encode_prompts(pipe, [picture.caption for picture in pictures], resolution)
        checkpoint.write_tensors(file, tensors)
    return Concept(tensors.pop("latents"), tensors, digest)
