"""A frozen base whose large linear layers rest in four bits (NF4, arXiv 2305.14314), by bitsandbytes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipelines.fingerprint import keep_fingerprint
from training.packages import require_package


def quantize(denoiser: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Put the linear layers of a denoiser's transformer blocks into four bits, one by one; all else stays as it is.

    They are half a byte a weight, and an eighth of one for what each 64 of them share, and compute in the precision of
    what reaches them.

    Args:
        blocks: its transformer blocks.
        device: where the weights then lie.
    Raises:
        UserError: bitsandbytes is not installed.
    """
    require_package("bitsandbytes", "precision is 'nf4'")
    from bitsandbytes.nn import Linear4bit, Params4bit

    keep_fingerprint(denoiser)
    for block in blocks:
        for name, layer in list(block.named_modules()):
            if type(layer) is not nn.Linear:
                continue
            narrow = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, quant_type="nf4")
            # In float32 first, so that a base gives the same codes in whichever precision it was opened.
            narrow.weight = Params4bit(layer.weight.data.float(), requires_grad=False, quant_type="nf4")
            narrow.bias = layer.bias
            block.set_submodule(name, narrow.to(device))


def whole(weight: Tensor) -> Tensor:
    """A weight as numbers, whether it rests in four bits or not."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)
