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
        b: width; the slope at zero is a / b.
        learn: train log a and log b too. They want no weight decay and a tenth of the learning rate.
    """

    def __init__(self, a: float, b: float, learn: bool = False):
        super().__init__()
        for name, value in (("a", a), ("b", b)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} of the Weight Compander is {value}", "Set it to a number above 0")
            logarithm = torch.tensor(math.log(value), dtype=torch.float64 if not learn else torch.float32)
            if learn:
                self.register_parameter(f"log_{name}", nn.Parameter(logarithm))
            else:
                self.register_buffer(f"log_{name}", logarithm)

    @classmethod
    def of(cls, weight: Tensor, learn: bool = False) -> "WeightCompander":
        """One with room for a trained weight, and slope one at zero."""
        largest = float(weight.detach().abs().max())
        if largest == 0:
            raise UserError("A weight of zeros has no scale to take a bound from", "Leave it out, or set a and b")
        a = ROOM * 2 * largest / math.pi
        return cls(a, a, learn)

    def forward(self, v: Tensor) -> Tensor:
        a, b = self.log_a.exp(), self.log_b.exp()
        return (a * torch.arctan(v / b)).to(v.dtype)

    def right_inverse(self, w: Tensor) -> Tensor:
        a, b = self.log_a.detach().exp(), self.log_b.detach().exp()
        return (b * torch.tan(w.to(a.dtype) / a)).to(w.dtype)


def compand(module: nn.Module, name: str = "weight", learn: bool = False) -> WeightCompander | None:
    """Put a compander on a module's trained weight, which stays what it is.

    Biases, norms and weights of zeros are left out.

    Returns:
        the parametrization, or None where there is nothing to compand.
    """
    weight = getattr(module, name)
    if weight.ndim < 2 or not weight.detach().any():
        return None
    compander = WeightCompander.of(weight, learn)
    parametrize.register_parametrization(module, name, compander)
    return compander


def fold(model: nn.Module) -> None:
    """Make every companded weight of a model a plain one with the same values, bit for bit."""
    for module in model.modules():
        for name, chain in list(getattr(module, "parametrizations", {}).items()):
            if any(isinstance(one, WeightCompander) for one in chain):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
