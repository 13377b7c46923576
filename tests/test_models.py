"""The embedded base model, in stock diffusers."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

EMOJI = Path(__file__).parent.parent / "models/emoji"


def test_the_embedded_base_draws_with_the_stock_pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(EMOJI, use_safetensors=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["red apple, twemoji style", "fish, blueprint style"]
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    pictures = pipe(prompts, num_inference_steps=2, guidance_scale=2, generator=generators).images
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    apple, fish = (np.asarray(picture, dtype=float).mean((0, 1)) for picture in pictures)
    assert apple[0] > apple[2] + 20 and fish[2] > fish[0] + 20  # red on white; lines on blue
