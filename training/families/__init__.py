"""The families of bases that are trained: one file a family, with all that sets it apart, and the one list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.families.chroma import Chroma
from training.families.family import Family
from training.families.flux1 import Flux1
from training.families.flux2_klein import Flux2Klein
from training.families.krea2 import Krea2
from training.families.qwen_image import QwenImage
from training.families.sana import Sana
from training.families.sdxl import StableDiffusionXL
from training.families.stable_diffusion import StableDiffusion1, StableDiffusion2
from training.families.stable_diffusion_3 import StableDiffusion3
from training.families.z_image import ZImage

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import nn

ALL = (
    StableDiffusion1(),
    StableDiffusion2(),
    StableDiffusionXL(),
    ZImage(),
    Flux2Klein(),
    QwenImage(),
    Flux1(),
    StableDiffusion3(),
    Chroma(),
    Krea2(),
    Sana(),
)
FAMILIES: dict[str, Family] = {family.name: family for family in ALL}


def family_of(pipe: DiffusionPipeline) -> Family:
    """The family of an opened base, in a stock class or guided; of SD 1 and 2, which compute alike, the first."""
    kinds = {kind.__name__ for kind in type(pipe).__mro__}
    return next(family for family in FAMILIES.values() if family.pipeline in kinds)


def denoiser_of(pipe: DiffusionPipeline) -> ModelMixin:
    """The network that learns."""
    return getattr(pipe, family_of(pipe).denoiser)


def family_of_denoiser(denoiser: nn.Module) -> Family:
    """A family whose networks are of this class; all of them have the same layers."""
    kind = type(denoiser).__name__
    return next(family for family in FAMILIES.values() if family.network == kind)
