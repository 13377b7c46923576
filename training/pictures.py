"""Pictures and their captions, as files have them and as training wants them: the one place that opens an image."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import UserError
from training import captions
from training.colours import Frame, as_seen
from training.formats import FORMATS, READ, SAVE_ANEW, find_pictures, mask_beside, shown, why_not

SMALLEST, LARGEST = 16, 100_000_000  # pixels on the shorter side; pixels in all
MOVING = ("PNG", "WEBP", "AVIF", "GIF")  # formats whose frames follow each other in time
STRIP = 2  # times longer than wide: less than half of the picture is used
MIDDLE = 0.5  # of the longer side: the square that is used lies there unless another place is chosen
DETAIL = 64  # pixels a side, at which it is asked where a picture's detail lies
ALIKE = (
    0.98  # correlation of two pictures, seen small, that hardly differ: one saved anew, brightened or turned a little
)
EMPTY, MOST, SOME = 0.5, 0.5, 0.1  # shares of a picture that is a subject on an even ground, and of detail outside

PLAIN = "one colour all over"
ONE_OF_SEVERAL = "of several frames or pages one is used"
CUT_OFF = "much of what is to be seen lies outside the square that is used"
NARROW = "a strip, of which only a square is used"
ENLARGED = "enlarged more than twice"
BLURRED = "blurred, or enlarged: it has none of the detail that could be learned"
SHARP = 0.04  # of the finest octave to the strongest: .29 and more of sharp pictures, .025 and less of blurred ones
FAINT = 2.0  # grey levels: less is no detail to judge by


@dataclass(frozen=True)
class Picture:
    """One picture as it will be trained on."""

    path: Path
    image: Image.Image  # RGB, square, at the training resolution
    caption: str
    duplicate_of: Path | None = None  # an earlier picture with the same pixels
    notes: tuple[str, ...] = ()  # what a person should know before it is trained on
    mask: Image.Image | None = None  # grey, of the picture's size, white where the subject is
    size: tuple[int, int] = (0, 0)  # width and height of the file's picture; zero: as it is trained on
    place: float = MIDDLE  # of the square on the file's longer side

    @property
    def corner(self) -> tuple[int, int]:
        """Left and upper end of the square, in pixels, after the shorter side was resized to the square's."""
        side, short = self.image.width, min(self.size) or 1
        left, top = (round((length * side / short - side) * self.place) if length else 0 for length in self.size)
        return left, top

    def mirrored(self) -> Self:
        mask = self.mask and ImageOps.mirror(self.mask)
        place = 1 - self.place if self.size[0] > self.size[1] else self.place
        return replace(self, image=ImageOps.mirror(self.image), mask=mask, place=place)


def open_picture(path: Path) -> Image.Image:
    """Open a picture as RGB: upright by its EXIF orientation, in sRGB, transparency on white, the first frame.

    Raises:
        UserError: it is no picture, is damaged, is too small or too large, or shows nothing.
    """
    return look_at(path).image


def look_at(path: Path) -> Frame:
    """The same with what should be known about it. Of a film that begins with nothing, its first frame with something.

    Raises:
        UserError: as `open_picture`.
    """
    if not os.path.isfile(path):
        gone = "is no file" if os.path.exists(path) else "does not exist"
        raise UserError(f"The picture {shown(path)} {gone}", "Mend the path or take it out")
    if reason := why_not(path):
        what, _, remedy = reason.partition("; ")
        raise UserError(f"{shown(path)} cannot be opened ({what})", remedy[0].upper() + remedy[1:])
    try:
        with Image.open(path, formats=tuple(FORMATS)) as image:
            width, height = image.size
            if min(width, height) < SMALLEST or width * height > LARGEST:
                raise UserError(
                    f"{shown(path)} is {width} x {height} pixels; pictures from {SMALLEST} pixels a side to "
                    f"{LARGEST // 1_000_000} megapixels can be used",
                    "Resize it or take it out",
                )
            frame = _first_that_shows(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{shown(path)} cannot be opened (it is none of {READ})", SAVE_ANEW) from None
    except Exception as error:  # bytes from anywhere, in a decoder of another's: it may raise whatever it likes
        reason = str(error) or type(error).__name__
        raise UserError(f"{shown(path)} cannot be opened ({shown(reason)})", SAVE_ANEW) from None
    if frame.clear:
        raise UserError(f"{shown(path)} shows nothing: it is transparent all over", SAVE_ANEW)
    return frame


def _first_that_shows(image: Image.Image) -> Frame:
    """The first frame of a film that is not one colour; of all else the first, or of a film that has none."""
    bits = max(getattr(image, "tag_v2", {}).get(258, (16,)))  # TIFF's BitsPerSample: a camera's 12 come as 16
    count = getattr(image, "n_frames", 1)
    several = (ONE_OF_SEVERAL,) * (count > 1 and image.format != "MPO")
    first: Frame | None = None
    for number in range(count if image.format in MOVING else 1):
        image.seek(number)
        frame = as_seen(ImageOps.exif_transpose(image), bits)
        first = first or frame
        if not frame.clear and not frame.plain:
            return replace(frame, notes=frame.notes + several, clear=False)
    assert first is not None
    return replace(first, notes=(PLAIN, *first.notes, *several))


def read_pictures(
    paths: list[Path],
    resolution: int,
    caption: str | None,
    words: dict[str, str] | None = None,
    crops: Mapping[str, float] | None = None,
) -> list[Picture]:
    """Read pictures with their captions, each cropped to a square and resized.

    Args:
        paths: folders and files.
        caption: for pictures without a .txt of the same name beside them; None stands for the file's own name.
        words: what {placeholder} and {class_word} stand for in captions.
        crops: by file name, where the square lies: 0 the left or upper end of the longer side, 1 the other end.

    Raises:
        UserError: a picture cannot be read, or `crops` names one that is not there.
    """
    pictures: list[Picture] = []
    seen: dict[str, Path] = {}
    found = find_pictures(paths)
    for name in (crops or {}).keys() - {path.name for path in found}:
        raise UserError(f"crops names {shown(name)}, and no picture is called so", "Mend the name or take it out")
    for path in found:
        frame, place = look_at(path), (crops or {}).get(path.name, MIDDLE)
        image, mask = cropped(frame.image, resolution, place), mask_of(path, frame)
        mask = mask and cropped(mask, resolution, place)
        text = captions.fill(captions.beside(path) or caption or "", path, words or {})
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        notes = notes_of(frame, image, place)
        pictures.append(Picture(path, image, text, seen.get(digest), notes, mask, frame.image.size, place))
        seen.setdefault(digest, path)
    return pictures


def mask_of(path: Path, frame: Frame) -> Image.Image | None:
    """Where the subject of a picture is: by the mask beside it, or by what is opaque; None where neither says.

    Raises:
        UserError: the mask cannot be opened, has another shape than the picture, or is black all over.
    """
    beside = mask_beside(path)
    return read_mask(beside, frame) if beside.exists() else frame.opaque


def read_mask(path: Path, frame: Frame) -> Image.Image:
    """A picture's mask, grey, of the picture's size.

    Raises:
        UserError: as `mask_of`.
    """
    mask = look_at(path).image.convert("L")
    (width, height), (own_width, own_height) = mask.size, frame.image.size
    if abs(width * own_height - height * own_width) > 0.02 * height * own_width:
        raise UserError(
            f"The mask {shown(path)} is {width} x {height} pixels, and its picture {own_width} x {own_height}",
            "Save the mask in the picture's shape, or take it out",
        )
    if mask.getextrema()[1] == 0:
        raise UserError(f"The mask {shown(path)} is black all over", "Paint white where the subject is, or take it out")
    return mask.resize(frame.image.size, Image.Resampling.LANCZOS)


def cropped(image: Image.Image, size: int | tuple[int, int], place: float = MIDDLE) -> Image.Image:
    """As much of a picture as a size shows of it, at that size, from a place along the side that is cut.

    Args:
        size: of a square's side, or width and height, in pixels.
    """
    size = (size, size) if isinstance(size, int) else size
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS, centering=(place, place))


def notes_of(frame: Frame, square: Image.Image, place: float = MIDDLE) -> tuple[str, ...]:
    """What a person should know of a picture before its square is trained on: of its file, its size and its detail."""
    return frame.notes + (said_of_size(frame.image, square.width, place) or said_of_detail(square))


def said_of_size(image: Image.Image, resolution: int, place: float = MIDDLE) -> tuple[str, ...]:
    """What the crop to a square and the training resolution do to a picture that a person should know."""
    short, long = sorted(image.size)
    notes: tuple[str, ...] = ()
    if long > STRIP * short:
        notes = (NARROW,)
    elif short < long and _cuts_off(image, place):
        notes = (CUT_OFF,)
    return notes + (f"{ENLARGED}, to {resolution} pixels",) * (2 * short < resolution)


def said_of_detail(image: Image.Image) -> tuple[str, ...]:
    """Whether a square picture, as it is trained on, lacks the finest detail that so many pixels could show.

    A sharp picture has about as much in each octave of frequencies; one blurred by 1.5 pixels has nearly nothing in the
    last.
    """
    grey = np.asarray(image.convert("L"), float)
    side = len(grey)
    window = np.hanning(side)[:, None] * np.hanning(side)  # or its opposite edges, side by side, would count as detail
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2 / (window**2).sum() / side**2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    octaves = [power[(frequency > 0.25 / 2**k) & (frequency <= 0.5 / 2**k)].sum() ** 0.5 for k in range(4)]
    strongest = max(octaves[1:])
    return (BLURRED,) if strongest > FAINT and octaves[0] < SHARP * strongest else ()


def seen_small(image: Image.Image) -> np.ndarray:
    """A square picture, 16 pixels a side, as a vector whose product with another's is their correlation.

    It is 0 where the picture is one colour.
    """
    values = np.asarray(image.resize((16, 16), Image.Resampling.BOX), float)
    values -= values.mean((0, 1))
    return values.ravel() / max(float(np.linalg.norm(values)), 1.0)


def _cuts_off(image: Image.Image, place: float) -> bool:
    """Whether detail, which is where neighbouring pixels differ, lies outside the square that is used.

    Of a subject on an even ground little may; of a picture that is full of detail half.
    """
    width, height = image.size
    short = min(image.size)
    scale = DETAIL / short
    small = image.convert("L").resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    grey = np.asarray(small, float)
    detail = np.abs(np.gradient(grey)).sum(0)
    detail[detail < 4] = 0  # grain, and the traces of compression
    rows, columns = detail.shape
    # An edge spreads over the pixels at both its sides: one that touches the square's border lies within.
    top, left = (max(int((side - DETAIL) * place) - 1, 0) for side in (rows, columns))
    inside = detail[top : top + DETAIL + 2, left : left + DETAIL + 2].sum()
    on_even_ground = (detail == 0).mean() > EMPTY
    return bool(detail.sum() - inside > (SOME if on_even_ground else MOST) * detail.sum())
