"""The embedded base model, in stock diffusers, and the judges."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from benchmarks.common.pictures import reference_pictures
from training.base.data import SPLIT
from training.base.judge import Judge, accuracy

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["emoji", "emoji-composing"])
def test_an_embedded_base_draws_with_the_stock_pipeline(name):
    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "models" / name, use_safetensors=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["red apple, twemoji style", "fish, blueprint style"]
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    pictures = pipe(prompts, num_inference_steps=2, guidance_scale=2, generator=generators).images
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    apple, fish = (np.asarray(picture, dtype=float).mean((0, 1)) for picture in pictures)
    assert apple[0] > apple[2] + 20 and fish[2] > fish[0] + 20  # red on white; lines on blue


@pytest.mark.parametrize("name", ["judge", "judge-2"])
def test_the_judges_know_real_pictures(name):
    judge = Judge.load(ROOT / "models" / name)
    files = reference_pictures().values()
    pairs = [tuple(name.replace("-", " ") for name in pair) for pair in reference_pictures()]
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))) for file in files])
    contents = [*SPLIT["contents"], *SPLIT["held_out_contents"]]
    right = accuracy(judge.says(pixels, judge.config["styles"], contents), pairs)
    assert right["content"] > 0.9 and right["style"] > 0.7
    assert judge.features(pixels).shape == (len(files), judge.trunk.width)
    assert not {"openmoji", "emojione classic"} & set(judge.config["styles"])
