"""Optimizers by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import UserError
from training.optimizers.projected import GradNormLoRP, ProjectedAdamW
from training.packages import require

NUMBERS = (int, float, str, list, tuple, type(None))  # what JSON keeps


def make_optimizer(name: str, groups: list[dict], **settings) -> Optimizer:
    """An optimizer for parameter groups, each `{"params": [...], "lr": ...}`; settings are those of the configuration.

    Raises:
        UserError: it needs a package that is not installed.
    """
    require(name)
    if "beta1" in settings:
        settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
    match name:
        case "adamw" | "lora-plus":
            return torch.optim.AdamW(groups, fused=True, **settings)
        case "adamw-8bit":
            return import_module("bitsandbytes.optim").AdamW8bit(groups, **settings)
        case "adafactor":
            return torch.optim.Adafactor(groups, d=settings.pop("clip"), **settings)
        case "schedule-free":
            optimizer = import_module("schedulefree").AdamWScheduleFree(groups, **settings)
            optimizer.train()
            return optimizer
        case "prodigy":
            return import_module("prodigyopt").Prodigy(groups, **settings)
        case "projected-adamw" | "owlore":
            return ProjectedAdamW(groups, **settings)
        case "gradnorm-lorp":
            return GradNormLoRP(groups, **settings)
    raise UserError(f"There is no optimizer {name!r}", "Choose another")


@contextmanager
def at_rest(optimizer: Optimizer) -> Iterator[None]:
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
    tensors, numbers, state = {}, {}, optimizer.state_dict()
    for index, entries in state["state"].items():
        for key, value in entries.items():
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
