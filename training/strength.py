"""How strong a concept has to be: the least strength that keeps nearly all that was learned of its own pictures.

What learns long enough to show a style in all of its pictures is mostly stronger than it has to be, and then covers
what it is joined with.
"""

from collections.abc import Callable

import torch
from diffusers import DiffusionPipeline

from training.adapters import Adapter
from training.concepts import EncodedConcept
from training.draws import keyed
from training.families import family_of
from training.model import denoising_loss
from training.stages import BOTH

LEVELS = 8  # noise levels at which the error is measured, from evenly spread shares
STRENGTHS = tuple(k / 20 for k in range(6, 21))  # .3 to 1


def least_strength(error: Callable[[float], float], slack: float) -> float:
    """The least of `STRENGTHS` that gives up no more than a share of what was learned; 1 where nothing was.

    Args:
        error: of a strength, 0 for without the concept.
        slack: the share, (e(s) - e(1)) / (e(0) - e(1)).
    """
    without, whole = error(0.0), error(1.0)
    if not without > whole:
        return 1.0
    return next(s for s in STRENGTHS if s == 1.0 or error(s) - whole <= slack * (without - whole))


def error_of(
    pipe: DiffusionPipeline, adapter: Adapter, concept: str, encoded: EncodedConcept, batch: int, seed: int
) -> Callable[[float], float]:
    """The denoising error of a concept's own pictures by its strength, the other concept off.

    Args:
        pipe: with the adapter on.
        batch: pictures that are computed at once.
        seed: of the noise.
    """

    def error(strength: float) -> float:
        adapter.set_scales(**dict.fromkeys(BOTH, 0.0) | {concept: strength})
        try:
            return denoising_error(pipe, encoded, batch, keyed(seed, "strength", concept, 0))
        finally:
            adapter.set_scales()

    return error


def denoising_error(pipe: DiffusionPipeline, encoded: EncodedConcept, batch: int, generator: torch.Generator) -> float:
    """The mean loss of pictures under their captions, each at `LEVELS` noise levels.

    Args:
        batch: pictures that are computed at once.
        generator: of the noise.
    """
    count, device, total = len(encoded), encoded.latents.device, 0.0
    shares = ((torch.arange(LEVELS) + 0.5) / LEVELS).repeat_interleave(count)
    index = torch.arange(count).repeat(LEVELS).to(device)
    shape = (len(index), *encoded.latents.shape[1:])
    noise = torch.randn(shape, generator=generator).to(device)
    levels = family_of(pipe).levels(pipe, shares).to(device)
    with torch.no_grad():
        for some in torch.arange(len(index), device=device).split(batch):
            latents, conditions = encoded[index[some]]
            total += denoising_loss(pipe, latents, conditions, noise[some], levels[some]).item() * len(some)
    return total / len(index)
