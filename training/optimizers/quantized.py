"""Optimizer state in eight bits: blocks of 256 values, each value one of 256 codes times its block's largest.

Dynamic codes (arXiv 2110.02861): an exponent counted in leading zeros, and what bits are left for an evenly spaced
fraction, so that small values keep their relative precision. The codes are those of bitsandbytes; its functions do the
work on a GPU, and ours, to the same codes, elsewhere: its own for the CPU look the code up in steps of 3e-5, so that a
zero comes back as 2e-5, of which Adam makes a step of full size.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

BLOCK = 256
SMALLEST = 4096  # elements; smaller tensors stay in 32 bits, where eight would save nothing that counts
MOMENTS = ("exp_avg", "exp_avg_sq")


@cache
def _bitsandbytes() -> ModuleType | None:
    """Imported when first needed, for it takes long; None where it is not installed."""
    try:
        return import_module("bitsandbytes.functional")
    except ImportError:
        return None


@cache
def codes(signed: bool) -> Tensor:
    """The 256 values in -1..1 (or 0..1) that a byte stands for, ascending."""
    values = [0.0, 1.0]
    for exponent in range(7):
        fractions = 2 ** (exponent + (0 if signed else 1))
        edges = torch.linspace(0.1, 1, fractions + 1, dtype=torch.float64)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)
        values += means.tolist()
        if signed:
            values += (-means).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32)


def quantize(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Nearest codes of a tensor: uint8 of the same shape, and the largest magnitude of each block, float32 [blocks]."""
    code = codes(signed).to(values.device)
    if values.is_cuda and (bnb := _bitsandbytes()):
        packed, state = bnb.quantize_blockwise(values.float().contiguous(), code=code, blocksize=BLOCK)
        return packed.view(values.shape), state.absmax
    flat = values.float().flatten()
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % BLOCK)]).view(-1, BLOCK)
    largest = padded.abs().amax(1)
    scaled = padded / torch.where(largest > 0, largest, 1)[:, None]
    packed = torch.bucketize(scaled, (code[:-1] + code[1:]) / 2).to(torch.uint8)
    return packed.flatten()[: len(flat)].view(values.shape), largest


def dequantize(packed: Tensor, largest: Tensor, signed: bool) -> Tensor:
    """The values that `quantize` packed, float32, of the same shape."""
    code = codes(signed).to(packed.device)
    if packed.is_cuda and (bnb := _bitsandbytes()):
        return bnb.dequantize_blockwise(packed, absmax=largest, code=code, blocksize=BLOCK).view(packed.shape)
    scales = largest.repeat_interleave(BLOCK)[: packed.numel()].view(packed.shape)
    return code[packed.long()] * scales


def write(state: dict, name: str, moment: Tensor, bits: int) -> None:
    """Keep a moment in an optimizer's state.

    In eight bits the root of the second, which spans half as many orders of magnitude.
    """
    if bits == 32 or moment.numel() < SMALLEST:
        state[name] = moment
        return
    signed = not name.startswith(MOMENTS[1])
    state[name + "_codes"], state[name + "_largest"] = quantize(moment if signed else moment.sqrt(), signed)


def read(state: dict, name: str) -> Tensor:
    """The moment that `write` kept."""
    if name in state:
        return state[name]
    signed = not name.startswith(MOMENTS[1])
    moment = dequantize(state[name + "_codes"], state[name + "_largest"], signed)
    return moment if signed else moment.square()
