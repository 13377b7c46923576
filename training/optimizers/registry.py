"""Optimizers by name."""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

from pipelines.errors import UserError
from training.optimizers.projected import GradNormLoRP, ProjectedAdamW
from training.packages import PACKAGES, require


def make_optimizer(name: str, groups: list[dict], **settings: Any) -> Optimizer:
    """An optimizer for parameter groups, each `{"params": [...], "lr": ...}`; settings are those of the configuration.

    Raises:
        UserError: it needs a package that is not installed, or that cannot be used here.
    """
    require(name)
    if "beta1" in settings:
        settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
    match name:
        case "adamw" | "lora-plus":
            return torch.optim.AdamW(groups, fused=True, **settings)
        case "adamw-8bit":
            return _package(name, ".optim").AdamW8bit(groups, **settings)
        case "adafactor":
            return torch.optim.Adafactor(groups, d=settings.pop("clip"), **settings)
        case "schedule-free":
            optimizer = _package(name).AdamWScheduleFree(groups, **settings)
            optimizer.train()
            return optimizer
        case "prodigy":
            return _package(name).Prodigy(groups, **settings)
        case "projected-adamw" | "owlore":
            return ProjectedAdamW(groups, **settings)
        case "gradnorm-lorp":
            return GradNormLoRP(groups, **settings)
    raise UserError(f"There is no optimizer {name!r}", "Choose another")


def _package(name: str, part: str = "") -> ModuleType:
    """The package that an optimizer needs, or a part of it. Built for another machine, it may raise anything."""
    try:
        return import_module(PACKAGES[name] + part)
    except Exception as error:
        raise UserError(
            f"optimizer.name is {name!r}, and the package {PACKAGES[name]} cannot be used here ({error})",
            "Install it anew, or choose another optimizer",
        ) from None
