"""Guidance rules: how the conditional and the unconditional denoised prediction become one.

A rule is a frozen description; what it remembers from one evaluation to the next lies in a `GuidanceState` that belongs
to one call of a pipeline. All mathematics is in float32, per sample, over all non-batch dimensions.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("joinery")

SDXL_ELEMENTS = 4 * 128 * 128  # of a latent at 1024 px
# Model -> the paper's radius, elements of its latent, momentum; eta is 0 throughout.
PUBLISHED = {
    "sdxl": (15.0, SDXL_ELEMENTS, -0.5),
    "edm2-s": (2.5, 4 * 64 * 64, -0.75),
    "dit-xl/2": (5.0, 4 * 32 * 32, -0.5),
}
SMALLEST_RADIUS = min(radius for radius, _, _ in PUBLISHED.values())


@dataclass
class GuidanceState:
    """What a rule remembers within one call, and what it is told of it.

    Args:
        guidance_scale: the paper's w at the present evaluation.
        running_direction: APG's, with momentum.
        evaluations: how many of the network there were before this one, those outside the rule's interval too.
        skipped: [batch], whether a sample's two predictions have come so close that it goes on without guidance.
        figures: of each evaluation, if asked for.
    """

    guidance_scale: float = 1.0
    running_direction: Tensor | None = None
    evaluations: int = 0
    skipped: Tensor | None = None
    figures: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class GuidanceRule:
    """The common ground of all rules.

    Args:
        interval: guide only between these fractions of the sampling steps, 0 <= start < stop <= 1 (arXiv 2404.07724).
            A step k of n is inside where start <= k / n < stop. Outside, the unconditional branch is not computed.
            None is the whole schedule.
        skip_above: once the cosine between the network's two outputs is above this, go on without guidance, and do not
            compute the unconditional branch when that holds for the whole batch (arXiv 2312.12487). None: never.
        record: keep figures of every evaluation in the pipeline's `guidance_record`.
    """

    interval: tuple[float, float] | None = field(default=(0.0, 1.0), kw_only=True)
    skip_above: float | None = field(default=None, kw_only=True)
    record: bool = field(default=False, kw_only=True)

    on_outputs: ClassVar[bool] = False  # its paper speaks of what the network returns, not of denoised predictions
    uses_scale: ClassVar[bool] = False  # its direction depends on the guidance scale

    def __post_init__(self) -> None:
        if self.skip_above is not None and not within(self.skip_above, -1, 1):
            raise UserError(f"skip_above is {self.skip_above!r}", "Give a cosine, from -1 to 1, or None to never skip")
        # One form, so that rules are equal when they mean the same: JSON gives lists.
        interval = (0.0, 1.0) if self.interval is None else self.interval
        pair = tuple(interval) if isinstance(interval, list | tuple) else ()
        if not (len(pair) == 2 and all(within(end, 0, 1) for end in pair) and pair[0] < pair[1]):
            raise UserError(f"interval is {interval!r}", "Give two numbers, (start, stop) with 0 <= start < stop <= 1")
        object.__setattr__(self, "interval", pair)

    @property
    def is_stock(self) -> bool:
        """Whether the rule's direction is what the stock pipeline takes anyway."""
        return False

    def covers(self, step: int, steps: int) -> bool:
        """Whether step `step` of `steps` lies in the interval."""
        assert self.interval is not None  # since it was made
        start, stop = self.interval
        return start <= step / steps < stop

    def direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        """The direction U of `guided = conditional + (guidance_scale - 1) * U`, float32.

        Args:
            conditional, unconditional: denoised predictions, [batch, ...]; raw outputs where the rule is `on_outputs`.
            state: of this call; changed.
        """
        raise NotImplementedError

    def skip_samples(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> None:
        """Note which samples need no guidance any more. Takes the network's outputs, [batch, ...]."""
        product, lengths = (conditional * unconditional).flatten(1).mean(1), rms(conditional) * rms(unconditional)
        assert self.skip_above is not None
        close = product > self.skip_above * lengths.flatten()
        state.skipped = close if state.skipped is None else state.skipped | close


@dataclass(frozen=True)
class CFG(GuidanceRule):
    """Classifier-free guidance (arXiv 2207.12598): what the stock pipelines do."""

    @property
    def is_stock(self) -> bool:
        return True

    def direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
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
        norm_threshold: largest root-mean-square of the direction per latent element; None does not limit it. The
            paper's radius (15 for SDXL) is the norm of the whole direction: divide it by the square root of the number
            of elements of a latent, as `APG.paper` does.
        momentum: in -1 < momentum <= 0, usually negative: pushes away from where the last steps went.

    Raises:
        UserError: a value is out of range.
    """

    eta: float = 0.0
    norm_threshold: float | None = 15 / math.sqrt(SDXL_ELEMENTS)
    momentum: float = -0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not within(self.eta, 0, 1):
            raise UserError(f"eta is {self.eta!r}", "Give a number from 0 (no parallel part) to 1 (all of it)")
        if self.norm_threshold is not None and not (within(self.norm_threshold, 0, math.inf) and self.norm_threshold):
            raise UserError(
                f"norm_threshold is {self.norm_threshold!r}", "Give a positive number, or None for no limit"
            )
        if not (within(self.momentum, -1, 0) and self.momentum > -1):
            raise UserError(f"momentum is {self.momentum!r}", "Give a number above -1 and at most 0, which is none")
        if self.norm_threshold is not None and self.norm_threshold >= SMALLEST_RADIUS:
            log.warning(
                "norm_threshold is %g, which limits nothing: it is the root-mean-square per latent element. "
                "The paper's radius divided by the square root of the number of elements gives it: 15 is %.4f on "
                "SDXL at 1024 px, APG.paper('sdxl'). For no limit give None",
                self.norm_threshold,
                15 / math.sqrt(SDXL_ELEMENTS),
            )

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
        """What suits a base: "emoji" the embedded one (docs/guidance.md); all others as published for SDXL."""
        return cls(**_named(PRESETS, name, "preset"))

    @property
    def is_stock(self) -> bool:
        return self.eta == 1 and self.norm_threshold is None and self.momentum == 0

    def direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        prediction = conditional.float()
        direction = prediction - unconditional.float()  # d_k = D_c - D_u
        if self.momentum:  # m_k = d_k + momentum m_(k-1), kept unclipped
            if state.running_direction is not None:
                direction = direction.add(state.running_direction, alpha=self.momentum)
            state.running_direction = direction
        # u = m_k min(1, r / ||m_k||)
        clipped = limit_rms(direction, self.norm_threshold) if self.norm_threshold else direction
        if self.record:
            state.figures.append(figures(direction, clipped, project(clipped, prediction)))
        # U = u_perpendicular + eta u_parallel = u - (1 - eta) <u, D_c> / ||D_c||^2 D_c; D = D_c + (w - 1) U
        return remove_parallel(clipped, prediction, 1 - self.eta)


# The embedded base's are, but for rounding, those published for EDM2-S.
PRESETS = {
    "emoji": {"eta": 0.0, "norm_threshold": 0.02, "momentum": -0.75},
    "sd15": {},
    "sdxl": {},
    "z-image": {},
    "flux2-klein": {},
    "qwen-image": {},
    "flux1": {},
    "sd3": {},
    "chroma": {},
    "krea2": {},
    "sana": {},
}


def within(value: object, low: float, high: float) -> bool:
    """Whether it is a finite number of that range, ends included."""
    return isinstance(value, Real) and math.isfinite(value) and low <= value <= high  # type: ignore[operator]


def _named(table: dict, name: str, what: str) -> Any:
    if not isinstance(name, str) or name.lower() not in table:
        raise UserError(f"There is no {what} for {name!r}", f"Choose one of {', '.join(table)}")
    return table[name.lower()]


def limit_rms(direction: Tensor, threshold: float) -> Tensor:
    """Shorten each sample of [batch, ...] to at most `threshold` root-mean-square per element."""
    radius = threshold * math.sqrt(math.prod(direction.shape[1:]))
    return direction * (radius * inner_product(direction, direction).rsqrt()).clamp_max(1)


def project(vector: Tensor, onto: Tensor) -> Tensor:
    """The part of each sample of [batch, ...] that is parallel to `onto`."""
    return projection_coefficient(vector, onto) * onto


def remove_parallel(vector: Tensor, onto: Tensor, share: float) -> Tensor:
    """Each sample of [batch, ...] without a share, 0 to 1, of its part parallel to `onto`."""
    return vector.addcmul(projection_coefficient(vector, onto), onto, value=-share)


def projection_coefficient(vector: Tensor, onto: Tensor) -> Tensor:
    """<vector, onto> / ||onto||^2 of each sample: [batch, ...] -> [batch, 1, ...]."""
    return inner_product(vector, onto) / (inner_product(onto, onto) + 1e-30)


def rms(x: Tensor) -> Tensor:
    """Root-mean-square of each sample: [batch, ...] -> [batch, 1, ...]."""
    return (inner_product(x, x) / math.prod(x.shape[1:])).sqrt()


def inner_product(a: Tensor, b: Tensor) -> Tensor:
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
