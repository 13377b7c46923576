"""NP-LoRA (arXiv 2511.11051): the content keeps off the inputs that the style listens to.

With V an orthonormal basis of the row space of the style's delta:

    Delta = Delta_s + Delta_c (I - mu / (1 + mu) V V^T)

mu -> infinity is the hard projection onto the style's null space, mu = 0 the direct sum; the authors take 0.5. All
directions of the style are protected, as theirs are, whose number is its rank. Their formulas were read in summaries of
versions 1 and 3.
"""

import math

import torch
from torch import Tensor

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import fused, summed
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own

OWN["np_lora"] = {"mu": 0.5}  # inf: hard


def np_lora(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, mu = opened(changes), own("np_lora", changes).mu
    content, style = both(pipe, cell, seed, changes)
    projected = {name: (up, off_rows(down, style[name][1], mu)) for name, (up, down) in content.items()}
    return fused(pipe, cell, summed(projected, style))


def off_rows(down: Tensor, other: Tensor, mu: float) -> Tensor:
    """A down factor, (r, n), with its share in the row space of another, (r', n), damped by 1 / (1 + mu)."""
    V = torch.linalg.qr(other.double().T).Q
    share = 1.0 if math.isinf(mu) else mu / (1 + mu)
    return (down.double() - share * (down.double() @ V) @ V.T).to(down.dtype)
