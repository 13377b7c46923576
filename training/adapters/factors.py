"""LoRA factors of which a part is frozen: how that part is made, and how it stands beside the learned one.

Break-for-Make (arXiv 2403.19456). Of a linear layer with m outputs and n inputs, rank r:

    up   = [A ; B]    m x r    A: the first m // 2 rows, frozen       B: the other rows, learned
    down = [C , D]    r x n    C: the first n // 2 columns, frozen    D: the other columns, learned
    up down = [[A C, A D], [B C, B D]]
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from pipelines.adapters import stretches
from training.adapters.compander import WeightCompander

C_NORM = 4.0  # of each row of C; the entries of A have a variance of one


def frozen_factors(
    m: int, n: int, rank: int, constant_block: str, seed: int, name: str, kernel: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """A and C of one layer, functions of the seed and the layer's name alone.

    A convolution's inputs are its channels, each with the elements of the kernel.

    Both come from one random orthogonal basis: the columns of A are orthogonal, so are the rows of C, and
    with "zero" they use different coordinates of the rank, A the first r / 2 and C the others, so that A C = 0.
    There they are also large, so that D and B stay small beside what they do. With "released" they are orthonormal, and
    come from different rows of the basis, as the authors take them.

    Returns:
        A, (m // 2, rank), and C, (rank, n // 2, *kernel), float32; A too has four dimensions with a kernel.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    rows, columns, k = m // 2, n // 2 * math.prod(kernel), rank // 2
    # float64, so that the float32 bits do not depend on the number of threads.
    taken = max(rows, columns) if constant_block == "zero" else rows + columns
    gaussian = torch.randn(max(taken, rank), rank, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian).Q
    if constant_block == "zero":
        A, C = torch.zeros(rows, rank), torch.zeros(rank, columns)
        A[:, :k] = math.sqrt(rows) * _orthonormal(basis[:rows, :k])
        C[k:] = C_NORM * _orthonormal(basis[:columns, k:]).T
    else:
        A, C = _orthonormal(basis[:rows]).float(), _orthonormal(basis[rows : rows + columns]).T.float()
    return A.reshape(rows, rank, *[1] * len(kernel)), C.reshape(rank, n // 2, *kernel).contiguous()


def _orthonormal(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns: a basis cut to a shorter side has lost that."""
    U, _, Vh = torch.linalg.svd(columns, full_matrices=False)
    return U @ Vh


class PartlyLearned(nn.Module):
    """Parametrization of one LoRA factor: what is frozen, then what is learned times its scale, along `dim`.

    With a compander the learned factor is a bounded function of what is trained.

    Args:
        parts: sizes along `dim` of the matrices that the layer is made of, where it is several; half of each is frozen.
    """

    frozen: Tensor
    order: Tensor | None
    learned: Tensor | None

    def __init__(self, frozen: Tensor, dim: int, compander: WeightCompander | None = None, parts: tuple[int, ...] = ()):
        super().__init__()
        self.register_buffer("frozen", frozen, persistent=False)  # a buffer: weight decay cannot reach it
        self.dim, self.scales, self.compander = dim, [1.0], compander
        second = [i for start, size in stretches("", parts) for i in range(start, start + size)]
        first = sorted({*range(sum(parts))} - {*second})
        # Where each row or column comes from, and where the learned ones are; nothing for a single matrix.
        self.register_buffer("order", torch.tensor(first + second).argsort() if parts else None, persistent=False)
        self.register_buffer("learned", torch.tensor(second) if parts else None, persistent=False)

    def forward(self, learned: Tensor) -> Tensor:
        if self.compander is not None:
            learned = self.compander(learned)
        whole = torch.cat([self.frozen, times(learned, self.scales[0])], self.dim)
        return whole if self.order is None else whole.index_select(self.dim, self.order)

    def right_inverse(self, weight: Tensor) -> Tensor:
        start = self.frozen.shape[self.dim]
        if self.learned is None:
            learned = weight.narrow(self.dim, start, weight.shape[self.dim] - start).contiguous()
        else:
            learned = weight.index_select(self.dim, self.learned)
        return learned if self.compander is None else self.compander.right_inverse(learned)


class SplitByRank(nn.Module):
    """Parametrization of one LoRA factor that both concepts learn, each in its half of the rank, which is `dim`."""

    def __init__(self, dim: int, compander: WeightCompander | None = None):
        super().__init__()
        self.dim, self.scales, self.compander = dim, [1.0, 1.0], compander

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        learned = (first, second) if self.compander is None else (self.compander(first), self.compander(second))
        return torch.cat([times(one, scale) for one, scale in zip(learned, self.scales, strict=True)], self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        whole = weight if self.compander is None else self.compander.right_inverse(weight)
        first, second = whole.tensor_split(2, self.dim)
        return first.contiguous(), second.contiguous()


def times(learned: Tensor, scale: float) -> Tensor:
    """Scaled; at 1 the same to the bit, and no work."""
    return learned if scale == 1.0 else learned * scale
