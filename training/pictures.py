"""Pictures and their captions, as files have them and as training wants them: the one place that opens an image."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SMALLEST, LARGEST = 16, 100_000_000  # pixels on the shorter side; pixels in all


@dataclass(frozen=True)
class Picture:
    """One picture as it will be trained on."""

    path: Path
    image: Image.Image  # RGB, square, at the training resolution
    caption: str
    duplicate_of: Path | None = None  # an earlier picture with the same pixels


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
