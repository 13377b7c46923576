"""Optimizers by name."""

from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer

from pipelines.errors import UserError
from training.optimizers.projected import GradNormLoRP, ProjectedAdamW
from training.packages import require


def make_optimizer(name: str, groups: list[dict], **settings: Any) -> Optimizer:
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
