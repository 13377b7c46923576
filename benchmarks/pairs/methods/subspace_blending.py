"""Subspace blending (arXiv 2511.01355): two LoRAs that also write into each other's outputs, and change over in time.

With up U and down D of each, W_cs and W_sc square matrices of the rank, learned for every pair:

    Delta_c = U_c D_c + U_s W_cs D_c        Delta_s = U_s D_s + U_c W_sc D_s
    drawn:   Delta(t) = c exp(-k t) Delta_c + s (1 - exp(-k t)) Delta_s        t: 0 at the noisiest, 1 at the last

The sum of the four products and the change-over are the authors'. Summaries of the paper were all that could be read,
and they give neither the balance loss nor k. Our reading: the cross matrices alone are learned, from zero, by

    L = L_c + L_s + lambda |L_c - L_s|

on pictures of both concepts, where L_c and L_s are the base's own losses, so that neither concept is learned at the
other's cost; each cross product goes with the concept whose inputs it reads; and k is 3, so that at the last step a
twentieth of the content is left.
"""

import math

from torch import Tensor, nn

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import Now, fused
from benchmarks.pairs.methods.fitted import fit
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own
from training.loop import Batch
from training.model import denoising_loss

OWN["subspace_blending"] = {"steps": 100, "lr": 0.003, "weight": 1.0, "k": 3.0}


class Blend(nn.Module):
    """A layer's two pairs of factors, up (m, r) and down (r, n), and the two cross matrices.

    Args:
        k: of the change-over; None, as in training: both act fully all the time.
    """

    def __init__(self, content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor]):
        super().__init__()
        self.factors, self.k = (content, style), None
        rank = content[0].shape[1]
        self.content = nn.Parameter(content[0].new_zeros(rank, rank))  # W_cs: from its inputs to the style's outputs
        self.style = nn.Parameter(content[0].new_zeros(rank, rank))

    def forward(self, now: Now) -> Tensor:
        content, style = crossed(*self.factors, self.content, self.style)
        c, s = (1.0, 1.0) if self.k is None else change_over(now.progress, self.k)
        return now.content * c * content + now.style * s * style


def crossed(
    content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor], W_cs: Tensor, W_sc: Tensor
) -> tuple[Tensor, Tensor]:
    """The content's delta and the style's, each with its cross product."""
    (U_c, D_c), (U_s, D_s) = content, style
    return (U_c + U_s @ W_cs) @ D_c, (U_s + U_c @ W_sc) @ D_s


def change_over(progress: float, k: float) -> tuple[float, float]:
    """The shares of content and style, which sum to one."""
    share = math.exp(-k * progress)
    return share, 1 - share


def balanced(content: Tensor, style: Tensor, weight: float) -> Tensor:
    """Both losses, and how far they are apart."""
    return content + style + weight * (content - style).abs()


def subspace_blending(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, settings, now = opened(changes), own("subspace_blending", changes), Now()
    loras = both(pipe, cell, seed, changes)
    blends = {name: Blend(loras[0][name], loras[1][name]) for name in loras[0]}

    def loss(content: Batch, style: Batch) -> Tensor:
        return balanced(*(denoising_loss(pipe, *batch) for batch in (content, style)), settings.weight)

    fit("subspace_blending", pipe, cell, seed, changes, loras, blends, settings, loss, now)
    for blend in blends.values():
        blend.k = settings.k
    return fused(pipe, cell, blends, now)
