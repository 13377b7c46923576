"""Low-rank optimizers for any model, and all optimizers by name.

The names below are imported when first used: project files need the settings alone, and torch takes its time.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ProjectedAdamW": "training.optimizers.projected",
    "GradNormLoRP": "training.optimizers.projected",
    "OutlierLayerSampler": "training.optimizers.outlier",
    "StepInBackward": "training.optimizers.backward",
    "WeightCompander": "training.adapters.compander",
    "make_optimizer": "training.optimizers.registry",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
