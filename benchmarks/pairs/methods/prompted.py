"""The two halves of guidance, told apart by what they were asked."""

import functools
from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from training.model import encode_prompts


def unasked(pipe: DiffusionPipeline, resolution: int) -> Callable[[Tensor], Tensor]:
    """Of prompt embeddings, (n, tokens, width): which are of the empty prompt, (n,)."""
    empty = encode_prompts(pipe, [""], resolution)["encoder_hidden_states"]

    def which(states: Tensor) -> Tensor:
        return torch.isclose(states, empty.to(states), atol=1e-4).flatten(1).all(1)

    return which


def without_prompt(pipe: DiffusionPipeline, resolution: int, switch: Callable[[bool], None]) -> None:
    """Evaluate the unconditional half by itself, with what was added switched off.

    Args:
        pipe: one whose denoiser takes nothing for each sample but latents and prompt embeddings.
        switch: turns on or off what was added.
    """
    whole, which = pipe.unet.forward, unasked(pipe, resolution)

    @functools.wraps(whole)
    def halves(sample: Tensor, timestep, encoder_hidden_states: Tensor, return_dict: bool = False, **same):
        off, found = which(encoder_hidden_states), torch.empty_like(sample)
        for on, rows in ((False, off), (True, ~off)):
            if rows.any():
                switch(on)
                found[rows] = whole(sample[rows], timestep, encoder_hidden_states[rows], return_dict=False, **same)[0]
        switch(True)
        return (found,)

    pipe.unet.forward = halves
