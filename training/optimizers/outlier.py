"""OwLore's choice of layers: a few blocks at a time learn, those with many outliers more often (arXiv 2405.18380).

    A_ij = |W_ij| ||x_j||_2      D_l = share of block l's entries with A_ij > M mean(A)      p_l = D_l / sum D

x_j is what reaches input feature j of a linear layer over all calibration tokens, or a channel of a convolution over
all positions. Every K steps gamma blocks are drawn without replacement with p <- (1 - e) p + e / L. The others stand
still, and those that leave lose their state.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.errors import UserError
from training.four_bits import whole

THRESHOLDS = (13.0, 10.0, 7.0, 5.0, 4.0, 3.0)  # M of the authors' runs first; near-Gaussian weights need less
BLOCK_LISTS = ("transformer_blocks", "single_transformer_blocks")
SCORED = (nn.Linear, nn.Conv2d)

log = logging.getLogger("joinery")


def blocks_of(
    denoiser: nn.Module, resnets: bool = False, blocks: tuple[str, ...] = BLOCK_LISTS
) -> dict[str, nn.Module]:
    """The transformer blocks of a denoiser by name, and its residual blocks if wanted.

    Args:
        blocks: names of the lists of modules that hold transformer blocks.
    """
    lists = (*blocks, "resnets") if resnets else blocks
    return {
        f"{name}.{index}": block
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.ModuleList) and name.rsplit(".", 1)[-1] in lists
        for index, block in module.named_children()
    }


@torch.no_grad()
def outlier_shares(blocks: dict[str, nn.Module], calibrate: Callable[[], object]) -> dict[float, dict[str, float]]:
    """D of every block for every M, from one calibration pass.

    An adapter's own factors do not count: the weights under it do.

    Args:
        calibrate: runs the model that the blocks are part of, on data like those that it will learn.
    Returns:
        M -> block name -> D, 0 to 1.
    Raises:
        UserError: the pass did not reach a layer of some block.
    """
    squares: dict[nn.Module, Tensor] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].detach().double().square()
        x = x.flatten(0, -2).sum(0) if isinstance(layer, nn.Linear) else x.sum((0, 2, 3))[:, None, None]
        squares[layer] = squares[layer] + x if layer in squares else x

    scored = {
        name: [m for path, m in block.named_modules() if isinstance(m, SCORED) and ".lora_" not in path]
        for name, block in blocks.items()
    }
    handles = [layer.register_forward_pre_hook(watch) for layers in scored.values() for layer in layers]
    try:
        calibrate()
    finally:
        for handle in handles:
            handle.remove()
    shares: dict[float, dict[str, float]] = {threshold: {} for threshold in THRESHOLDS}
    for name, layers in scored.items():
        reached = [whole(layer.weight).abs().double() * squares[layer].sqrt() for layer in layers if layer in squares]
        if not reached:
            raise UserError(f"The calibration reached no layer of {name}", "Calibrate with the whole model")
        count, mean = sum(A.numel() for A in reached), sum(A.sum() for A in reached)
        for threshold, found in shares.items():
            found[name] = sum(int((threshold * mean / count < A).sum()) for A in reached) / count
    return shares


def choose_scores(shares: dict[float, dict[str, float]]) -> dict[str, float]:
    """The D of the largest M at which at least half of the blocks have outliers; equal scores where none has."""
    for threshold in sorted(shares, reverse=True):
        scores = shares[threshold]
        if 2 * sum(score > 0 for score in scores.values()) >= len(scores):
            log.info("Layers are drawn by their share of entries above %g times the mean", threshold)
            return scores
    log.info("No block has outliers at any threshold: layers are drawn uniformly")
    return dict.fromkeys(next(iter(shares.values())), 1.0)


def active_of(blocks: int) -> int:
    """How many of so many blocks learn at a time where nothing is said: a third, 1 to 5."""
    return min(5, max(1, blocks // 3))


class OutlierLayerSampler:
    """Switches blocks of a model on and off while an optimizer that holds them all trains it.

    Parameters outside the blocks, and those that the optimizer does not hold, are left as they are.

    Args:
        blocks: by name, as `blocks_of` gives them.
        scores: D of every block; equal ones draw uniformly, which is LISA (arXiv 2403.17919).
        active: blocks that learn at a time, gamma; 0 for a third of them, at most five.
        every: steps between two draws, K.
        floor: share of the probability that is spread evenly, so that every block can be drawn.
        seed: draw number i is a function of (seed, i).
    Raises:
        UserError: there are fewer blocks than are to be active, a setting is out of range, or a score is.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        blocks: dict[str, nn.Module],
        scores: dict[str, float],
        active: int = 0,
        every: int = 50,
        floor: float = 0.1,
        seed: int = 0,
    ):
        if not 0 <= active <= len(blocks):
            raise UserError(f"active is {active}, of {len(blocks)} blocks", f"Set it to at most {len(blocks)}")
        if every < 1:
            raise UserError(f"every is {every}", "Set it to at least 1 step")
        if not 0 <= floor <= 1:
            raise UserError(f"floor is {floor}", "Set it to 0 to 1")
        if scores.keys() != blocks.keys() or not all(0 <= score < float("inf") for score in scores.values()):
            raise UserError("The scores do not fit the blocks", "Give each block a score of at least 0")
        self.optimizer, self.blocks, self.scores = optimizer, blocks, scores
        self.count, self.every, self.floor, self.seed = active or active_of(len(blocks)), every, floor, seed
        self.number: int | None = None  # of the present draw
        held = {p for group in optimizer.param_groups for p in group["params"]}
        self._weights = {name: [p for p in block.parameters() if p in held] for name, block in blocks.items()}

    @property
    def probabilities(self) -> Tensor:
        """Of the first block of a draw, in the blocks' order, float64."""
        D = torch.tensor([self.scores[name] for name in self.blocks], dtype=torch.float64)
        even = torch.full_like(D, 1 / len(D))
        p = (1 - self.floor) * D / D.sum() + self.floor * even if D.any() else even
        return p if int((p > 0).sum()) >= self.count else even

    def draw(self, number: int) -> list[str]:
        """The names of the blocks that learn in window `number`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        chosen = torch.multinomial(self.probabilities, self.count, generator=generator)
        names = list(self.blocks)
        return [names[i] for i in sorted(chosen.tolist())]

    def before_step(self, step: int) -> list[str]:
        """To be called before the backward pass of every step, counted from 0.

        Returns:
            the names of the blocks that learn in it.
        """
        if self.number != step // self.every:
            self._switch(step // self.every)
        return self.draw(step // self.every)

    def state_dict(self) -> dict:
        return {"number": self.number, "scores": dict(self.scores)}

    def load_state_dict(self, state: dict) -> None:
        self.scores = dict(state["scores"])
        if state["number"] is not None:
            self._switch(state["number"])

    def _switch(self, number: int) -> None:
        learning = set(self.draw(number))
        for name, weights in self._weights.items():
            for parameter in weights:
                parameter.requires_grad_(name in learning)
                if name not in learning:
                    parameter.grad = None
                    self.optimizer.state.pop(parameter, None)
        self.number = number
