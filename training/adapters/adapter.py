"""What every method of learning has in common: the one interface that the loop, previews, files and estimates know.

A method is a file with a subclass, named in `training.adapters`. Project files are read by it, and the studio reads
project files without PyTorch, so the methods' files import PyTorch where they compute.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self

from training.stages import BOTH

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.config import AdapterSettings, Customization, Make
    from training.stages import Stage


class Adapter(ABC):
    """What learns, on one denoiser: content and style apart, each with learned factors of its own.

    A concept's learned factors are tensors by layer name, and None or fewer tensors is a concept that is off.
    """

    # What follows from the choice of a method, before anything is opened.
    name: ClassVar[str]  # in project files
    title: ClassVar[str]  # what learns, in words
    steps_in_backward: ClassVar[bool] = False  # whether a gradient may be used up before the others are there
    splits: ClassVar[bool] = False  # whether content and style may have layers of their own
    truncates: ClassVar[bool] = False  # whether an adapter file holds what was learned only as far as its rank does

    @classmethod
    @abstractmethod
    def stages(cls, config: Customization) -> list[Stage]:
        """The stages of a customization, in order."""

    @classmethod  # noqa: B027 (most take all settings)
    def check(cls, config: Customization) -> None:
        """Raise a UserError for settings that do not go together with this method."""

    @staticmethod
    def learns_from_others(config: Customization, concept: str) -> bool:
        """Whether pictures of others teach the concept itself."""
        return config.concepts[concept].prior_weight > 0

    @classmethod
    def optimizer_defaults(cls, optimizer: str) -> dict[str, Any]:
        """Settings of an optimizer that suit this method better than its own, where a project file leaves them out."""
        return {}

    @classmethod
    def precision(cls, config: Customization) -> str:
        """Of the base in training: "auto", "fp32", "bf16", "fp16" or "nf4"."""
        return config.precision

    @classmethod
    @abstractmethod
    def attach(cls, denoiser: nn.Module, settings: AdapterSettings) -> Self:
        """A fresh one on a denoiser, of which nothing else learns from now on.

        Raises:
            UserError: the rank does not fit, or the denoiser has no such layers.
        """

    # What learns, and how it is put on and taken off.
    # Concept -> where its learned factors lie in a file: "up", "down", "first rank" or "second rank" (`export.Card`).
    places: dict[str, str]

    @abstractmethod
    def parameters(self, concept: str) -> list[nn.Parameter]:
        """What the optimizer holds for a concept, "content" or "style"."""

    def in_up_factors(self, concept: str) -> list[nn.Parameter]:
        """Those of them that lie in the up factors of an adapter."""
        return []

    @abstractmethod
    def learned(self, concept: str) -> dict[str, Tensor]:
        """A copy of a concept's learned factors by layer name."""

    @abstractmethod
    def load(self, concept: str, learned: dict[str, Tensor] | None) -> None:
        """Put a concept's learned factors back; None takes the concept off."""

    def fresh(self) -> dict[str, Tensor] | None:
        """What a concept starts from, for `load`."""
        return None

    @abstractmethod
    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Scale what the concepts do: 0 leaves one out, 1 is as learned."""

    @contextmanager
    def put_back(self) -> Iterator[dict[str, dict[str, Tensor]]]:
        """Concept -> its learned factors, which are on again after the block, whatever is loaded in it."""
        now = {concept: self.learned(concept) for concept in BOTH}
        try:
            yield now
        finally:
            for concept, learned in now.items():
                self.load(concept, learned)

    def at_strength(self, concept: str, learned: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
        """A concept's learned factors, which are on, so many times as strong, as `set_scales` has it."""
        self.set_scales(**{concept: strength})
        try:
            return self.learned_in(self.factors(), concept)
        finally:
            self.set_scales()

    def stepping(self, stage: Stage, make: Make) -> AbstractContextManager:
        """Around the optimizer's step: may change gradients before it and weights after it."""
        return nullcontext()

    # What an adapter file holds.
    @abstractmethod
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer name -> up, (m, r), and down, (r, n) or (r, n, *kernel), of the whole adapter at the present scales."""

    @abstractmethod
    def learned_in(self, factors: dict[str, tuple[Tensor, Tensor]], concept: str) -> dict[str, Tensor]:
        """A concept's learned factors, for `load`, as an adapter file of the same settings holds them."""

    def load_factors(self, factors: dict[str, tuple[Tensor, Tensor]]) -> None:  # noqa: B027 (most need nothing)
        """Put on what an adapter file with these factors does, where that is not what is on."""

    def frozen(self, settings: AdapterSettings) -> dict[str, Any]:
        """Of the file's card: how the factors that do not learn were made; two adapters join only if theirs agree."""
        return {"seed": settings.seed, "constant_block": "none"}
