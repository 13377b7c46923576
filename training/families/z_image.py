"""Z-Image: text and picture in one sequence, each sample with as many tokens as it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import Flow, padded, settings_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)"
BLOCK = r"(layers|noise_refiner|context_refiner)\.\d+"
WHOLE = rf"{BLOCK}\.(attention\.{PROJECTIONS}|feed_forward\.w[123])"


class ZImage(Flow):
    name: ClassVar[str] = "z-image"
    title: ClassVar[str] = "Z-Image"
    origin: ClassVar[str] = "Tongyi-MAI/Z-Image"
    pipeline: ClassVar[str] = "ZImagePipeline"
    preset: ClassVar[str] = "z-image"
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 5.0)
    longest: ClassVar[int] = 512
    architecture: ClassVar[str] = "Z-Image"
    network: ClassVar[str] = "ZImageTransformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": rf"layers\.\d+\.attention\.{PROJECTIONS}",  # where text and picture meet
        "attention": rf"{BLOCK}\.attention\.{PROJECTIONS}",
        "attention+feedforward": WHOLE,
        "all": WHOLE,
    }
    blocks: ClassVar[tuple[str, ...]] = ("layers", "noise_refiner", "context_refiner")

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        # The pipeline writes its chat template into the list that it is given.
        return padded(pipe.encode_prompt(list(prompts), device=pipe.device, do_classifier_free_guidance=False)[0])

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        """Its time runs from noise, 0, to picture, 1, and it predicts x - n."""
        import torch

        rows = zip(conditions["prompt_embeds"], conditions["prompt_mask"], strict=True)
        texts = [embeds[mask].to(noisy.dtype) for embeds, mask in rows]
        output = pipe.transformer(list(noisy.unsqueeze(2)), 1 - levels, texts, return_dict=False)[0]
        return -torch.stack(output).squeeze(2)
