"""How adapters are learned."""

import os
from typing import TYPE_CHECKING

# Read when PyTorch is imported, so it stands before all else. Threads that wait by spinning make a step a hundred times
# slower as soon as another program wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipelines.errors import UserError
from training.config import Customization
from training.run import Run

if TYPE_CHECKING:
    from training.loop import customize

__all__ = ["Customization", "Run", "UserError", "customize"]


def __getattr__(name: str):
    if name != "customize":  # imported when first asked for, like the pipelines
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.loop import customize

    return customize


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
