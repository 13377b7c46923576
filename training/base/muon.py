"""Muon for matrices and AdamW for everything else, in one optimizer: what the base's networks learn with."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.model import fast_dtype

MOMENTUM = 0.95
BETAS, EPS = (0.9, 0.99), 1e-8  # of AdamW
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a step of Newton and Schulz: the slope at nought is steep
ITERATIONS = 5


class Muon(Optimizer):
    """Momentum whose matrices are made orthogonal before they are added to the weights.

    Groups with `muon=True` hold weights of two or more dimensions, all but the first taken as one, and their rate is
    that of Muon; the others are learned by AdamW without weight decay.

    Source: Jordan et al., Muon (2024), https://kellerjordan.github.io/posts/muon; the scale of 0.2 sqrt(longer side),
    which makes the rates those of AdamW, is equation 4 of arXiv 2502.16982.
    """

    def __init__(self, groups: list[dict], lr: float):
        super().__init__(groups, {"lr": lr, "muon": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if group["muon"]:
                    if not state:
                        state["momentum"] = torch.zeros_like(weight)
                    momentum = state["momentum"].mul_(MOMENTUM).add_(weight.grad)
                    ahead = weight.grad.add(momentum, alpha=MOMENTUM).flatten(1)
                    scale = 0.2 * max(ahead.shape) ** 0.5
                    weight.add_(orthogonal(ahead).view_as(weight), alpha=-group["lr"] * scale)
                    continue
                if not state:
                    state["step"], state["m"], state["v"] = 0, torch.zeros_like(weight), torch.zeros_like(weight)
                state["step"] += 1
                m, v = state["m"].lerp_(weight.grad, 1 - BETAS[0]), state["v"].lerp_(weight.grad**2, 1 - BETAS[1])
                m, v = (x / (1 - beta ** state["step"]) for x, beta in ((m, BETAS[0]), (v, BETAS[1])))
                weight.sub_(group["lr"] * m / (v.sqrt() + EPS))


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix (r, c) with orthonormal rows or columns: its singular values come near 1."""
    a, b, c = COEFFICIENTS
    x = matrix.to(fast_dtype())
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def optimizer_for(model: nn.Module, kind: str, lr: float, embedding_lr: float = 1e-3) -> Optimizer:
    """The optimizer of a recipe.

    Args:
        kind: "muon" for matrices, with AdamW for embeddings, biases and norms; or "adamw" for all weights.
        embedding_lr: AdamW's rate beside Muon.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    if kind == "adamw":
        return Muon([{"params": weights}], lr)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in weights if p.ndim > 1 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    others = [p for p in weights if id(p) not in chosen]
    return Muon([{"params": matrices, "muon": True}, {"params": others, "lr": embedding_lr}], lr)
