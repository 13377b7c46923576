"""How many bytes an optimizer keeps for a weight, known before anything is trained."""

from math import ceil, prod
from typing import Any

import torch

from training.optimizers.projected import ProjectedAdamW
from training.optimizers.projection import Projection
from training.optimizers.quantized import BLOCK, SMALLEST

STEP = 4  # torch counts steps in a float32 tensor


def state_bytes(name: str, shape: tuple[int, ...], **settings: Any) -> int:
    """Bytes of the state of one float32 weight, counters of steps included.

    Args:
        name: of the optimizer, as in the configuration.
        settings: for the projected optimizers rank, side, normalize, bits and basis_dtype, by default theirs; for
            AdamW `dtype` of the moments.
    """
    n = prod(shape)
    match name:
        case "adamw" | "lora-plus":
            return 2 * n * settings.get("dtype", torch.float32).itemsize + STEP
        case "adamw-8bit":
            return 2 * _moment(n, 8)
        case "adafactor":
            # One sum for each row and each column of the last two dimensions.
            return 4 * (n // shape[-1] + n // shape[-2] if len(shape) > 1 else n) + STEP
        case "schedule-free":
            return 8 * n  # the averaged weights in place of the first moment
        case "prodigy":
            return 16 * n  # both moments, the weights at the start, and a numerator
        case "projected-adamw" | "gradnorm-lorp" | "owlore":
            given = _defaults() | {"normalize": name == "gradnorm-lorp"}
            return _projected(shape, given | settings)
    raise KeyError(name)


def _defaults() -> dict:
    return ProjectedAdamW([torch.zeros(1)]).defaults


def _projected(shape: tuple[int, ...], group: dict) -> int:
    rows = shape[0]
    columns = prod(shape) // rows
    norms = 2 * _moment(rows, 32) if group["normalize"] and len(shape) > 1 else 0
    projection = Projection.of(torch.empty(shape, device="meta"), group)
    if projection is None:
        return 2 * _moment(rows * columns, group["bits"]) + norms
    kept, projected = (rows, columns) if projection.right else (columns, rows)
    dtype = group["basis_dtype"] or (torch.bfloat16 if group["bits"] == 8 else torch.float32)
    basis = projection.rank * projected * dtype.itemsize
    return 2 * _moment(projection.rank * kept, group["bits"]) + basis + norms


def _moment(n: int, bits: int) -> int:
    return 4 * n if bits == 32 or n < SMALLEST else n + 4 * ceil(n / BLOCK)
