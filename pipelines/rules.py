"""Other guidance rules than APG, for comparison: same interface, same place in a pipeline.

Each returns the direction U of `guided = conditional + (guidance_scale - 1) * U`, so a paper's formula
u' + w (c - u') becomes U = c - u'.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.errors import UserError
from pipelines.guidance import GuidanceRule, GuidanceState, figures, project, remove_parallel, within


class _Recorded(GuidanceRule):
    """A rule whose direction is all there is to record."""

    def _direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        raise NotImplementedError

    def direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        conditional = conditional.float()
        direction = self._direction(conditional, unconditional.float(), state)
        if self.record:
            state.figures.append(figures(direction, direction, project(direction, conditional)))
        return direction


@dataclass(frozen=True)
class CFGRescale(_Recorded):
    """Classifier-free guidance brought back to the spread of the conditional output (arXiv 2305.08891, eq. 14-16).

    The same as diffusers' `guidance_rescale`, in every family.

    Args:
        rescale: phi, from 0 (plain guidance) to 1 (the conditional output's standard deviation); the paper takes 0.7.
    """

    rescale: float = 0.7

    on_outputs: ClassVar[bool] = True
    uses_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not within(self.rescale, 0, 1):
            raise UserError(f"rescale is {self.rescale!r}", "Give a value from 0 to 1")

    def _direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        dims = tuple(range(1, conditional.ndim))
        guided = unconditional + state.guidance_scale * (conditional - unconditional)
        spread = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp_min(1e-30)
        result = guided * (self.rescale * spread + 1 - self.rescale)
        return (result - conditional) / (state.guidance_scale - 1)


@dataclass(frozen=True)
class CFGZeroStar(_Recorded):
    """CFG-Zero* for flows (arXiv 2503.18886): the unconditional velocity at its best length, and a first step of zero.

    Args:
        zero_steps: evaluations at the start whose velocity is zero; 0 for networks that predict noise or v, where zero
            means something else.
    """

    zero_steps: int = 1

    on_outputs: ClassVar[bool] = True
    uses_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.zero_steps, int) and self.zero_steps >= 0):
            raise UserError(f"zero_steps is {self.zero_steps!r}", "Give a whole number from 0 on")

    def _direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        if state.evaluations < self.zero_steps:
            return -conditional / (state.guidance_scale - 1)
        return remove_parallel(conditional, unconditional, 1)  # c - s u, with s = <c, u> / ||u||^2


@dataclass(frozen=True)
class TCFG(_Recorded):
    """Tangential damping (arXiv 2503.18137): keep of the unconditional output what lies along both outputs' axis."""

    on_outputs: ClassVar[bool] = True

    def _direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        outputs = torch.stack([conditional.flatten(1), unconditional.flatten(1)], dim=1)  # [batch, 2, elements]
        # The first right singular vector, by way of the 2 x 2 matrix of inner products.
        weights = torch.linalg.eigh((outputs @ outputs.mT).double()).eigenvectors[:, None, :, -1].to(outputs)
        axis = (weights @ outputs).reshape(conditional.shape)
        return conditional - project(unconditional, axis)


@dataclass(frozen=True)
class FDG(_Recorded):
    """Frequency-decoupled guidance (arXiv 2506.19713): less for low frequencies, which hold colours and composition.

    Two levels of a Laplacian pyramid over the last two dimensions.

    Args:
        low: share of guidance that low frequencies get: their scale is 1 + low (w - 1), that of high ones w. By default
            what the paper found for SDXL, 5 and 10.

    Raises:
        UserError: the latent is a sequence of tokens or of sounds, which has no rows and columns.
    """

    low: float = 4 / 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not within(self.low, 0, 1):
            raise UserError(f"low is {self.low!r}", "Give a share from 0 to 1")

    def _direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        if conditional.ndim < 4:
            raise UserError(
                f"FDG needs rows and columns, and this latent is {list(conditional.shape)}",
                "Use a family that does not pack its latents into tokens, or another rule",
            )
        direction = conditional - unconditional
        return direction + (self.low - 1) * low_frequencies(direction)


def low_frequencies(x: Tensor) -> Tensor:
    """[..., height, width]: blurred, halved, and brought back to its size."""
    planes = x.flatten(0, -3)[:, None]
    small = F.interpolate(_blur(planes), scale_factor=0.5, mode="bilinear")
    return _blur(F.interpolate(small, size=planes.shape[-2:], mode="bilinear")).reshape(x.shape)


def _blur(planes: Tensor) -> Tensor:
    """[n, 1, height, width] under the binomial kernel of five."""
    row = torch.tensor([1.0, 4, 6, 4, 1], dtype=planes.dtype, device=planes.device) / 16
    return F.conv2d(F.pad(planes, (2, 2, 2, 2), mode="reflect"), row.outer(row)[None, None])
