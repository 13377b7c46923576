"""Colours as a person saw them on a screen: any picture as 8-bit sRGB, what is transparent on white."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

GROUND = "white"  # under what is transparent
SAME = 2  # of 255: a profile that moves no colour further is sRGB, and its pictures keep their bits
WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
GREY = ("1", "L", "LA", "La", *WIDE)
VEILED = ("P", "PA", "LA", "La", "RGBA", "RGBa")  # a palette may have a colour that cannot be seen

TRANSPARENT = f"transparent parts are laid on {GROUND}"
SCALED = "numbers beyond black and white are scaled to lie between them"
BAD_PROFILE = "the colour profile cannot be used, and the colours are taken for sRGB"
NO_PROFILE = "inks without a colour profile; their colours are a guess, so save it anew as sRGB"


@dataclass(frozen=True)
class Frame:
    """A frame on the ground: RGB, and what should be known about it."""

    image: Image.Image
    notes: tuple[str, ...]
    clear: bool  # nothing in it can be seen
    opaque: Image.Image | None = None  # grey, white where it is; None: everywhere

    @property
    def plain(self) -> bool:
        """Whether it is one colour all over."""
        extrema: Any = self.image.getextrema()  # a pair of each channel, since it is RGB
        return all(low == high for low, high in extrema)


def as_seen(image: Image.Image, bits: int = 16) -> Frame:
    """A frame in the colours of sRGB, on the ground.

    Args:
        image: of any mode; an embedded profile is in its `info`.
        bits: of a number, in the modes that hold 16.
    """
    profile, grey, notes = image.info.get("icc_profile"), image.mode in GREY, []
    if image.mode in WIDE:
        image, scaled = _narrow(image, bits)
        notes += [SCALED] * scaled
    colour, alpha = _parted(image)
    if profile:
        converted = _to_srgb(colour, profile, grey)
        notes += [BAD_PROFILE] * (converted is None)
        colour = converted or colour
    elif colour.mode == "CMYK":
        notes.append(NO_PROFILE)
    colour = colour.convert("RGB")
    colour.info.clear()  # profile and metadata are done with, and a copy should not carry them
    extrema: Any = alpha.getextrema() if alpha else (255, 255)
    low, high = extrema
    if alpha and low < 255:
        notes.append(TRANSPARENT)
        colour.putalpha(alpha)
        colour = Image.alpha_composite(Image.new("RGBA", colour.size, GROUND), colour).convert("RGB")
    return Frame(colour, tuple(notes), clear=high == 0, opaque=alpha if low < 255 else None)


def _narrow(image: Image.Image, bits: int) -> tuple[Image.Image, bool]:
    """Numbers of 16 or 32 bits as 8 bits, black staying black; True if they leave the range that a format gives white.

    Whole numbers of 32 bits are counted from the narrowest range that holds them, floats from 0 to 1.
    """
    exact = np.float64 if image.mode == "I" else np.float32
    numbers = np.asarray(image)
    short = numbers.dtype.kind == "u"  # 16 bits: each value is looked up, since floats take four times the memory
    if not short:
        numbers = np.nan_to_num(numbers.astype(exact), posinf=0, neginf=0)
    low, high = min(float(numbers.min()), 0.0), float(numbers.max())
    if image.mode == "F":
        white = 1.0
    elif image.mode == "I":
        white = next(float(top) for top in (2**8 - 1, 2**16 - 1, 2**31 - 1) if high <= top)
    else:
        white = float(2**bits - 1)
    top = max(white, high)
    values: np.ndarray = np.arange(2**16, dtype=exact) if short else numbers
    scaled = np.rint((values - low) / (top - low) * 255).clip(0, 255).astype(np.uint8)
    narrow = Image.fromarray(scaled[numbers] if short else scaled)
    clear = image.info.get("transparency")  # the one number of a PNG that cannot be seen
    if isinstance(clear, int):
        narrow.putalpha(Image.fromarray(np.where(numbers == clear, 0, 255).astype(np.uint8)))
    return narrow, bool(low < 0 or high > white)


def _parted(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour, and how opaque it is if it says so."""
    if image.mode in VEILED or "transparency" in image.info:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    return image, None


def _to_srgb(colour: Image.Image, profile: bytes, grey: bool) -> Image.Image | None:
    """Colours of a profile in sRGB, by relative colorimetry with black kept black; None if it does not fit them."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        fits = {"RGB": colour.mode != "CMYK", "GRAY": grey, "CMYK": colour.mode == "CMYK"}[space]
        if not fits:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, KeyError):
        return None
    colour = colour.convert(mode)
    return (
        colour if mode != "CMYK" and _changes_nothing(transform, mode) else ImageCms.applyTransform(colour, transform)
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Asked of colours from all over the cube, or of all greys."""
    ramp = np.linspace(0, 255, 17).astype(np.uint8)
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        probe = Image.fromarray(np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(1, -1, 3))
    moved = np.asarray(ImageCms.applyTransform(probe, transform), int) - np.asarray(probe.convert("RGB"), int)
    return bool(abs(moved).max() <= SAME)
