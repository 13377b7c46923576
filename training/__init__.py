"""How adapters are learned."""

import os
from typing import TYPE_CHECKING, Any

# Read when PyTorch is imported, so it stands before all else. Threads that wait by spinning make a step a hundred times
# slower as soon as another program wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipelines.errors import UserError
from training.config import Customization
from training.run import Run

if TYPE_CHECKING:
    from training.loop import customize
    from training.mix import mixed

__all__ = ["Customization", "Run", "UserError", "customize", "mixed"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for, like the pipelines.
    if name == "customize":
        from training.loop import customize

        return customize
    if name == "mixed":
        from training.mix import mixed

        return mixed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
