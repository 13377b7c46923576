"""The computed styles: each a picture, the same bits everywhere, different from the others, and no held-out style."""

import hashlib
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from training.base import data, join
from training.base.computed import COMPUTED, HELD_OUT, luma

# Of what all styles make of the test drawing, in their order.
SHA256 = "0314b286d1b4e695ed206500e75cf16bf70e98bb6a69e8d082ba72f048364d1c"


@pytest.fixture(scope="module")
def drawing() -> np.ndarray:
    """A face with ears on nothing, shaded: RGBA, uint8 (64, 64, 4)."""
    image = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(image)
    pen.polygon([(10, 4), (30, 16), (10, 30)], fill=(200, 90, 30, 255))
    pen.polygon([(54, 4), (34, 16), (54, 30)], fill=(200, 90, 30, 255))
    for step in range(12):
        shade = (255 - 6 * step, 150 - 8 * step, 40 + 4 * step, 255)
        pen.ellipse([8 + step, 12 + step, 56 - step, 58 - step], fill=shade)
    pen.ellipse([20, 28, 26, 34], fill=(20, 20, 30, 255))
    pen.ellipse([38, 28, 44, 34], fill=(20, 20, 30, 255))
    pen.ellipse([26, 40, 38, 50], fill=(250, 250, 250, 255))
    pen.line([(14, 60), (50, 60)], fill=(40, 160, 90, 120), width=3)
    return np.asarray(image)


@pytest.fixture(scope="module")
def drawn(drawing) -> dict[str, np.ndarray]:
    return {style: compute(drawing) for style, (_, compute) in COMPUTED.items()}


def test_every_style_gives_a_picture_with_the_same_bits_on_every_machine(drawing, drawn):
    digest = hashlib.sha256()
    for style, (_, compute) in COMPUTED.items():
        assert drawn[style].shape == (64, 64, 3) and drawn[style].dtype == np.uint8
        assert np.array_equal(compute(drawing.copy()), drawn[style])
        digest.update(drawn[style].tobytes())
    assert digest.hexdigest() == SHA256


def test_there_are_many_and_no_two_are_alike(drawn):
    assert len(COMPUTED) >= 64
    pixels = np.stack([picture.astype(int) for picture in drawn.values()]).reshape(len(drawn), -1)
    for i in range(len(pixels)):
        apart = np.abs(pixels - pixels[i]).mean(1)
        apart[i] = 255
        assert apart.min() > 4, list(drawn)[i]


def test_names_are_words_and_sources_are_sets_that_may_be_shipped():
    for style, (source, _) in COMPUTED.items():
        assert re.fullmatch(r"[a-z]+( [a-z]+){0,3}", style)
        assert source in join.SETS and source in data.SPLIT["styles"]
    assert not COMPUTED.keys() & {*data.SPLIT["styles"], *data.SPLIT["held_out_styles"]}


def test_none_enlarges_pixels_as_pixel_art_does(drawn):
    for style, picture in drawn.items():
        blocks = picture.reshape(16, 4, 16, 4, 3).astype(int)
        flat = np.ptp(blocks, axis=(1, 3)).max(-1) == 0
        inside = flat[4:12, 4:12].mean()  # the ground is flat in most of them
        assert inside < 0.95 or len(np.unique(picture.reshape(-1, 3), axis=0)) <= 3, style


def test_none_draws_light_lines_on_black_as_neon_does(drawn):
    for style, picture in drawn.items():
        bright = luma(picture.astype(int))
        dark_ground = np.median(bright) < 45
        assert not (dark_ground and (bright > 120).mean() < 0.25), style


def test_what_is_held_out_has_relatives_that_are_learned():
    for style in HELD_OUT:
        kind = style.split()[-1]
        relatives = [name for name in COMPUTED if kind in name and name not in HELD_OUT]
        assert style in COMPUTED and len(relatives) >= 3


def test_a_tenth_of_the_pairs_is_left_out_and_nothing_held_out_is_learned():
    contents = [f"thing {i}" for i in range(100)] + data.SPLIT["held_out_contents"]
    pairs = [(content, style) for content in contents for style in COMPUTED]
    pictures = data.Pictures(torch.zeros(len(pairs), 1, 1, 3, dtype=torch.uint8), pairs)
    learned, left_out = (data.computed_pairs(pictures, one) for one in (False, True))
    assert set(learned).isdisjoint(left_out)
    assert 0.08 < len(left_out) / (len(learned) + len(left_out)) < 0.12
    for content, style in learned + left_out:
        assert content not in data.SPLIT["held_out_contents"] and style not in HELD_OUT
