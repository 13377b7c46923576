"""Pictures drawn anew by arithmetic."""

import numpy as np
import pytest
from PIL import Image

from training.treatments import TREATMENTS


@pytest.fixture
def picture() -> np.ndarray:
    """A red disc, lit from one side, on white."""
    image = Image.new("RGB", (128, 96), "white")
    shade = Image.radial_gradient("L").resize((64, 64))
    image.paste(Image.merge("RGB", (shade.point(lambda x: 255 - x // 2), shade, shade)), (16, 16))
    return np.asarray(image)


@pytest.mark.parametrize("name", TREATMENTS)
def test_a_treatment_keeps_the_size_and_gives_the_same_bits(name, picture):
    drawn = TREATMENTS[name](picture)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    assert np.array_equal(TREATMENTS[name](picture), drawn) and not np.array_equal(drawn, picture)


def test_each_shows_what_its_name_says(picture):
    grey, sepia, blueprint, lines = (TREATMENTS[name](picture) for name in ("grey", "sepia", "blueprint", "lines"))
    assert (grey[..., 0] == grey[..., 2]).all() and grey[0, 0, 0] == 255
    assert (np.diff(sepia.astype(int), axis=-1) < 0).all() and len(np.unique(sepia[..., 0])) <= 6  # red above green
    assert (blueprint[1:, 1:][90, 120] == (24, 62, 140)).all() and blueprint[16, 16:80].max() > 140  # paper, and chalk
    assert lines[0, 0].tolist() == [255] * 3 and lines.min() < 200
    assert np.count_nonzero(lines[..., 0] < 250) < 128 * 96 / 2
