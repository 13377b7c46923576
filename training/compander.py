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
        learn: train log a too, as `parameter_groups` does. To learn b would only rescale v.
    """

    def __init__(self, a: float, b: float, learn: bool = False):
        super().__init__()
        for name, value in (("a", a), ("b", b)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} of the Weight Compander is {value}", "Set it to a number above 0")
            if learn and name == "a":
                self.log_a = nn.Parameter(torch.tensor(math.log(value)))
            else:
                self.register_buffer(f"log_{name}", torch.tensor(math.log(value), dtype=torch.float64))

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
        a, b = self.log_a.detach().double().exp(), self.log_b.exp()
        return (b * torch.tan(w.double() / a)).to(w.dtype)


def compand(module: nn.Module, name: str = "weight", learn: bool = False) -> WeightCompander | None:
    """Put a compander on a module's trained weight, which stays what it is.

    Biases, norms, embeddings and weights of zeros are left out.

    Returns:
        the parametrization, or None where there is nothing to compand.
    """
    weight = getattr(module, name)
    if weight.ndim < 2 or isinstance(module, nn.Embedding) or not weight.detach().any():
        return None
    compander = WeightCompander.of(weight, learn)
    parametrize.register_parametrization(module, name, compander)
    return compander


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict]:
    """What a model learns, for an optimizer: learned scales apart, at a tenth of the rate and without decay."""
    scales = {one.log_a for one in model.modules() if isinstance(one, WeightCompander)}
    learned = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learned if p not in scales], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in learned if p in scales], "lr": 0.1 * lr, "weight_decay": 0.0},
    ]


def fold(model: nn.Module) -> None:
    """Make every companded weight of a model a plain one with the same values, bit for bit."""
    for module in model.modules():
        for name, chain in list(getattr(module, "parametrizations", {}).items()):
            if any(isinstance(one, WeightCompander) for one in chain):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
