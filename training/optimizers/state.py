"""An optimizer's state as files keep it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

NUMBERS = (int, float, str, list, tuple, type(None))  # what JSON keeps


@contextmanager
def at_rest(optimizer: Any) -> Iterator[None]:
    """With the weights as they are to be used: schedule-free training moves others."""
    if not hasattr(optimizer, "eval"):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


def flatten_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict]:
    """An optimizer's state as flat tensors ("0.exp_avg") and JSON numbers ({"0": {"name": 1}, "groups": [...]})."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    state = optimizer.state_dict()
    for index, entries in state["state"].items():
        for key, value in _leaves(entries):
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    numbers["groups"] = [
        {key: value for key, value in group.items() if key != "params" and isinstance(value, NUMBERS)}
        for group in state["param_groups"]
    ]
    return tensors, numbers


def load_state(optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict) -> None:
    """Put back what `flatten_state` gave."""
    state: dict[int, dict] = {int(index): dict(entries) for index, entries in numbers.items() if index != "groups"}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    if "groups" in numbers:
        groups = [group | saved for group, saved in zip(groups, numbers["groups"], strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _leaves(entries: dict) -> Iterator[tuple[str, object]]:
    """bitsandbytes wraps what it keeps in a dictionary of its own; it takes it back without."""
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield key, value
