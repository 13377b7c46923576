"""Riemannian preconditioning of LoRA gradients (arXiv 2402.02347): steps that do not depend on how the product of
the factors is split between them.

peft's own `create_riemannian_optimizer` pairs plain lora_A and lora_B parameters and damps by an absolute number; here
the parameters are the learned factors, while the factors are whole, so the formula is ours.
"""

import torch
from torch import Tensor


def precondition(grad_up: Tensor, grad_down: Tensor, up: Tensor, down: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The preconditioned gradients of a pair of factors, or of any rows of `up` and columns of `down`.

        g_up <- g_up (down down^T + d I)^-1        g_down <- (up^T up + d I)^-1 g_down

    Solved in float32 or better, with d = damping * trace / rank of the matrix that is inverted.

    Args:
        grad_up, grad_down: (rows, r) and (r, columns); of a convolution with its kernel behind.
        up, down: the whole factors, (m, r) and (r, n), likewise.
        damping: relative, 1e-6 to 1e-1.
    """
    up, down = up.flatten(1), down.flatten(1)
    right = _damped(down @ down.T, damping)
    left = _damped(up.T @ up, damping)
    new_up = torch.linalg.solve(right, grad_up.flatten(1).to(right.dtype), left=False)
    new_down = torch.linalg.solve(left, grad_down.flatten(1).to(left.dtype))
    return new_up.to(grad_up.dtype).view_as(grad_up), new_down.to(grad_down.dtype).view_as(grad_down)


def _damped(gram: Tensor, damping: float) -> Tensor:
    gram = gram.to(torch.promote_types(gram.dtype, torch.float32))
    mean = gram.diagonal().mean()
    # An all-zero factor has no metric of its own: the identity leaves the other gradient as it is.
    mean = torch.where(mean > 0, mean, torch.ones_like(mean) / damping)
    return gram + damping * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
