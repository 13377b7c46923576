"""How pictures are sampled: guidance rules, and the stock pipelines that carry them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.guidance import APG, CFG, GuidanceRule

if TYPE_CHECKING:
    from pipelines.attention import set_attention
    from pipelines.guided_pipeline import APGStableDiffusionPipeline, guided
    from pipelines.rules import FDG, TCFG, CFGRescale, CFGZeroStar

__all__ = [
    "APG",
    "CFG",
    "FDG",
    "TCFG",
    "APGStableDiffusionPipeline",
    "CFGRescale",
    "CFGZeroStar",
    "GuidanceRule",
    "UserError",
    "guided",
    "set_attention",
]

# Imported when first asked for: they bring PyTorch and diffusers, seconds that the studio's page does not wait for.
_LATE = {
    "guided": "pipelines.guided_pipeline",
    **dict.fromkeys(("FDG", "TCFG", "CFGRescale", "CFGZeroStar"), "pipelines.rules"),
    "set_attention": "pipelines.attention",
}


def __getattr__(name: str) -> Any:
    if name.startswith("APG"):  # APGFluxPipeline and every other class of a known family
        return getattr(import_module("pipelines.guided_pipeline"), name)
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
