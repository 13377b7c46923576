"""Sana: linear attention over small latents, prompts behind an instruction to the language model that reads them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import Flow, logit_normal, settings_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)"
BLOCK = r"transformer_blocks\.\d+"
WHOLE = rf"{BLOCK}\.(attn[12]\.{PROJECTIONS}|ff\.conv_(inverted|point))"


class Sana(Flow):
    name: ClassVar[str] = "sana"
    title: ClassVar[str] = "Sana"
    origin: ClassVar[str] = "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"
    pipeline: ClassVar[str] = "SanaPipeline"
    relatives: ClassVar[dict[str, str]] = {"SanaSprintPipeline": "model that draws in a few steps (Sprint)"}
    multiple: ClassVar[int] = 32  # the autoencoder's factor
    preset: ClassVar[str] = "sana"
    starts: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 4.5)
    longest: ClassVar[int] = 300
    network: ClassVar[str] = "SanaTransformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": rf"{BLOCK}\.attn2\.{PROJECTIONS}",
        "attention": rf"{BLOCK}\.attn[12]\.{PROJECTIONS}",
        "attention+feedforward": WHOLE,
        "all": WHOLE,
    }
    words: ClassVar[str] = r"\.attn2\.to_[kv]$"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)

    def fused(self, denoiser: nn.Module, name: str) -> dict[str, tuple[int, ...]]:
        """The feed-forward's value and gate."""
        if not name.endswith(".conv_inverted"):
            return {}
        layer: Any = denoiser.get_submodule(name)
        half = len(layer.weight) // 2
        return {"up": (half, half)}

    def side(self, denoiser: dict[str, Any], vae: dict[str, Any]) -> int:
        return (denoiser.get("sample_size") or 0) * 2 ** (len(vae.get("encoder_block_out_channels", "?")) - 1)

    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        """This autoencoder gives one latent, not a distribution."""
        return pipe.vae.encode(pixels).latent.float() * pipe.vae.config.scaling_factor

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """Always 300 tokens with a mask, behind the instruction that the pipeline draws with."""
        said = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
        embeds, mask, *_ = pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=pipe.device, complex_human_instruction=said
        )
        return {"prompt_embeds": embeds, "prompt_mask": mask}

    def levels(self, pipe: DiffusionPipeline, shares: Tensor) -> Tensor:
        """u of a logit-normal distribution, as the base was trained (arXiv 2410.10629), and then the shift."""
        return super().levels(pipe, logit_normal(shares))

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        return pipe.transformer(
            noisy,
            encoder_hidden_states=conditions["prompt_embeds"].to(noisy.dtype),
            encoder_attention_mask=conditions["prompt_mask"],
            timestep=levels * pipe.scheduler.config.num_train_timesteps * pipe.transformer.config.timestep_scale,
            return_dict=False,
        )[0]
