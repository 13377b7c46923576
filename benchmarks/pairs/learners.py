"""What can learn a style from five pictures, from whole weights down to one learned factor, all as W + delta."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.adapters.factors import C_NORM, frozen_factors
from training.draws import keyed
from training.families.diffusion import LAYERS


class Whole(nn.Module):
    """The weight itself."""

    on = True

    def __init__(self, weight: Tensor, rank: int, name: str):
        super().__init__()
        self.learned = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.learned if self.on else weight


class Low(nn.Module):
    """up @ down of a rank, at most the shorter side; a subclass says what is learned of them."""

    def __init__(self, weight: Tensor, rank: int, name: str):
        super().__init__()
        self.m, self.n = len(weight), weight[0].numel()
        self.rank, self.name = min(rank, self.m, self.n), name
        self.build()

    on = True

    def forward(self, weight: Tensor) -> Tensor:
        if not self.on:
            return weight
        up, down = self.factors()
        return weight + (up @ down).view_as(weight)

    def random(self, rows: int, columns: int, what: str) -> Tensor:
        return torch.randn(rows, columns, generator=keyed("learner", self.name, what))

    def orthonormal(self, rows: int, columns: int, what: str) -> Tensor:
        """Rows that are orthonormal."""
        return torch.linalg.qr(self.random(columns, rows, what)).Q.T.contiguous()


class LoRA(Low):
    """Both factors learned."""

    def build(self) -> None:
        self.up = nn.Parameter(torch.zeros(self.m, self.rank))
        self.down = nn.Parameter(self.random(self.rank, self.n, "down") / math.sqrt(self.n))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down


class Reads(Low):
    """The up factor learned, all outputs; the down factor frozen, orthonormal rows over all inputs."""

    def build(self) -> None:
        self.up = nn.Parameter(torch.zeros(self.m, self.rank))
        self.register_buffer("down", C_NORM * self.orthonormal(self.rank, self.n, "down"))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down


class Writes(Low):
    """The down factor learned, all inputs; the up factor frozen, orthogonal columns over all outputs."""

    def build(self) -> None:
        self.down = nn.Parameter(torch.zeros(self.rank, self.n))
        self.register_buffer("up", math.sqrt(self.m) * self.orthonormal(self.rank, self.m, "up").T)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.up, self.down


class HalfUp(Low):
    """B of a partly learnable projection with A C = 0: the second half of the outputs, from the first of the inputs."""

    constant = "zero"

    def build(self) -> None:
        self.rank -= self.rank % 2
        A, C = frozen_factors(self.m, self.n, self.rank, self.constant, 0, self.name)
        self.register_buffer("A", A)
        self.register_buffer("C", torch.cat([C, C.new_zeros(self.rank, self.n - C.shape[1])], 1))
        self.B = nn.Parameter(torch.zeros(self.m - len(A), self.rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.A, self.B]), self.C


class HalfUpReleased(HalfUp):
    """The same with A and C in the same coordinates of the rank."""

    constant = "released"


class HalfDown(Low):
    """D of a partly learnable projection with A C = 0."""

    def build(self) -> None:
        self.rank -= self.rank % 2
        A, C = frozen_factors(self.m, self.n, self.rank, "zero", 0, self.name)
        self.register_buffer("C", C)
        self.register_buffer("up", torch.cat([A, A.new_zeros(self.m - len(A), self.rank)]))
        self.D = nn.Parameter(torch.zeros(self.rank, self.n - C.shape[1]))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.up, torch.cat([self.C, self.D], 1)


class Turned(HalfUp):
    """The halves of outputs and inputs taken in a fixed random rotation of each."""

    def build(self) -> None:
        super().build()
        self.register_buffer("outputs", self.orthonormal(self.m, self.m, "outputs"))
        self.register_buffer("inputs", self.orthonormal(self.n, self.n, "inputs"))

    def factors(self) -> tuple[Tensor, Tensor]:
        up, down = super().factors()
        return self.outputs @ up, down @ self.inputs


KINDS: dict[str, type[nn.Module]] = {
    "whole": Whole,
    "lora": LoRA,
    "reads": Reads,
    "writes": Writes,
    "half-up": HalfUp,
    "half-up-released": HalfUpReleased,
    "half-down": HalfDown,
    "half-up-turned": Turned,
}


@contextmanager
def learning(denoiser: nn.Module, kind: str, rank: int = 32, layers: str = "all") -> Iterator[list[nn.Parameter]]:
    """A denoiser whose layers learn as `kind` says, inside the block; gives the learned parameters.

    Args:
        rank: at most; a layer's shorter side may be less.
        layers: a key of `LAYERS`, or a pattern of the layers' whole names.
    """
    denoiser.requires_grad_(False)
    pattern, changed, learned = re.compile(LAYERS.get(layers, layers)), [], []
    for name, module in list(denoiser.named_modules()):
        if isinstance(module, nn.Linear | nn.Conv2d) and pattern.fullmatch(name):
            delta = KINDS[kind](module.weight, rank, name).to(module.weight.device)
            parametrize.register_parametrization(module, "weight", delta)
            changed.append(module)
            learned += list(delta.parameters())
    try:
        yield learned
    finally:
        for module in changed:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


@contextmanager
def only_below(denoiser: nn.Module, noise: float) -> Iterator[None]:
    """What was learned acts only where the timestep is at most this share of the schedule's thousand."""
    deltas = [module for module in denoiser.modules() if isinstance(module, Whole | Low)]

    def switch(module: nn.Module, args: tuple, kwargs: dict) -> None:
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        on = bool((timestep.float().max() <= 1000 * noise).item())
        for delta in deltas:
            delta.on = on

    handle = denoiser.register_forward_pre_hook(switch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        for delta in deltas:
            delta.on = True
