"""How strong a concept has to be, so that it shows and covers as little as it can of what it is joined with.

Two measures of that. What was learned of its own pictures: what learns long enough to show in all of them is mostly
stronger than it has to be. And for a style how far it reaches: on things that it was not learned on one style shows
long before its full strength, and another hardly at it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from training import others
from training.adapters import Adapter
from training.concepts import EncodedConcept, as_pixels
from training.config import Customization
from training.draws import keyed
from training.families import family_of
from training.model import denoising_loss, encode_pictures, encode_prompts, encoders_at_hand
from training.pictures import Picture
from training.stages import BOTH

LEVELS = 8  # noise levels at which the error is measured, from evenly spread shares
STRENGTHS = tuple(k / 20 for k in range(6, 21))  # .3 to 1
REACHES = tuple(k / 4 for k in range(1, 9))  # strengths at which it is looked how far a style reaches
THINGS = 10  # that are drawn for it at most


def is_settled(config: Customization, concept: str) -> bool:
    """Whether a concept's strength is asked for once it is learned."""
    own = config.concepts[concept]
    return bool(own.slack or getattr(own, "reach", 0))


def strength_of(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    config: Customization,
    concept: str,
    encoded: EncodedConcept,
    should_stop: Callable[[], bool],
) -> float:
    """The least strength at which a style reaches as far as it has to, or a concept keeps all but its slack.

    Args:
        pipe: with the adapter on, which has learned the concept.
        encoded: its own pictures.
    Raises:
        Stopped: `should_stop` ended it.
    """
    own = config.concepts[concept]
    if share := getattr(own, "reach", 0):
        return reaching_strength(reach_of(pipe, adapter, config, encoded, should_stop), share)
    return least_strength(error_of(pipe, adapter, concept, encoded, config.steps.batch_size, config.seed), own.slack)


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
        with alone(adapter, concept, strength):
            return denoising_error(pipe, encoded, batch, keyed(seed, "strength", concept, 0))

    return error


@contextmanager
def alone(adapter: Adapter, concept: str, strength: float) -> Iterator[None]:
    """A concept at a strength and the other one off, inside the block."""
    adapter.set_scales(**dict.fromkeys(BOTH, 0.0) | {concept: strength})
    try:
        yield
    finally:
        adapter.set_scales()


def reaching_strength(reached: Callable[[float], float], share: float) -> float:
    """The least strength at which a style shows a share of the most that it can; 1 where it does not show at all.

    Args:
        reached: how far it shows at a strength of `REACHES`; between them it is taken to be straight.
    """
    found = [(strength, reached(strength)) for strength in REACHES]
    wanted = share * max(shown for _, shown in found)
    if wanted <= 0:
        return 1.0
    k = next(k for k, (_, shown) in enumerate(found) if shown >= wanted)
    (low, below), (high, above) = found[max(k - 1, 0)], found[k]
    return round(low + (high - low) * (wanted - below) / (above - below), 2) if k else high


def reach_of(
    pipe: DiffusionPipeline,
    adapter: Adapter,
    config: Customization,
    encoded: EncodedConcept,
    should_stop: Callable[[], bool] | None = None,
) -> Callable[[float], float]:
    """How far a style shows by its strength on things that it was not learned on, of how far on its own pictures.

    Things that the base knows are drawn in it. How much less the adapter errs in denoising them than the base alone is
    how much of the style they show.

    Args:
        pipe: with the adapter on, which has learned the style.
        encoded: the style's own pictures.
        should_stop: asked after every step of a drawing, which raises `Stopped` when it says so.
    """
    style = config.style
    assert style is not None
    words = " ".join(word for word in (style.placeholder, style.class_word) if word)
    prompts = [config.others.caption.format(content=one, style=words) for one in config.others.contents[:THINGS]]

    def shows(pictures: EncodedConcept) -> float:
        error = error_of(pipe, adapter, "style", pictures, config.steps.batch_size, config.seed)
        return error(0.0) - error(1.0)

    def reached(strength: float) -> float:
        with alone(adapter, "style", strength), encoders_at_hand(pipe):
            size, seeds = config.resolution, tuple(range(len(prompts)))
            images = others.draw(pipe, prompts, seeds, size, should_stop)
            drawn = [Picture(Path(), image, prompt) for image, prompt in zip(images, prompts, strict=True)]
            latents, said = encode_pictures(pipe, as_pixels(drawn)), encode_prompts(pipe, prompts, size)
        return shows(EncodedConcept(latents, said, "", framing=family_of(pipe).framing(drawn)).to(pipe.device)) / own

    own = shows(encoded)
    return reached if own > 0 else lambda strength: 0.0


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
