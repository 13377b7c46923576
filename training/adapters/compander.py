"""Weight Compander: a weight as a bounded function of what is trained (arXiv 2306.16993).

    w = a arctan(v / b)      dw/dv = a b / (b^2 + v^2)      |w| < a pi / 2

Large weights move slowly and small ones quickly, which keeps magnitudes bounded and weights away from zero. Only the
paper's abstract could be consulted: that the function is an arctangent and the values here are our reading of it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipelines.errors import UserError

ROOM = 2.0  # the largest weight starts at 1 / ROOM of the bound, where half of the slope is left


class WeightCompander(nn.Module):
    """Parametrization of one weight, for `torch.nn.utils.parametrize`. Use `compand` to put it on a module.

    Args:
        a: scale; the weight stays within a pi / 2.
        b: width; the slope at zero is a / b, and b < a pushes weights away from it.
    """

    log_a: Tensor
    log_b: Tensor

    def __init__(self, a: float, b: float):
        super().__init__()
        for name, value in (("a", a), ("b", b)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} of the Weight Compander is {value}", "Set it to a number above 0")
            self.register_buffer(f"log_{name}", torch.tensor(math.log(value), dtype=torch.float64))

    @classmethod
    def of(cls, weight: Tensor) -> "WeightCompander":
        """One with room for a trained weight, and slope one at zero."""
        largest = float(weight.detach().abs().max())
        if largest == 0:
            raise UserError("A weight of zeros has no scale to take a bound from", "Leave it out, or set a and b")
        a = ROOM * 2 * largest / math.pi
        return cls(a, a)

    def forward(self, v: Tensor) -> Tensor:
        a, b = self.log_a.exp(), self.log_b.exp()
        return (a * torch.arctan(v / b)).to(v.dtype)

    def right_inverse(self, w: Tensor) -> Tensor:
        a, b = self.log_a.exp(), self.log_b.exp()
        return (b * torch.tan(w.double() / a)).to(w.dtype)


def compand(module: nn.Module) -> WeightCompander | None:
    """Put a compander on a module's trained weight, which stays what it is.

    Biases, norms, embeddings and weights of zeros are left out.

    Returns:
        the parametrization, or None where there is nothing to compand.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.ndim < 2 or isinstance(module, nn.Embedding) or not weight.detach().any():
        return None
    compander = WeightCompander.of(weight)
    parametrize.register_parametrization(module, "weight", compander)
    return compander
