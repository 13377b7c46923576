"""The pictures that the base is made of: open emoji sets rendered at 64 pixels, and styles computed from them."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.errors import UserError
from training import checkpoint, treatments
from training.base import computed, join, npm

SIZE = 64
# Of all pixels in their order, as resvg-py 0.5.0 and the pinned Pillow draw them.
SHA256 = {
    "pictures": "ccfd9e2f31bc88c26ae3e7afc374b73f76b580cdd6e3108b9fcd94fc56ce21b6",
    "computed": "5aebaa4915607089c75f18abf53d25d7065e07865bbbc8291027833dcad79afa",
    "unseen": "a34a94c3eb0bcfa8491efcaa825a7f00e75274dc1e2bfdab59a29b36d5324850",
}
SPLIT = json.loads(Path(__file__).with_name("split.json").read_text(encoding="utf-8"))

Pair = tuple[str, str]  # content, style

NIGHT, TUBE, SPREAD = np.array((10, 6, 22)), 80, 1.6  # TUBE: an edge at full light; SPREAD of the glow in pixels


@dataclass(frozen=True)
class Pictures:
    """Pictures with what they show: `pixels` is uint8 (n, 64, 64, 3), `pairs` has a content and a style for each."""

    pixels: Tensor
    pairs: list[Pair]

    @cached_property
    def where(self) -> dict[Pair, int]:
        return {pair: i for i, pair in enumerate(self.pairs)}

    def take(self, pairs: list[Pair]) -> "Pictures":
        """Some of the pictures, in the order of `pairs`."""
        return Pictures(self.pixels[[self.where[pair] for pair in pairs]], list(pairs))

    def image(self, pair: Pair) -> Image.Image:
        return Image.fromarray(self.pixels[self.where[pair]].numpy())


def to_network(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(x: Tensor) -> Tensor:
    """What a network gives, (n, 3, h, w), cut to [-1, 1] -> uint8 (n, h, w, 3) on the CPU."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()


def known_pairs(pictures: Pictures, left_out: bool = False) -> list[Pair]:
    """The pairs of the split's contents and styles that the base is trained on, or those that are left out."""
    without = {tuple(pair) for pair in SPLIT["left_out_pairs"]}
    known = [(content, style) for style in SPLIT["styles"] for content in SPLIT["contents"]]
    return [pair for pair in known if pair in pictures.where and (pair in without) == left_out]


def held_out_pairs(pictures: Pictures) -> list[Pair]:
    """Held-out contents in the base's styles."""
    contents, styles = set(SPLIT["held_out_contents"]), set(SPLIT["styles"])
    return [pair for pair in pictures.pairs if pair[0] in contents and pair[1] in styles]


def computed_pairs(pictures: Pictures, left_out: bool = False) -> list[Pair]:
    """Pairs of computed styles that may be learned from, or the tenth of them, by a hash, that is left out.

    Held-out contents and held-out styles are in neither.
    """
    without = {*SPLIT["held_out_contents"]}
    styles = computed.COMPUTED.keys() - computed.HELD_OUT
    known = [pair for pair in pictures.pairs if pair[1] in styles and pair[0] not in without]
    return [pair for pair in known if (_hash("/".join(pair)) % 10 == 0) == left_out]


def both(first: Pictures, second: Pictures) -> Pictures:
    return Pictures(torch.cat([first.pixels, second.pixels]), first.pairs + second.pairs)


def _hash(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0]


def load(which: str = "pictures") -> Pictures:
    """The data set from the data folder; made there first if it is missing.

    Args:
        which: "pictures", "computed" for the computed styles, or "unseen" for the share-alike sets, which nothing may
            be trained on.
    Raises:
        UserError: it has to be made and cannot be.
    """
    path = _path(which)
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                if file.metadata()["sha256"] == SHA256[which]:
                    pairs = [tuple(pair) for pair in json.loads(file.metadata()["pairs"])]
                    return Pictures(file.get_tensor("pixels"), pairs)
        except SafetensorError:
            pass  # damaged: it is made again
    build(which)
    return load(which)


def build(which: str = "pictures") -> str:
    """Render a data set anew, write it, and return the SHA-256 of its pixels.

    Raises:
        UserError: resvg-py is missing, a package cannot be had, or the pixels are not those that everybody else has.
    """
    pairs, pixels = zip(*{"pictures": _rendered, "computed": _computed, "unseen": _unseen}[which](), strict=True)
    pixels = np.stack(pixels)
    seen = hashlib.sha256(pixels.tobytes()).hexdigest()
    if seen != SHA256[which]:
        raise UserError(
            f"The {len(pairs)} pictures have SHA-256 {seen}, not {SHA256[which]}: they were drawn differently",
            "Install what requirements.txt and requirements-base.txt pin, and start again",
        )
    metadata = {"pairs": json.dumps(pairs), "sha256": seen}
    checkpoint.write_tensors(_path(which), {"pixels": torch.from_numpy(pixels)}, metadata)
    return seen


def _path(which: str) -> Path:
    return npm.base_folder() / f"{which}.safetensors"


def _rendered() -> Iterator[tuple[Pair, np.ndarray]]:
    """The sets in their order, then what is computed from them."""
    drawn: dict[str, dict[str, np.ndarray]] = {}  # style -> content -> RGBA
    for style in join.SETS:
        drawn[style] = {}
        for content, picture in render_set(style):
            drawn[style][content] = picture
            yield (content, style), on_white(picture)
    for style, (source, compute) in FIRST_COMPUTED.items():
        for content, picture in drawn[source].items():
            yield (content, style), compute(picture)


def _computed() -> Iterator[tuple[Pair, np.ndarray]]:
    """The contents of the split, the held-out ones and a third of the others, in every computed style."""
    named = {*SPLIT["contents"], *SPLIT["held_out_contents"]}
    for source in join.SETS:
        styles = {style: compute for style, (of, compute) in computed.COMPUTED.items() if of == source}
        for content, picture in render_set(source) if styles else ():
            if content in named or _hash(content) % 3 == 0:
                for style, compute in styles.items():
                    yield (content, style), compute(picture)


def _unseen() -> Iterator[tuple[Pair, np.ndarray]]:
    for style in join.SHARE_ALIKE:
        for content, picture in render_set(style):
            yield (content, style), on_white(picture)


def render_set(style: str) -> Iterator[tuple[str, np.ndarray]]:
    """Content and RGBA picture, uint8 (64, 64, 4), of all that a set has."""
    file = npm.read((join.SETS | join.SHARE_ALIKE)[style], "icons.json")
    names = join.contents()
    for code, icon in join.icons(style).items():
        yield names[code], render(svg(file, icon))


def svg(file: dict, icon: str) -> str:
    """A drawing of an Iconify set as an SVG file, squared by margins; what takes the text's colour is black."""
    entry = file["icons"][icon]
    width, height, left, top = (
        entry.get(key, file.get(key, default))
        for key, default in (("width", 16), ("height", 16), ("left", 0), ("top", 0))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side} {side}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{side}" height="{side}" viewBox="{box}">{entry["body"].replace("currentColor", "black")}</svg>'
    )


def render(drawing: str) -> np.ndarray:
    """An SVG as an RGBA picture, uint8 (64, 64, 4).

    Raises:
        UserError: resvg-py is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise UserError(
            "resvg-py, which draws the sets, is not installed", "Run pip install -r requirements-base.txt"
        ) from None
    png = bytes(svg_to_bytes(svg_string=drawing, width=SIZE, height=SIZE, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def on_white(picture: np.ndarray) -> np.ndarray:
    ground = Image.new("RGBA", (picture.shape[1], picture.shape[0]), "white")
    ground.alpha_composite(Image.fromarray(picture))
    return np.asarray(ground.convert("RGB"))


# The computed styles take an RGBA picture and give an RGB one, in whole numbers, so that the bits are the same
# on every machine.


def pixel_art(picture: np.ndarray) -> np.ndarray:
    """Sixteen pixels a side, twelve colours."""
    small = Image.fromarray(on_white(picture)).resize((16, 16), Image.Resampling.BOX)
    small = small.quantize(12, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.NEAREST))


def blueprint(picture: np.ndarray) -> np.ndarray:
    """The edges of brightness in chalk on blue."""
    return treatments.blueprint(on_white(picture))


def neon(picture: np.ndarray) -> np.ndarray:
    """The edges as glowing tubes in the drawing's own hues, on night."""
    colours, alpha = picture[..., :3].astype(np.int64), picture[..., 3:].astype(np.int64)
    lit = colours * alpha // 255
    edges = np.minimum(treatments.edges(lit, 0).max(-1), TUBE) * 255 // TUBE
    glow = Image.fromarray(edges.astype(np.uint8)).filter(ImageFilter.GaussianBlur(SPREAD))
    light = (7 * edges + 8 * np.asarray(glow).astype(np.int64)) // 10
    brightest = np.maximum(colours.max(-1, keepdims=True), 1)
    hues = np.where(alpha > 0, 255 + 4 * 255 * colours // brightest, 255)  # in 1/1275: a fifth white, the rest hue
    return np.minimum(NIGHT + light[..., None] * hues // 1275, 255).astype(np.uint8)


def sepia(picture: np.ndarray) -> np.ndarray:
    """Six brown tones by brightness."""
    return treatments.sepia(on_white(picture))


# Of the styles that came with the base: the set that each is computed from, and how.
FIRST_COMPUTED = {
    "pixel art": ("fluent flat", pixel_art),
    "blueprint": ("twemoji", blueprint),
    "neon": ("noto", neon),
    "sepia": ("fluent 3d", sepia),
}
