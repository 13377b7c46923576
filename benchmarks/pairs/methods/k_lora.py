"""K-LoRA (arXiv 2502.18461): in each layer and at each step one of two LoRAs works, the content's or the style's.

With S the sum of a delta's K largest magnitudes, K the product of the two ranks, and t the share of the steps that are
done:

    the content's where S_c >= S_s (alpha t + beta) gamma, else the style's

gamma is the ratio of all magnitudes of the content to all of the style's, over all layers, so that two LoRAs of
different sizes can be compared. alpha 1.5 and beta 0.5 are the authors'. The scales act on the chosen delta, after the
choice; that convolutions are matrices of outputs and the rest is our reading, the authors have attention alone.
"""

from torch import Tensor

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import Delta, Now, fused
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own

OWN["k_lora"] = {"alpha": 1.5, "beta": 0.5}


def k_lora(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, settings = opened(changes), own("k_lora", changes)
    content, style = both(pipe, cell, seed, changes)
    gamma = magnitude(content.values()) / magnitude(style.values())
    deltas = {name: choosing(content[name], style[name], settings.alpha, settings.beta, gamma) for name in content}
    return fused(pipe, cell, deltas)


def magnitude(factors) -> float:
    """The sum of the magnitudes of all deltas' entries."""
    return sum((up @ down).abs().sum().item() for up, down in factors)


def choosing(
    content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor], alpha: float, beta: float, gamma: float
) -> Delta:
    """A layer's delta: one of the two, by the progress."""
    ours, theirs = (up @ down for up, down in (content, style))
    count = content[0].shape[1] * style[0].shape[1]
    S_c, S_s = top(ours, count), top(theirs, count)

    def delta(now: Now) -> Tensor:
        takes_content = S_c >= S_s * (alpha * now.progress + beta) * gamma
        return now.content * ours if takes_content else now.style * theirs

    return delta


def top(delta: Tensor, count: int) -> float:
    """The sum of the largest magnitudes, at most as many as there are."""
    return delta.abs().flatten().topk(min(count, delta.numel())).values.sum().item()
