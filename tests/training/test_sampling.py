"""A base's pipeline, ready to draw."""

from training import sheet
from training.model import open_base
from training.sampling import LARGE, guided_pipeline


def test_large_pictures_are_decoded_one_at_a_time(base):
    pipe = open_base(str(base))
    counts = []
    pipe.vae.decoder.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    for size in (32, LARGE):
        pipe.vae.register_to_config(sample_size=size)
        sheet.draw(guided_pipeline(pipe, "emoji"), "fox", (0, 1, 2), 32, 4.0, 1)
    assert counts == [3, 1, 1, 1]
