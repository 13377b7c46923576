"""Chroma: FLUX.1 schnell taught anew without distillation and without CLIP, each prompt without its padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import Flow, padded, settings_of
from training.families.flux1 import Flux1

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor


class Chroma(Flux1):
    name: ClassVar[str] = "chroma"
    title: ClassVar[str] = "Chroma"
    origin: ClassVar[str] = "lodestones/Chroma1-HD"
    pipeline: ClassVar[str] = "ChromaPipeline"
    relatives: ClassVar[dict[str, str]] = {}
    parts: ClassVar[tuple[str, ...]] = Flow.parts
    readers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    preset: ClassVar[str] = "chroma"
    starts: ClassVar[tuple[str, ...]] = ("image",)
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 3.0)
    others_scale: ClassVar[float] = Flow.others_scale
    longest: ClassVar[int] = 512
    architecture: ClassVar[str] = "chroma"
    network: ClassVar[str] = "ChromaTransformer2DModel"

    def distilled(self, denoiser: dict[str, Any], scheduler: dict[str, Any]) -> str:
        return ""

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """The tokens of each prompt and the first of its padding, which the network was trained to see."""
        embeds, _, mask, *_ = pipe.encode_prompt(prompts, device=pipe.device, do_classifier_free_guidance=False)
        return padded([row[kept.bool()] for row, kept in zip(embeds, mask, strict=True)])

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        """Sample by sample: under gradient checkpointing diffusers passes no mask on to the single blocks."""
        import torch

        rows = zip(conditions["prompt_embeds"], conditions["prompt_mask"], noisy.split(1), levels.split(1), strict=True)
        texts = [(embeds[mask][None], one, level) for embeds, mask, one, level in rows]
        return torch.cat([super(Chroma, self).velocity(pipe, one, {"prompt_embeds": t}, s) for t, one, s in texts])

    def inputs(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor]) -> dict[str, Any]:
        return {}
