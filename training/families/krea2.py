"""Krea 2: text and picture in one sequence; its text is what several layers of a language model make of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import cut_to_longest, padded, settings_of
from training.families.qwen_image import QwenImage

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

ATTENTION = r"attn\.(to_q|to_k|to_v|to_gate|to_out\.0)"
FEED = r"ff\.(gate|up|down)"
BLOCK = r"transformer_blocks\.\d+"
FUSION = r"text_fusion\.(layerwise_blocks|refiner_blocks)\.\d+"


class Krea2(QwenImage):
    """Its autoencoder is Qwen-Image's."""

    name: ClassVar[str] = "krea2"
    title: ClassVar[str] = "Krea 2"
    origin: ClassVar[str] = "krea/Krea-2-Raw"
    pipeline: ClassVar[str] = "Krea2Pipeline"
    preset: ClassVar[str] = "krea2"
    starts: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 5.5)
    longest: ClassVar[int] = 512
    network: ClassVar[str] = "Krea2Transformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": rf"{BLOCK}\.{ATTENTION}",  # where text and picture meet
        "attention": rf"({BLOCK}|{FUSION})\.{ATTENTION}",
        "attention+feedforward": rf"({BLOCK}|{FUSION})\.({ATTENTION}|{FEED})",
        "all": rf"({BLOCK}|{FUSION})\.({ATTENTION}|{FEED})",
    }
    words: ClassVar[str] = ""
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "layerwise_blocks", "refiner_blocks")

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """Without padding, (n, tokens, layers, width): nothing looks at it, and all text stands at one place."""
        embeds, mask = pipe.encode_prompt(prompts, device=pipe.device)
        return padded([row[kept] for row, kept in zip(embeds, mask, strict=True)])

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        n, c, h, w = noisy.shape
        embeds, mask = cut_to_longest(conditions)
        output = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy, n, c, h, w),
            encoder_hidden_states=embeds.to(noisy.dtype),
            timestep=levels,
            position_ids=pipe.prepare_position_ids(embeds.shape[1], h // 2, w // 2, noisy.device),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        factor = pipe.vae_scale_factor
        return pipe._unpack_latents(output, h * factor, w * factor).squeeze(2)
