"""Pictures and captions of the concepts, and what training makes of them: cached latents and prompt embeddings."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training import checkpoint
from training.config import Customization
from training.families import denoiser_of
from training.model import encode_pictures, encode_prompts, encoders
from training.pictures import Picture, read_pictures
from training.stages import SHORT

log = logging.getLogger("joinery")


@dataclass(frozen=True)
class EncodedConcept:
    """All that the training loop needs of a concept: latents, (n, c, h, w), and conditions with n rows each."""

    latents: Tensor
    conditions: dict[str, Tensor]
    digest: str  # of pictures, captions, resolution and encoders together
    names: tuple[str, ...] = ()  # of the picture files, n of them

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device) -> Self:
        conditions = {key: value.to(device) for key, value in self.conditions.items()}
        return EncodedConcept(self.latents.to(device), conditions, self.digest, self.names)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.latents[index], {key: value[index] for key, value in self.conditions.items()}


def read_all_pictures(config: Customization) -> dict[str, list[Picture]]:
    """Pictures by what the stages call them; `others` only where there are some.

    Without a make those of a concept that is taken from a finished run are not looked at.
    """
    found = {}
    for name, concept in (config.concepts if config.steps.make else config.to_learn).items():
        words = {"placeholder": concept.placeholder, "class_word": concept.class_word}
        found[name] = read_pictures(concept.pictures, config.resolution, concept.caption, words, concept.crops)
        if concept.mirror:
            found[name] += [replace(picture, image=ImageOps.mirror(picture.image)) for picture in found[name]]
        if name == "content" and concept.short_captions:
            # In make the full captions alone, so that what they say of a style is not taken for the content's own.
            short = [replace(p, caption=p.caption.split(",")[0]) for p in found[name] if "," in p.caption]
            found[SHORT] = found[name] + short
        if concept.others:
            found[f"other {name}s"] = read_pictures(concept.others, config.resolution, None)
    return found


def prepare(pipe: DiffusionPipeline, pictures: list[Picture], cache: Path) -> EncodedConcept:
    """Encode pictures and captions, or take them from the cache, whose files are named by a hash of all they hold.

    Of pictures with the same pixels one is kept, and the log says so.
    """
    for picture in pictures:
        if picture.duplicate_of:
            log.warning("%s has the same pixels as %s and is left out", picture.path, picture.duplicate_of)
    pictures = [picture for picture in pictures if not picture.duplicate_of]
    resolution = pictures[0].image.width
    identity = json.dumps(
        [
            resolution,
            [(hashlib.sha256(p.image.tobytes()).hexdigest(), p.caption) for p in pictures],
            encoders(pipe),
            str(denoiser_of(pipe).dtype),
        ]
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()
    file = cache / f"{digest[:32]}.safetensors"
    try:
        tensors = load_file(file)
        latents = tensors.pop("latents")
    except (OSError, SafetensorError, KeyError):  # a damaged cache file is made anew, like a missing one
        pixels = np.stack([np.asarray(picture.image) for picture in pictures])
        pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = encode_pictures(pipe, pixels)
        tensors = encode_prompts(pipe, [picture.caption for picture in pictures], resolution)
        checkpoint.write_tensors(file, {"latents": latents} | tensors)
    return EncodedConcept(latents, tensors, digest, tuple(p.path.name for p in pictures))
