"""Pictures drawn anew by arithmetic, which show a content in more styles than a designer has brought.

Each takes an RGB picture, uint8 (h, w, 3), and gives another. Whole numbers alone, so that the bits are the same on
every machine.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.array((299, 587, 114))  # thousandths
PAPER, CHALK, FULL = np.array((24, 62, 140)), np.array((235, 243, 255)), 90_000  # FULL: an edge as bright as chalk
SHADOW, LIGHT, TONES, GAMMA = np.array((60, 34, 14)), np.array((246, 230, 196)), 5, 0.9
WIDTH, INK = 64, 4  # lines are so thin a share of a side; black where a quarter darker than around


def edges(values: np.ndarray, outside: int) -> np.ndarray:
    """How far each pixel is from those above and left of it, in sum."""
    margin = [(1, 0), (1, 0), *[(0, 0)] * (values.ndim - 2)]
    padded = np.pad(values, margin, constant_values=outside)
    here = padded[1:, 1:]
    return abs(here - padded[:-1, 1:]) + abs(here - padded[1:, :-1])


def blueprint(picture: np.ndarray) -> np.ndarray:
    """The edges of brightness in chalk on blue."""
    found = np.minimum(edges(_brightness(picture), 255_000), FULL)[..., None]
    return ((PAPER * FULL + (CHALK - PAPER) * found) // FULL).astype(np.uint8)


def sepia(picture: np.ndarray) -> np.ndarray:
    """Six brown tones by brightness."""
    bounds = [int(255_000 * ((tone + 0.5) / TONES) ** (1 / GAMMA)) for tone in range(TONES)]
    tones = np.searchsorted(bounds, _brightness(picture))[..., None]
    return ((SHADOW * TONES + (LIGHT - SHADOW) * tones) // TONES).astype(np.uint8)


def grey(picture: np.ndarray) -> np.ndarray:
    """Its brightness alone."""
    return np.repeat((_brightness(picture) // 1000)[..., None], 3, axis=2).astype(np.uint8)


def lines(picture: np.ndarray) -> np.ndarray:
    """Dark lines on white, where a pixel is darker than what is around it."""
    here = _brightness(picture) // 1000
    radius = max(picture.shape[:2]) / WIDTH
    around = Image.fromarray(here.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    lighter = np.maximum(np.asarray(around).astype(np.int64), 1)
    drawn = np.clip(255 - INK * 255 * (lighter - here) // lighter, 0, 255)
    return np.repeat(drawn[..., None], 3, axis=2).astype(np.uint8)


TREATMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "blueprint": blueprint,
    "sepia": sepia,
    "grey": grey,
    "lines": lines,
}


def _brightness(picture: np.ndarray) -> np.ndarray:
    """In thousandths, int64 (h, w)."""
    return (picture.astype(np.int64) * LUMA).sum(-1)
