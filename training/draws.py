"""What is drawn by chance: all of it a function of (seed, place, step), so that a resumed run equals one that never
stopped.
"""

import hashlib
import json

import torch
from torch import Tensor


def keyed(*key: str | int) -> torch.Generator:
    """A CPU generator that is a function of its key alone: what makes a resumed run equal to one that never stopped."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def choose(seed: int, stage: str, concept: str, step: int, count: int, size: int) -> Tensor:
    """The indices of a step's pictures: all `size` pictures come once before one comes again, in an order anew each
    time."""
    positions = range(step * count, (step + 1) * count)
    orders = {
        e: torch.randperm(size, generator=keyed(seed, stage, concept, "order", e)) for e in _epochs(positions, size)
    }
    return torch.stack([orders[position // size][position % size] for position in positions])


def _epochs(positions: range, size: int) -> range:
    return range(positions[0] // size, positions[-1] // size + 1)


def stratified(count: int, generator: torch.Generator, stretch: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """One number from each of `count` equal parts of a stretch of [0, 1), in random order: a steadier loss."""
    low, high = stretch
    strata = torch.randperm(count, generator=generator)
    return low + (high - low) * (strata + torch.rand(count, generator=generator)) / count


def stratified_timesteps(
    count: int, total: int, generator: torch.Generator, noise: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """One timestep from each of `count` equal stretches of the schedule, in random order.

    Args:
        noise: the share of the schedule that they come from, 1 the noisiest end.
    """
    return (stratified(count, generator, noise) * total).long().clamp(max=total - 1)
