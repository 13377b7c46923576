"""Low-rank projection of one weight's gradient: which side, how many directions, and which (arXiv 2403.03507)."""

from dataclasses import dataclass

import torch
from torch import Tensor

OVERSAMPLE, POWER_ITERATIONS = 8, 1  # of the randomized range finder (arXiv 0909.4061)


@dataclass(frozen=True)
class Projection:
    """Which side of a weight is projected, and on how many directions."""

    rank: int
    right: bool  # the columns; else the rows

    @classmethod
    def of(cls, weight: Tensor, group: dict) -> "Projection | None":
        """What a group's settings mean for a weight; None where it is better left alone."""
        if group["rank"] is None or weight.ndim < 2:
            return None
        m, n = weight.shape[0], weight[0].numel()
        right = group["side"] == "right" or (group["side"] == "shorter" and m >= n)
        kept, projected = (m, n) if right else (n, m)
        rank = group["rank"]
        k = min(m, n, max(1, round(rank * min(m, n))) if rank < 1 else int(rank))
        return None if k * (2 * kept + projected) >= 2 * m * n else cls(k, right)

    def project(self, G: Tensor, P: Tensor) -> Tensor:
        return G @ P.T if self.right else P.T @ G

    def add_back(self, W: Tensor, N: Tensor, P: Tensor, factor: float) -> None:
        """W <- W + factor back(N), in place."""
        W.addmm_(*((N, P) if self.right else (P, N)), alpha=factor)

    def share(self, G: Tensor, R: Tensor) -> float:
        """How much of a gradient its projection holds: |R|^2 / |G|^2, 0 to 1."""
        return float(R.norm() / G.norm().clamp_min(torch.finfo(G.dtype).tiny)) ** 2

    def has_direction(self, G: Tensor) -> bool:
        """Whether a basis can be chosen by a gradient: it is finite and not all zero."""
        return bool(0 < G.abs().amax() < torch.inf)

    def live(self, G: Tensor) -> int:
        """How many rows or columns, whichever are projected, have a gradient."""
        return int(G.abs().amax(0 if self.right else 1).count_nonzero())

    def basis(self, G: Tensor, how: str, generator: torch.Generator) -> Tensor:
        """Orthonormal rows, (k, n), or columns, (m, k), that hold the most of a gradient."""
        columns = G.T if self.right else G
        if how == "randomized":
            width = min(self.rank + OVERSAMPLE, *G.shape)
            draw = torch.randn(columns.shape[1], width, generator=generator, dtype=G.dtype).to(G.device)
            found = torch.linalg.qr(columns @ draw).Q
            for _ in range(POWER_ITERATIONS):
                found = torch.linalg.qr(columns @ (columns.T @ found)).Q
            # Strongest first: the left singular vectors of what was found, by its small matrix of inner products.
            within = found.T @ columns
            found = found @ torch.linalg.eigh((within @ within.T).double()).eigenvectors.flip(1).to(found)
        else:
            U, _, Vh = torch.linalg.svd(G, full_matrices=False)
            found = Vh.T if self.right else U
        found = found[:, : self.rank]
        # A copy: what is kept would otherwise hold all directions in memory.
        return (found.T if self.right else found).clone(memory_format=torch.contiguous_format)

    def turns(self, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """What takes the first and the second moment from one basis to another."""
        turn = old @ new.T if self.right else new.T @ old
        return turn, turn.square()
