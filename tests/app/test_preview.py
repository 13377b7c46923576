"""What is shown while a picture is drawn is what the sampler takes for the finished one."""

import numpy as np
import pytest
import torch

from app import preview
from tests.training.bases import made
from training.sampling import guided_pipeline

SIZE = 32


@pytest.mark.parametrize("family", ["sana", "sd3", "flux1", "chroma", "z-image", "flux2-klein", "qwen-image", "krea2"])
def test_the_guess_of_a_flow_ends_with_the_picture(family):
    pipe, guessed = guided_pipeline(made(family), family), []
    with preview.guesses(pipe.scheduler) as guess:

        def look(pipe, step, timestep, tensors):
            guessed.append(preview.decode(pipe, guess(), (SIZE, SIZE))[0])
            return tensors

        generator = torch.Generator().manual_seed(0)
        own = {"use_resolution_binning": False} if family == "sana" else {}
        settings = own | {"num_inference_steps": 3, "generator": generator, "callback_on_step_end": look}
        image = pipe(prompt="a koala", height=SIZE, width=SIZE, **settings).images[0]
    assert len(guessed) == 3 and all(one.size == image.size for one in guessed)
    off = [np.abs(np.asarray(one).astype(int) - np.asarray(image).astype(int)).mean() for one in guessed]
    assert off[-1] < min(off[0], 1)


def test_latents_that_lie_otherwise_are_not_shown():
    pipe = made("sd3")
    assert preview.decode(pipe, torch.zeros(1, 16, 64), (SIZE, SIZE)) == []
