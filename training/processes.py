"""A run that several processes share: `accelerate launch --multi_gpu --num_processes 2 -m training customize PROJECT`.

Each computes an equal part of every batch, and gradients are averaged, so that all take the same step. The first one
alone writes. A process that was started by itself is the first of one, and nothing here changes anything for it.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather
from torch import Tensor

from pipelines.errors import UserError


def state() -> PartialState:
    """Which processes there are, and the device of this one: the GPU if there is one."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return PartialState(cpu=True) if several and not torch.cuda.is_available() else PartialState()


def count() -> int:
    return state().num_processes


def leads() -> bool:
    """Whether this process is the one that writes."""
    return state().is_main_process


@contextmanager
def leader_first() -> Iterator[None]:
    """The first process goes through the block, then the others, which find what it has written."""
    with state().main_process_first():
        yield


def share(rows: Tensor) -> Tensor:
    """This process's part of a batch, as `check_shares` has found it to be equal."""
    return rows.chunk(count())[state().process_index]


def check_shares(batches: Iterable[tuple[str, int]]) -> None:
    """Raise a UserError if the processes cannot take equal parts.

    Args:
        batches: what is learned in a step, and from how many pictures at once.
    """
    for what, size in batches:
        if size % count():
            raise UserError(
                f"A step learns the {what} from {size} pictures at once, which {count()} processes cannot share",
                f"Set steps.batch_size and steps.others_batch_size to multiples of {2 * count()}, or start fewer",
            )


def mean(number: float) -> float:
    """Of all processes' numbers."""
    return number if count() == 1 else gather(torch.tensor([number], device=state().device)).double().mean().item()


def average(gradients: list[Tensor]) -> None:
    """Put the processes' mean in the place of each gradient, in one exchange for all of a kind."""
    if count() == 1:
        return
    for kind in {gradient.dtype for gradient in gradients}:
        some = [gradient for gradient in gradients if gradient.dtype == kind]
        flat = torch.cat([gradient.flatten() for gradient in some])
        torch.distributed.all_reduce(flat)
        for gradient, summed in zip(some, flat.split([gradient.numel() for gradient in some]), strict=True):
            gradient.copy_(summed.view_as(gradient) / count())


def all_agree(found: bool) -> bool:
    """Whether every process has found so."""
    return found if count() == 1 else mean(float(found)) == 1.0


def as_leader(ask: Callable[[], bool]) -> bool:
    """What the first process answers, which it alone is asked."""
    if count() == 1:
        return ask()
    answer = [ask() if leads() else None]
    return broadcast_object_list(answer)[0]
