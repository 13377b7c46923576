"""What training has to know of a family of bases: the one interface that everything outside this folder goes by.

A family is a file with a subclass, named in `training.families`. Project files are read by it, and the studio reads
project files without PyTorch, so the families' files import PyTorch where they compute.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from pipelines.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
    from torch import Tensor, nn

    from training.config import Loss
    from training.pictures import Picture

PARTS = {  # of a base, in words
    "unet": "UNet",
    "transformer": "transformer",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder",
    "tokenizer": "tokenizer",
    "tokenizer_2": "second tokenizer",
    "tokenizer_3": "third tokenizer",
    "scheduler": "scheduler",
}
NO_LIMIT = 10**6  # tokens of a prompt
WORDS = ("tokenizer.json", "vocab.json", "spiece.model")
HINTS = {  # a file without which a part of a folder is none; networks need weights too
    "tokenizer": WORDS,
    "tokenizer_2": WORDS,
    "tokenizer_3": WORDS,
    "scheduler": ("scheduler_config.json",),
}
PHOTOGRAPHED = {  # words that bases for large pictures know
    "contents": ["a dog", "a cat", "a house", "a car", "a tree", "a chair", "a boat", "a flower", "a bird", "a cup"],
    "styles": ["photo", "watercolor", "oil painting", "pencil sketch", "3d render", "pixel art", "charcoal", "anime"],
}
# A word in the name of a model that draws in a few steps.
FAST = re.compile(r"turbo|lightning|schnell|chroma.*flash|hyper-?sd|(?<![a-z])(?:lcm|dmd2?|distilled)(?![a-z])", re.I)
EIGHT_BIT = {"name": "gradnorm-lorp", "rank": 0.25, "bits": 8}
EXACT = {"name": "gradnorm-lorp", "rank": 0.25, "bits": 32}
PROJECTED = {"name": "gradnorm-lorp", "rank": 128, "bits": 8}
BLOCKS = {"name": "owlore", "rank": 128, "bits": 8}


@dataclass(frozen=True)
class Header:
    """What a single file says before its weights are read."""

    name: str
    keys: frozenset[str]
    metadata: dict[str, str]
    shape: Callable[[str], list[int]]  # of a tensor by its key; empty where there is none
    largest: Callable[[str], float]  # number in a tensor by its key; 0 where there is none


class Family(ABC):
    """Bases with one architecture and one loss."""

    # What is told before anything is opened.
    name: ClassVar[str]  # a key of `training.families.FAMILIES`
    title: ClassVar[str]  # in words
    origin: ClassVar[str]  # the hub id of the model that its others descend from
    pipeline: ClassVar[str]  # diffusers' class
    relatives: ClassVar[dict[str, str]] = {}  # classes of models for another task, that are not trained: what they are
    parts: ClassVar[tuple[str, ...]]  # keys of `PARTS` that a base consists of
    predictions: ClassVar[tuple[str, ...]]  # what its networks may predict
    multiple: ClassVar[int] = 8  # of pixels, that a picture's side is
    preset: ClassVar[str]
    settings: ClassVar[dict[str, Any]]  # of the preset: what differs from a project file's defaults
    others_scale: ClassVar[float] = 2.0  # guidance of other contents and styles: little, as the base itself would draw
    # `adapter.method` -> gigabytes or "cpu" -> a row of `training.memory`; empty where nobody has measured.
    memory: ClassVar[dict[str, dict[int | str, tuple]]] = {}

    longest: ClassVar[int] = NO_LIMIT  # tokens that the pipeline lets through, however many its tokenizer reads
    fp16: ClassVar[bool] = False  # whether it computes soundly in it
    windows: ClassVar[int] = 1  # of as many tokens as its tokenizer reads, one after the other

    # What drawing may begin with beside noise: a whole picture ("image"), or one of which a part changes ("inpaint").
    starts: ClassVar[tuple[str, ...]] = ("image", "inpaint")

    # What learns.
    network: ClassVar[str]  # class of the denoiser
    # `adapter.layers` -> a regular expression over the denoiser's module names, from their start to their end.
    layers: ClassVar[dict[str, str]]
    always_by_parts: ClassVar[bool] = True  # `fused` holds whatever `adapter.split_gates` says
    words: ClassVar[str] = ""  # layers that make keys and values of a prompt's words; none where text and picture share
    blocks: ClassVar[tuple[str, ...]]  # lists of modules in it, of which OwLore trains some at a time

    @property
    def denoiser(self) -> str:
        """The part that learns."""
        return self.parts[0]

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return tuple(part for part in self.parts if part not in HINTS)

    @property
    def readers(self) -> tuple[str, ...]:
        """The tokenizers that every word of a prompt has to go through."""
        return tuple(part for part in self.parts if part.startswith("tokenizer"))

    def fused(self, denoiser: nn.Module, name: str) -> dict[str, tuple[int, ...]]:
        """Of a layer that is several matrices in one: "up" -> the outputs, "down" -> the inputs, of each of them.

        A concept learns half of each; otherwise a style, say, would be learned on the gate of a feed-forward alone.
        """
        return {}

    def places(self, denoiser: nn.Module, name: str) -> set[str]:
        """Which places of a denoiser a layer belongs to, as a project file calls them.

        "words": it makes keys or values of a prompt's words. "fine": it is a convolution at the finest positions, where
        it sees little of a picture. "coarse": it is none.
        """
        return {"words"} if self.words and re.search(self.words, name) else set()

    def labels(self, prediction: str) -> dict[str, str]:
        """What programs read in an adapter's metadata to know which bases it is for.

        Args:
            prediction: of the base that it was trained on.
        """
        return {}

    # Recognition.
    @abstractmethod
    def of_folder(self, kind: str, index: dict[str, Any], denoiser: dict[str, Any]) -> bool:
        """Whether a folder is of this family, or an inpainting model or a refiner of it.

        Args:
            kind: class of its pipeline.
            index, denoiser: what `model_index.json` and the denoiser's configuration hold.
        """

    def distilled(self, denoiser: dict[str, Any], scheduler: dict[str, Any]) -> str:
        """What in a folder's configurations tells that it draws in a few steps; empty where nothing does."""
        return ""

    @abstractmethod
    def side(self, denoiser: dict[str, Any], vae: dict[str, Any]) -> int:
        """The side in pixels that a folder was made for, 0 where its configurations do not tell."""

    def of_file(self, header: Header) -> dict[str, Any] | None:
        """What a single file of this family is, as fields of `training.recognise.Base`; None of another family."""
        return None

    def open_file(self, path: str, dtype: torch.dtype) -> DiffusionPipeline:
        """Open a single file.

        Raises:
            UserError: this family's are not read.
            ValueError, RuntimeError: a tensor is missing, or of another shape.
        """
        raise UserError(f"{path} is a single file, and {self.title} is read as a folder only", f"Name {self.origin}")

    # Data.
    @abstractmethod
    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        """A picture, (1, 3, h, w) in [-1, 1], to latents as the denoiser knows them, (1, c, h / f, w / f), float32.

        The mean of the autoencoder's posterior: the same picture always gives the same latents.
        """

    @abstractmethod
    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """Prompts to what `loss` takes as conditions, each entry with n rows; short rows are padded, with a mask."""

    def framing(self, pictures: list[Picture]) -> dict[str, Tensor]:
        """Conditions that say how pictures were framed, a row each, in place of those of `encode_prompts`."""
        return {}

    # The loss.
    @abstractmethod
    def levels(self, pipe: DiffusionPipeline, shares: Tensor) -> Tensor:
        """Noise levels, (n,), as `loss` takes them, of shares of the draw in [0, 1), 1 the noisiest.

        Even shares give the distribution that the family is trained with.
        """

    @abstractmethod
    def loss(
        self,
        pipe: DiffusionPipeline,
        latents: Tensor,
        conditions: dict[str, Tensor],
        noise: Tensor,
        levels: Tensor,
        weights: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """The family's training loss, a mean over the batch.

        Args:
            latents, noise: (n, c, h, w), float32.
            conditions: of `encode_prompts`, n rows each.
            levels: (n,), of `levels`.
            weights: of the squared errors, of a shape that spreads to theirs; None: one each.
            groups: equal stretches of the batch, each with a mean of its own if there are more than one.
        """

    def check_loss(self, settings: Loss) -> None:  # noqa: B027 (most fit all)
        """Raises UserError: settings of the loss that do not fit this family."""

    def min_snr_weights(self, pipe: DiffusionPipeline, levels: Tensor, gamma: float) -> Tensor:
        """Weights (n,) of the errors at noise levels, of Min-SNR (arXiv 2303.09556)."""
        raise NotImplementedError(f"{self.title} knows no such weights")

    @abstractmethod
    def noise_schedule(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The settings of the base's scheduler that the loss depends on."""

    # Drawing.
    def told(self, scheduler: SchedulerMixin, prediction: str, zero_snr: bool) -> SchedulerMixin:
        """The scheduler with the prediction and the end of the noise schedule that the base was trained with."""
        return scheduler

    def sampler(self, scheduler: SchedulerMixin, name: str = "") -> SchedulerMixin:
        """The scheduler that pictures are drawn with.

        Args:
            scheduler: the base's own.
            name: one of `SAMPLERS`, where the family leaves the choice; empty: the one that suits it.
        Raises:
            UserError: there is none of this name.
        """
        if name:
            raise UserError(f"This base has one sampler, and {name} is not it", "Leave the choice to the base")
        return scheduler


def fast_name(names: Sequence[str]) -> str:
    """The word in one of the names that only models for a few steps have; of a path the last part counts."""
    found = next(filter(None, (FAST.search(Path(name).name) for name in names)), None)
    return f"its name has {found[0]!r}" if found else ""


_dtypes: WeakKeyDictionary[nn.Module, tuple[torch.dtype, torch.dtype]] = WeakKeyDictionary()


def dtype_of(network: ModelMixin) -> torch.dtype:
    """A network's `dtype`, for which diffusers goes through all its modules: a twentieth of a small base's step."""
    first = next(network.parameters()).dtype
    known = _dtypes.get(network)
    if known is None or known[0] != first:  # it was moved to another one
        known = _dtypes[network] = first, network.dtype
    return known[1]


def by_statistics(latents: Tensor, vae: ModelMixin) -> Tensor:
    """Latents, (n, c, h, w), normalised by the autoencoder's own mean and deviation of each channel, if it has any."""
    import torch

    stated = [vae.config.get(name) for name in ("latents_mean", "latents_std")]
    if not all(stated):
        return latents
    mean, std = (torch.tensor(values, device=latents.device).view(1, -1, 1, 1) for values in stated)
    return (latents - mean) / std


def mean_square(error: Tensor, weights: Tensor | None, groups: int = 1) -> Tensor:
    """The mean of an error's squares, weighed where there are weights; of more than one group (groups,)."""
    squares = error.square() if weights is None else weights * error.square()
    return squares.mean() if groups == 1 else squares.reshape(groups, -1).mean(1)
