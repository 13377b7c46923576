"""The denoiser's own weights as what is learned, and their differences as a LoRA of a chosen rank.

Where `plp` learns halves of an adapter, this learns the weights themselves, content and style each from the base on:

    W_content = W + Delta_c      W_style = W + Delta_s      joined: W + c Delta_c + s Delta_s

The adapter file holds each difference cut to half of the rank by its singular values, side by side:
up = [U_c, U_s], down = [V_c; V_s]. Nothing is trained after joining: there is no make.
"""

import logging
import math
import re
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pipelines.errors import UserError
from training.plp import LAYERS

log = logging.getLogger("joinery")


class FullWeights:
    """Learns weights of a denoiser, with the interface of `plp.PartlyLearnable`. Made by `attach`.

    A "half" here is a concept's whole weights by layer name.
    """

    halves: ClassVar[dict[str, str]] = {"content": "first rank", "style": "second rank"}  # in an adapter file of ours

    def __init__(self, layers: dict[str, nn.Linear | nn.Conv2d], rank: int):
        self.layers, self.rank = layers, rank
        # Copies wait on the CPU, so that a GPU holds the weights once.
        self.base = {name: layer.weight.detach().to("cpu", copy=True) for name, layer in layers.items()}
        self.parts: dict[str, dict[str, Tensor]] = {}  # of the concepts that are on
        self.scales = {"content": 1.0, "style": 1.0}

    def parameters(self, concept: str) -> list[nn.Parameter]:
        """The learned weights, the same for both concepts: only one learns at a time."""
        return [layer.weight for layer in self.layers.values()]

    def fresh(self) -> dict[str, Tensor]:
        """What a concept starts from: the base's weights."""
        return self.base

    def half(self, concept: str) -> dict[str, Tensor]:
        """A copy of a concept's weights; nothing where it is not on."""
        if concept not in self.parts:
            return {}
        if len(self.parts) == 1:  # it may be learning
            return {name: layer.weight.detach().to("cpu", copy=True) for name, layer in self.layers.items()}
        return self.parts[concept]

    def load_half(self, concept: str, half: dict[str, Tensor] | None) -> None:
        """Put a concept's weights on; None or nothing takes them off."""
        self.parts.pop(concept, None)
        if half:
            self.parts[concept] = half
        self._compose()

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Scale the differences of the concepts that are on. What is learning must have been put on anew before."""
        self.scales = {"content": content, "style": style}
        self._compose()

    def apart_while_stepping(self) -> AbstractContextManager:
        """Nothing to keep apart: the concepts do not meet before they are joined."""
        return nullcontext()

    @torch.no_grad()
    def _compose(self) -> None:
        on = {concept: scale for concept, scale in self.scales.items() if concept in self.parts and scale}
        for name, layer in self.layers.items():
            if len(on) == 1 and 1.0 in on.values():  # to the bit
                layer.weight.copy_(self.parts[next(iter(on))][name])
                continue
            base = self.base[name].to(layer.weight.device)
            weight = base.clone()
            for concept, scale in on.items():
                weight += scale * (self.parts[concept][name].to(base) - base)
            layer.weight.copy_(weight)

    @torch.no_grad()
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer name -> up, (m, r), and down, (r, n): the content in the first half of the rank, the style after it.

        Of a convolution with four dimensions each, the kernel in down.
        """
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.layers}
        for concept in ("content", "style"):
            left, whole = 0.0, 0.0
            for name in self.layers:
                learned = self.parts.get(concept, self.base)
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
        """Put on what an adapter file with these factors does."""
        k = self.rank // 2
        for concept, part in (("content", slice(None, k)), ("style", slice(k, None))):
            cut = {name: self.base[name] + product(up[:, part], down[part]) for name, (up, down) in factors.items()}
            self.load_half(concept, cut)


def truncate(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of (m, rank) and (rank, n) in the Frobenius norm, its size shared by both factors.

    A rank above the shorter side is filled with zeros. A convolution counts as the matrix (outputs, the rest).
    """
    U, S, Vh = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    root, room = S[:rank].sqrt(), max(0, rank - len(S))
    up, down = pad(U[:, :rank] * root, (0, room)), pad(root[:, None] * Vh[:rank], (0, 0, 0, room))
    return up.reshape(len(up), rank, *[1] * (difference.ndim - 2)), down.reshape(rank, *difference.shape[1:])


def product(up: Tensor, down: Tensor) -> Tensor:
    """What a pair of factors adds to its weight, in the weight's shape."""
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def attach(denoiser: nn.Module, rank: int, layers: str = "attention") -> FullWeights:
    """Make a denoiser's own linear layers and convolutions learn, and freeze everything else.

    Args:
        rank: of the LoRA that is made of the differences, even.
        layers: a key of `plp.LAYERS`.
    Raises:
        UserError: the denoiser has no such layers.
    """
    denoiser.requires_grad_(False)
    pattern = re.compile(LAYERS[layers])
    kinds = (nn.Linear, nn.Conv2d)
    found = {n: m for n, m in denoiser.named_modules() if isinstance(m, kinds) and pattern.fullmatch(n)}
    if not found:
        raise UserError(
            f"The base's {type(denoiser).__name__} has no {layers} layers that could learn",
            "Choose another base or other adapter.layers",
        )
    for layer in found.values():
        layer.weight.requires_grad_(True)
    return FullWeights(found, rank)
