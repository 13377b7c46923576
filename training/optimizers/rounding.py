"""Weights of any floating type, computed on in float32 and written back.

bfloat16 has eight bits of a number, so a step below 1/256 of a weight is lost by rounding to nearest, and most steps of
training are. Stochastic rounding keeps them in the mean: x goes up with the probability of how far it is on its way
from the bfloat16 below to the one above (arXiv 1502.02551).
"""

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """A weight as it is projected: (outputs, the rest), in float32 or float64; a vector stays a vector.

    In place where the weight lies so already.
    """
    tensor = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor


def write_back(parameter: Tensor, W: Tensor, seed: int) -> None:
    """Store what `widen` gave and a step has changed.

    Args:
        seed: of the rounding, on the parameter's own device.
    """
    if W.data_ptr() == parameter.data_ptr():
        return
    if parameter.dtype == torch.bfloat16:
        round_to_bfloat16_(W, torch.Generator(W.device).manual_seed(seed))
    parameter.copy_(W.view(parameter.shape))


def round_to_bfloat16_(x: Tensor, generator: torch.Generator) -> None:
    """Round float32 numbers to such as bfloat16 has, in place, by chance and right in the mean."""
    bits = x.view(torch.int32)  # the upper half is the bfloat16 below in magnitude, the lower how far it is to the next
    bits += torch.randint(2**16, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    bits &= -(2**16)
