"""A base's pipeline, ready to draw."""

import pytest
import torch
from PIL import Image

from pipelines import UserError
from tests.training.bases import BASES, made
from training import sheet
from training.model import open_base
from training.sampling import LARGE, from_picture, guided_pipeline, starting_from

FROM_NOISE_ALONE = ("flux2-klein", "krea2", "sana")


def test_large_pictures_are_decoded_one_at_a_time(base):
    pipe = open_base(str(base))
    counts = []
    pipe.vae.decoder.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    for size in (32, LARGE):
        pipe.vae.register_to_config(sample_size=size)
        sheet.draw(guided_pipeline(pipe, "emoji"), "fox", (0, 1, 2), 32, 4.0, 1)
    assert counts == [3, 1, 1, 1]


@pytest.mark.parametrize("name", FROM_NOISE_ALONE)
def test_a_family_without_a_class_that_starts_from_a_picture_says_so(name):
    with pytest.raises(UserError, match="cannot start from a picture"):
        from_picture(guided_pipeline(made(name), "emoji"))


@pytest.mark.parametrize("name", [name for name in BASES if name not in FROM_NOISE_ALONE])
def test_every_other_family_starts_from_a_picture(name):
    pipe = from_picture(guided_pipeline(made(name), "emoji"))

    def drawn(colour: str, *seeds: int) -> list[bytes]:
        given = sheet.guided_by(pipe, 4.0, len(seeds))
        given |= starting_from(pipe, Image.new("RGB", (32, 32), colour), 0.5, len(seeds))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = pipe(["fox"] * len(seeds), **given, num_inference_steps=2, generator=generators).images
        assert pictures[0].size == (32, 32)
        return [picture.tobytes() for picture in pictures]

    first, second = drawn("red", 1, 2)
    assert drawn("red", 1, 2) == [first, second] and first != second and first != drawn("blue", 1, 2)[0]
