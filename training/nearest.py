"""Which of the words that a base knows is nearest to some pictures: the one under which it denoises them best.

A class word is what a concept starts from. A style that starts from the wrong one has more to learn than its own, and
brings along what the word means.
"""

from collections.abc import Sequence

from pipelines.errors import UserError
from training import captions
from training.concepts import EncodedConcept, as_pixels
from training.config import Customization
from training.draws import keyed
from training.families import family_of
from training.model import encode_pictures, encode_prompts, open_base, rest_encoders
from training.pictures import read_pictures
from training.sampling import guided_pipeline
from training.strength import denoising_error


def nearest(config: Customization, kind: str, words: Sequence[str] = ()) -> list[tuple[str, float]]:
    """The words with the error of each, the nearest first.

    Args:
        kind: "content" or "style".
        words: to compare; those of the project's `others` if there are none.
    Raises:
        UserError: the project has no such concept, or its base or its pictures cannot be read.
    """
    own = config.concepts.get(kind)
    if own is None:
        raise UserError(f"The project has no {kind}", f"Add a table [{kind}] with pictures")
    words = list(dict.fromkeys(words or getattr(config.others, f"{kind}s")))
    config.recognised_base()
    pictures = [
        one
        for one in read_pictures(own.pictures, config.resolution, own.caption, {}, own.crops)
        if not one.duplicate_of
    ]
    pipe = guided_pipeline(
        open_base(config.resolved_base(), config.precision, config.prediction, config.zero_snr), config.preset
    )
    latents, framing = encode_pictures(pipe, as_pixels(pictures)), family_of(pipe).framing(pictures)
    templates = [captions.beside(one.path) or own.caption for one in pictures]
    prompts = [
        captions.fill(template, one.path, {"placeholder": "", "class_word": word})
        for word in words
        for template, one in zip(templates, pictures, strict=True)
    ]
    said = encode_prompts(pipe, prompts, config.resolution)
    rest_encoders(pipe)
    errors = {}
    for number, word in enumerate(words):
        rows = slice(number * len(pictures), (number + 1) * len(pictures))
        encoded = EncodedConcept(latents, {key: value[rows] for key, value in said.items()}, "", framing=framing)
        noise = keyed(config.seed, "nearest")  # the same for each word
        errors[word] = denoising_error(pipe, encoded.to(pipe.device), config.steps.batch_size, noise)
    return sorted(errors.items(), key=lambda found: found[1])
