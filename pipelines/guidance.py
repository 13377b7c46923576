"""Guidance rules: how the conditional and the unconditional denoised prediction become one.

A rule is a frozen description; what it remembers from one evaluation to the next lies in a `GuidanceState` that belongs
to one call of a pipeline. All mathematics is in float32, per sample, over all non-batch dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipelines.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SDXL_ELEMENTS = 4 * 128 * 128  # of a latent at 1024 px
# Model -> the paper's radius, elements of its latent, momentum; eta is 0 throughout.
PUBLISHED = {
    "sdxl": (15.0, SDXL_ELEMENTS, -0.5),
    "edm2-s": (2.5, 4 * 64 * 64, -0.75),
    "dit-xl/2": (5.0, 4 * 32 * 32, -0.5),
}


@dataclass
class GuidanceState:
    """What a rule remembers within one call, and what it is told of it.

    Args:
        guidance_scale: the paper's w at the present evaluation.
        direction: APG's running direction.
        evaluations: how many there were before this one.
        settled: [batch], whether a sample's halves have come so close that it goes on without guidance.
        figures: of each evaluation, if asked for.
    """

    guidance_scale: float = 1.0
    direction: Tensor | None = None
    evaluations: int = 0
    settled: Tensor | None = None
    figures: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class GuidanceRule:
    """The common ground of all rules.

    Args:
        interval: guide only between these fractions of the sampling steps, 0 <= start < stop <= 1 (arXiv 2404.07724).
            A step k of n is inside where start <= k / n < stop. Outside, the unconditional half is not computed.
            None is the whole schedule.
        skip_above: once the cosine between the network's two outputs is above this, go on without guidance, and do not
            compute the unconditional half when that holds for the whole batch (arXiv 2312.12487). None: never.
        record: keep figures of every evaluation in the pipeline's `guidance_record`.
    """

    interval: tuple[float, float] | None = field(default=(0.0, 1.0), kw_only=True)
    skip_above: float | None = field(default=None, kw_only=True)
    record: bool = field(default=False, kw_only=True)

    on_outputs: ClassVar[bool] = False  # its paper speaks of what the network returns, not of denoised predictions
    uses_scale: ClassVar[bool] = False  # its direction depends on the guidance scale

    def __post_init__(self):
        if self.skip_above is not None and not -1 <= self.skip_above <= 1:
            raise UserError(f"skip_above is {self.skip_above}", "Give a cosine, from -1 to 1, or None to never skip")
        # One form, so that rules are equal when they mean the same: JSON gives lists.
        object.__setattr__(self, "interval", (0.0, 1.0) if self.interval is None else tuple(self.interval))
        if len(self.interval) != 2:
            raise UserError(f"interval is {self.interval}", "Give two numbers, (start, stop)")
        start, stop = self.interval
        if not 0 <= start < stop <= 1:
            raise UserError(f"interval is {self.interval}", "Give (start, stop) with 0 <= start < stop <= 1")

    @property
    def is_stock(self) -> bool:
        """Whether the rule's direction is what the stock pipeline takes anyway."""
        return False

    def covers(self, step: int, steps: int) -> bool:
        """Whether step `step` of `steps` lies in the interval."""
        start, stop = self.interval
        return start <= step / steps < stop

    def bracket(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        """The direction U of `guided = conditional + (guidance_scale - 1) * U`, float32.

        Args:
            conditional, unconditional: denoised predictions, [batch, ...]; raw outputs where the rule is `on_outputs`.
            state: of this call; changed.
        """
        raise NotImplementedError

    def settle(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> None:
        """Note which samples need no guidance any more. Takes the network's outputs, [batch, ...]."""
        product, lengths = (conditional * unconditional).flatten(1).mean(1), rms(conditional) * rms(unconditional)
        close = product > self.skip_above * lengths.flatten()
        state.settled = close if state.settled is None else state.settled | close


@dataclass(frozen=True)
class CFG(GuidanceRule):
    """Classifier-free guidance (arXiv 2207.12598): what the stock pipelines do."""

    @property
    def is_stock(self) -> bool:
        return True

    def bracket(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        direction = conditional.float() - unconditional.float()
        if self.record:
            state.figures.append(figures(direction, direction, project(direction, conditional.float())))
        return direction


@dataclass(frozen=True)
class APG(GuidanceRule):
    """Adaptive projected guidance (arXiv 2410.02416, Algorithm 1): high guidance scales without oversaturation.

    The defaults are the values published for SDXL.

    Args:
        eta: share that is kept of the part parallel to the prediction, which is what oversaturates; 1 keeps all.
        norm_threshold: largest root-mean-square of the direction per latent element; None does not limit it.
        momentum: in -1 < momentum <= 0, usually negative: pushes away from where the last steps went.

    Raises:
        UserError: a value is out of range.
    """

    eta: float = 0.0
    norm_threshold: float | None = 15 / math.sqrt(SDXL_ELEMENTS)
    momentum: float = -0.5

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.eta) and 0 <= self.eta <= 1):
            raise UserError(f"eta is {self.eta}", "Give a value from 0 (no parallel part) to 1 (all of it)")
        if self.norm_threshold is not None and not (math.isfinite(self.norm_threshold) and self.norm_threshold > 0):
            raise UserError(f"norm_threshold is {self.norm_threshold}", "Give a positive number, or None for no limit")
        if not -1 < self.momentum <= 0:
            raise UserError(f"momentum is {self.momentum}", "Give a value above -1 and at most 0")

    @classmethod
    def paper(cls, name: str) -> APG:
        """The published settings for a model: "sdxl" (1024 px), "edm2-s" or "dit-xl/2".

        The paper limits the L2 norm of the whole direction; divided by the square root of the number of latent elements
        it is the norm_threshold here.
        """
        radius, elements, momentum = _named(PUBLISHED, name, "published settings")
        return cls(norm_threshold=radius / math.sqrt(elements), momentum=momentum)

    @classmethod
    def preset(cls, name: str) -> APG:
        """What suits a base: "emoji" the embedded one (docs/guidance.md); "sd15", "sdxl" as published."""
        return cls(**_named(PRESETS, name, "preset"))

    @property
    def is_stock(self) -> bool:
        return self.eta == 1 and self.norm_threshold is None and self.momentum == 0

    def bracket(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        direction = conditional.float() - unconditional.float()
        if self.momentum:
            if state.direction is not None:
                direction = direction.add(state.direction, alpha=self.momentum)
            state.direction = direction  # kept unclipped
        clipped = limit_rms(direction, self.norm_threshold) if self.norm_threshold else direction
        if self.record:
            state.figures.append(figures(direction, clipped, project(clipped, conditional.float())))
        return lessen(clipped, conditional.float(), 1 - self.eta)


# The embedded base's are, but for rounding, those published for EDM2-S.
PRESETS = {"emoji": {"eta": 0.0, "norm_threshold": 0.02, "momentum": -0.75}, "sd15": {}, "sdxl": {}}


def _named(table: dict, name: str, what: str):
    if name.lower() not in table:
        raise UserError(f"There is no {what} for {name!r}", f"Choose one of {', '.join(table)}")
    return table[name.lower()]


def limit_rms(direction: Tensor, threshold: float) -> Tensor:
    """Shorten each sample of [batch, ...] to at most `threshold` root-mean-square per element."""
    radius = threshold * math.sqrt(math.prod(direction.shape[1:]))
    return direction * (radius * inner(direction, direction).rsqrt()).clamp_max(1)


def project(vector: Tensor, onto: Tensor) -> Tensor:
    """The part of each sample of [batch, ...] that is parallel to `onto`."""
    return share(vector, onto) * onto


def lessen(vector: Tensor, along: Tensor, amount: float) -> Tensor:
    """Take so much of the part that is parallel to `along` out of each sample of [batch, ...]."""
    return vector.addcmul(share(vector, along), along, value=-amount)


def share(vector: Tensor, onto: Tensor) -> Tensor:
    """How many times `onto` the parallel part of each sample is: [batch, ...] -> [batch, 1, ...]."""
    return inner(vector, onto) / (inner(onto, onto) + 1e-30)


def rms(x: Tensor) -> Tensor:
    """Root-mean-square of each sample: [batch, ...] -> [batch, 1, ...]."""
    return (inner(x, x) / math.prod(x.shape[1:])).sqrt()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample: [batch, ...] -> [batch, 1, ...].

    Not by matrix multiplication, which a GPU may be set to do in fewer digits.
    """
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def figures(direction: Tensor, clipped: Tensor, parallel: Tensor) -> dict[str, float]:
    """Means over the batch of one evaluation."""
    before, after = rms(direction), rms(clipped)
    return {
        "rms": float(before.mean()),
        "clipped": float((after < before * (1 - 1e-6)).float().mean()),
        "parallel": float((rms(parallel) / after.clamp_min(1e-30)).mean()),
    }
