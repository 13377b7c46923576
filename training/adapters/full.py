"""The denoiser's own weights as what is learned, and their differences as a LoRA of a chosen rank.

Where `plp` learns factors of an adapter, this learns the weights themselves, content and style each from the base on:

    W_content = W + Delta_c      W_style = W + Delta_s      joined: W + c Delta_c + s Delta_s

The adapter file holds each difference truncated to r / 2 by its singular values, side by side:
up = [U_c, U_s], down = [V_c; V_s]. Nothing is trained after joining: there is no make.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipelines.errors import UserError
from training.adapters.adapter import Adapter
from training.families import family_of_denoiser
from training.optimizers.settings import NARROW
from training.stages import BOTH, Stage, end_of, others_parts, own_part, steps_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.config import AdapterSettings, Customization

log = logging.getLogger("joinery")


class FullWeights(Adapter):
    """The linear layers and convolutions of a denoiser, which learn themselves; everything else is frozen.

    A concept's learned factors are its whole weights by layer name. Only one concept learns at a time.

    Args:
        rank: of the LoRA that is made of the differences, even.
        layers: one of the denoiser's sets (`layers` of its family).
    Raises:
        UserError: the denoiser has no such layers.
    """

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "the base's own weights, cut to a LoRA of this rank"
    steps_in_backward: ClassVar[bool] = True
    truncates: ClassVar[bool] = True

    @classmethod
    def stages(cls, config: Customization) -> list[Stage]:
        """One concept after the other, with others beside it where they are to teach it too."""
        stages: list[Stage] = []
        for concept, own in config.to_learn.items():
            first, steps = end_of(stages), steps_of(config, concept)
            moves = (concept,) * cls.learns_from_others(config, concept)
            parts = (own_part(config, concept), *others_parts(config, concept, moves))
            stages.append(Stage(concept, first, steps, parts, {concept: config.optimizer.lr * own.rate}))
        return stages

    @classmethod
    def check(cls, config: Customization) -> None:
        if config.optimizer.name == "lora-plus":
            raise UserError(
                "optimizer.name is 'lora-plus', whose two rates are for the two factors of an adapter",
                'Set adapter.method to "plp", or choose another optimizer',
            )
        if config.adapter.compander:
            raise UserError("adapter.compander is for the halves of an adapter", 'Leave it out with method = "full"')
        if {config.adapter.content_in, config.adapter.style_in} != {"everywhere"} or config.adapter.split != "factors":
            raise UserError(
                "adapter.content_in, style_in and split are for the halves of an adapter",
                'Leave them out with method = "full"',
            )
        if config.precision in ("nf4", "fp16"):
            raise UserError(
                f"precision is {config.precision!r}, in which weights cannot learn",
                'Set it to "auto", or adapter.method to "plp"',
            )
        if config.precision == "bf16" and not config.optimizer.narrow:
            raise UserError(
                f"precision is 'bf16', in which weights lose the small steps of {config.optimizer.name!r}",
                f'Set it to "fp32", or optimizer.name to one that rounds by chance: {", ".join(NARROW)}',
            )

    @classmethod
    def optimizer_defaults(cls, optimizer: str) -> dict[str, Any]:
        """Rows keep moments of their own: less state, at an equal loss (docs/optimizers.md)."""
        return {"side": "right"} if optimizer in ("projected-adamw", "gradnorm-lorp") else {}

    @classmethod
    def precision(cls, config: Customization) -> str:
        """Weights that learn themselves are bf16 only where that was asked for."""
        return "fp32" if config.precision == "auto" else config.precision

    @classmethod
    def attach(cls, denoiser: nn.Module, settings: AdapterSettings) -> Self:
        return cls(denoiser, settings.rank, settings.layers)

    def __init__(self, denoiser: nn.Module, rank: int, layers: str = "attention"):
        from torch import nn

        pattern, kinds = re.compile(family_of_denoiser(denoiser).layers[layers]), (nn.Linear, nn.Conv2d)
        self.layers = {n: m for n, m in denoiser.named_modules() if isinstance(m, kinds) and pattern.fullmatch(n)}
        if not self.layers:
            raise UserError(
                f"The base's {type(denoiser).__name__} has no {layers} layers that could learn",
                "Choose another base or other adapter.layers",
            )
        denoiser.requires_grad_(False)
        for layer in self.layers.values():
            layer.weight.requires_grad_(True)
        self.rank, self.places = rank, {"content": "first rank", "style": "second rank"}
        # Copies wait on the CPU, so that a GPU holds the weights once.
        self.base = {name: layer.weight.detach().to("cpu", copy=True) for name, layer in self.layers.items()}
        self.on: dict[str, dict[str, Tensor]] = {}  # the weights of the concepts that are on
        self.scales = {"content": 1.0, "style": 1.0}

    def parameters(self, concept: str) -> list[nn.Parameter]:
        """The learned weights, the same for both concepts: only one learns at a time."""
        return [layer.weight for layer in self.layers.values()]  # type: ignore[misc]

    def learned(self, concept: str) -> dict[str, Tensor]:
        """A copy of a concept's weights; nothing where it is not on."""
        if concept not in self.on:
            return {}
        if len(self.on) == 1:  # it may be learning
            return {name: layer.weight.detach().to("cpu", copy=True) for name, layer in self.layers.items()}
        return self.on[concept]

    def load(self, concept: str, learned: dict[str, Tensor] | None) -> None:
        """Put a concept's weights on; None or nothing takes them off."""
        self.on.pop(concept, None)
        if learned:
            self.on[concept] = learned
        self._compose()

    def fresh(self) -> dict[str, Tensor]:
        """The base's weights."""
        return self.base

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Scale the differences of the concepts that are on. What is learning must have been put on anew before."""
        self.scales = {"content": content, "style": style}
        self._compose()

    def at_strength(self, concept: str, learned: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
        return {name: self.base[name] + strength * (weight - self.base[name]) for name, weight in learned.items()}

    def _compose(self) -> None:
        import torch

        shown = {concept: scale for concept, scale in self.scales.items() if concept in self.on and scale}
        with torch.no_grad():
            for name, layer in self.layers.items():
                if len(shown) == 1 and 1.0 in shown.values():  # to the bit
                    layer.weight.copy_(self.on[next(iter(shown))][name])
                    continue
                base = self.base[name].to(layer.weight.device)
                weight = base.clone()
                for concept, scale in shown.items():
                    weight += scale * (self.on[concept][name].to(base) - base)
                layer.weight.copy_(weight)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer name -> up, (m, r), and down, (r, n): the content in the first r / 2 of the rank, the style after it.

        Of a convolution with four dimensions each, the kernel in down.
        """
        import torch

        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.layers}
        for concept in BOTH:
            left, whole = 0.0, 0.0
            for name in self.layers:
                learned = self.on.get(concept, self.base)
                difference = (learned[name].cpu() - self.base[name]).float().to(self.layers[name].weight.device)
                up, down = truncate(difference, self.rank // 2)
                found[name].append((up.cpu(), down.cpu()))
                left += (difference - product(up, down)).square().sum().item()
                whole += difference.square().sum().item()
            error = math.sqrt(left / whole) if whole else 0.0
            log.info("Rank %d holds the learned %s up to %.1f %%", self.rank // 2, concept, 100 * error)
        return {
            name: (torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs]))
            for name, pairs in found.items()
        }

    def load_factors(self, factors: dict[str, tuple[Tensor, Tensor]]) -> None:
        for concept in ("content", "style"):
            self.load(concept, self.learned_in(factors, concept))

    def learned_in(self, factors: dict[str, tuple[Tensor, Tensor]], concept: str) -> dict[str, Tensor]:
        k = self.rank // 2
        own = slice(None, k) if concept == "content" else slice(k, None)
        return {name: self.base[name] + product(up[:, own], down[own]) for name, (up, down) in factors.items()}


def truncate(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of (m, rank) and (rank, n) in the Frobenius norm, its size shared by both factors.

    A rank above the shorter side is filled with zeros. A convolution counts as the matrix (outputs, the rest).
    """
    import torch
    from torch.nn.functional import pad

    U, S, Vh = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    root, room = S[:rank].sqrt(), max(0, rank - len(S))
    up, down = pad(U[:, :rank] * root, (0, room)), pad(root[:, None] * Vh[:rank], (0, 0, 0, room))
    return up.reshape(len(up), rank, *[1] * (difference.ndim - 2)), down.reshape(rank, *difference.shape[1:])


def product(up: Tensor, down: Tensor) -> Tensor:
    """What a pair of factors adds to its weight, in the weight's shape."""
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])
