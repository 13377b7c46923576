"""Pictures and captions of the concepts, and what training makes of them: cached latents and prompt embeddings."""

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.errors import UserError
from training import checkpoint
from training.captions import shortened
from training.config import Concept, Content, Customization
from training.families import denoiser_of, family_of
from training.formats import shown
from training.model import encode_pictures, encode_prompts, encoders
from training.pictures import Picture, read_pictures
from training.stages import SHORT
from training.treatments import TREATMENTS

log = logging.getLogger("joinery")


@dataclass(frozen=True)
class EncodedConcept:
    """All that the training loop needs of a concept: latents, (n, c, h, w), and conditions with n rows each."""

    latents: Tensor
    conditions: dict[str, Tensor]  # with a row more, of no caption, where captions are dropped
    digest: str  # of pictures, captions, resolution and encoders together
    names: tuple[str, ...] = ()  # of the picture files, n of them
    framing: dict[str, Tensor] = field(default_factory=dict)  # conditions that belong to the picture, n rows each
    weights: Tensor | None = None  # of the latents' errors, (n, 1, h, w), each picture's mean 1; None: all alike

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def no_caption(self) -> int:
        """The row of conditions without a caption."""
        return len(self)

    def to(self, device: torch.device) -> Self:
        conditions, framing = (
            {key: value.to(device) for key, value in some.items()} for some in (self.conditions, self.framing)
        )
        weights = None if self.weights is None else self.weights.to(device)
        return replace(self, latents=self.latents.to(device), conditions=conditions, framing=framing, weights=weights)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.latents[index], self.said(index, index)

    def said(self, index: Tensor, captions: Tensor) -> dict[str, Tensor]:
        """The conditions of pictures under captions, each by its row."""
        said = {key: value[captions] for key, value in self.conditions.items()}
        return said | {key: value[index] for key, value in self.framing.items()}


def read_all_pictures(config: Customization) -> dict[str, list[Picture]]:
    """Pictures by what the stages call them; `others` only where there are some.

    Without a make those of a concept that is taken from a finished run are not looked at.
    """
    found = {}
    for name, concept in (config.concepts if config.steps.make else config.to_learn).items():
        words = {"placeholder": concept.placeholder, "class_word": concept.class_word}
        found[name] = read_pictures(concept.pictures, config.resolution, concept.caption, words, concept.crops)
        if concept.unmasked_weight < 1:
            _check_masks(name, found[name])
        if concept.mirror:
            found[name] += [picture.mirrored() for picture in found[name]]
        if isinstance(concept, Content):
            own = found[name]
            if concept.variants:
                found[name] = own + [varied(one, *how) for one in own for how in concept.variants.items()]
            if concept.short_captions:
                # In make the full captions alone, so that what they say of a style is not taken for the content's own.
                short = [replace(one, caption=shortened(one.caption)) for one in own if "," in one.caption]
                found[SHORT] = found[name] + short
        if concept.others:
            found[f"other {name}s"] = read_pictures(concept.others, config.resolution, None)
    return found


def varied(picture: Picture, words: str, treatment: str) -> Picture:
    """A picture drawn anew, under its caption up to the first comma and the words for such pictures."""
    drawn = Image.fromarray(TREATMENTS[treatment](np.asarray(picture.image)))
    return replace(picture, image=drawn, caption=f"{shortened(picture.caption)}, {words}")


def _check_masks(name: str, pictures: list[Picture]) -> None:
    for picture in pictures:
        if picture.mask and not picture.mask.getbbox():
            raise UserError(
                f"By its mask the subject of {shown(picture.path)} lies outside the square that is used",
                f"Move the square with {name}.crops, or take the mask out",
            )


def prepare(
    pipe: DiffusionPipeline, pictures: list[Picture], cache: Path, concept: Concept | None = None
) -> EncodedConcept:
    """Encode pictures and captions, or take them from the cache, whose files are named by a hash of all they hold.

    Of pictures with the same pixels one is kept, and the log says so.

    Args:
        concept: what the project says of them; None of others.
    """
    for picture in pictures:
        if picture.duplicate_of:
            log.warning("%s has the same pixels as %s and is left out", picture.path, picture.duplicate_of)
    pictures = [picture for picture in pictures if not picture.duplicate_of]
    resolution = pictures[0].image.width
    captions = [picture.caption for picture in pictures]
    dropped = [""] if concept and concept.caption_dropout else []
    outside = concept.unmasked_weight if concept else 1.0
    masks = [picture.mask for picture in pictures] if outside < 1 else []
    identity = [
        resolution,
        [(hashlib.sha256(p.image.tobytes()).hexdigest(), p.caption) for p in pictures],
        encoders(pipe),
        str(denoiser_of(pipe).dtype),
    ]
    identity += ["latents in float32"] * (pipe.vae.dtype != torch.float32)
    framing = family_of(pipe).framing(pictures)
    identity += [{key: value.tolist() for key, value in framing.items()}] * bool(framing)
    identity += [dropped] * bool(dropped)
    identity += [[outside, [mask and hashlib.sha256(mask.tobytes()).hexdigest() for mask in masks]]] * any(masks)
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    file = cache / f"{digest[:32]}.safetensors"
    try:
        tensors = load_file(file)
        latents = tensors.pop("latents")
    except (OSError, SafetensorError, KeyError):  # a damaged cache file is made anew, like a missing one
        latents = encode_pictures(pipe, as_pixels(pictures))
        tensors = encode_prompts(pipe, captions + dropped, resolution)
        checkpoint.write_tensors(file, {"latents": latents} | tensors)
    weights = weights_of(masks, outside, (latents.shape[-2], latents.shape[-1])) if any(masks) else None
    return EncodedConcept(latents, tensors, digest, tuple(p.path.name for p in pictures), framing, weights)


def as_pixels(pictures: list[Picture]) -> Tensor:
    """What an autoencoder takes, (n, 3, h, w), from -1 to 1."""
    pixels = np.stack([np.asarray(picture.image) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def weights_of(masks: list[Image.Image | None], outside: float, size: tuple[int, int]) -> Tensor:
    """Weights of the latents' errors by masks, each picture's mean 1, so that the size of a subject does not count.

    Args:
        masks: grey, white where the subject is; None: all of the picture is.
        outside: weight of what is black.
        size: height and width of the latents.
    Returns:
        (n, 1, height, width)
    """
    shares = [torch.ones(size) if mask is None else torch.from_numpy(np.asarray(mask) / 255) for mask in masks]
    pooled = torch.stack([F.adaptive_avg_pool2d(share.float()[None], size) for share in shares])
    weights = outside + (1 - outside) * pooled
    return weights / weights.mean((2, 3), keepdim=True)
