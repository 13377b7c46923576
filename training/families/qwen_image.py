"""Qwen-Image: two streams in every block, an autoencoder of films, prompts behind a fixed template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.family import by_statistics
from training.families.flow import Flow, cut_to_longest, padded, settings_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

PICTURE = r"to_q|to_k|to_v|to_out\.0"
TEXT = r"add_q_proj|add_k_proj|add_v_proj|to_add_out"
BLOCK = r"transformer_blocks\.\d+"
WHOLE = rf"{BLOCK}\.(attn\.({PICTURE}|{TEXT})|(img|txt)_mlp\.net\.(0\.proj|2))"


class QwenImage(Flow):
    name: ClassVar[str] = "qwen-image"
    title: ClassVar[str] = "Qwen-Image"
    origin: ClassVar[str] = "Qwen/Qwen-Image"
    pipeline: ClassVar[str] = "QwenImagePipeline"
    preset: ClassVar[str] = "qwen-image"
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 4.0)
    longest: ClassVar[int] = 1024
    architecture: ClassVar[str] = "Qwen-Image"
    network: ClassVar[str] = "QwenImageTransformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": rf"{BLOCK}\.attn\.({TEXT})",  # the text's side of what both attend to
        "attention": rf"{BLOCK}\.attn\.({PICTURE}|{TEXT})",
        "attention+feedforward": WHOLE,
        "all": WHOLE,
    }
    words: ClassVar[str] = r"\.add_[kv]_proj$"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)

    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        """As a film of one picture, each channel normalised by the autoencoder's own statistics."""
        return by_statistics(pipe.vae.encode(pixels.unsqueeze(2)).latent_dist.mean.squeeze(2).float(), pipe.vae)

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        embeds, mask = pipe.encode_prompt(prompts, device=pipe.device)
        if mask is None:  # all are of one length
            return padded(list(embeds))
        return padded([row[kept.bool()] for row, kept in zip(embeds, mask, strict=True)])

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        n, c, h, w = noisy.shape
        embeds, mask = cut_to_longest(conditions)
        output = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy, n, c, h, w),
            timestep=levels,
            encoder_hidden_states=embeds.to(noisy.dtype),
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, h // 2, w // 2)]] * n,
            return_dict=False,
        )[0]
        factor = pipe.vae_scale_factor
        return pipe._unpack_latents(output, h * factor, w * factor, factor).squeeze(2)
