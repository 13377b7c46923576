"""Stable Diffusion 3 and 3.5: three text encoders, two streams in every block, noise levels of a logit-normal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import Flow, logit_normal, settings_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

PICTURE = r"to_q|to_k|to_v|to_out\.0"
TEXT = r"add_q_proj|add_k_proj|add_v_proj|to_add_out"
BLOCK = r"transformer_blocks\.\d+"
ATTENTION = rf"{BLOCK}\.(attn\.({PICTURE}|{TEXT})|attn2\.({PICTURE}))"  # attn2: of 3.5 medium, in half of its blocks
WHOLE = rf"{ATTENTION}|{BLOCK}\.(ff|ff_context)\.net\.(0\.proj|2)"


class StableDiffusion3(Flow):
    name: ClassVar[str] = "sd3"
    title: ClassVar[str] = "Stable Diffusion 3"
    origin: ClassVar[str] = "stabilityai/stable-diffusion-3.5-medium"
    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    parts: ClassVar[tuple[str, ...]] = (
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "scheduler",
    )
    readers: ClassVar[tuple[str, ...]] = ("tokenizer_3",)  # T5's, which reads on where CLIP's end
    preset: ClassVar[str] = "sd3"
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 4.5)
    longest: ClassVar[int] = 256
    architecture: ClassVar[str] = "stable-diffusion-3"
    network: ClassVar[str] = "SD3Transformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": rf"{BLOCK}\.attn\.({TEXT})",  # the text's side of what both attend to
        "attention": ATTENTION,
        "attention+feedforward": WHOLE,
        "all": WHOLE,
    }
    words: ClassVar[str] = r"\.add_[kv]_proj$"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """77 tokens of both CLIPs side by side, then 256 of T5; and the summaries of both CLIPs."""
        embeds, _, pooled, _ = pipe.encode_prompt(
            prompts, None, None, device=pipe.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def levels(self, pipe: DiffusionPipeline, shares: Tensor) -> Tensor:
        """u of a logit-normal distribution, and then the scheduler's shift."""
        return super().levels(pipe, logit_normal(shares))

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        return pipe.transformer(
            hidden_states=noisy,
            timestep=levels * pipe.scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditions["prompt_embeds"].to(noisy.dtype),
            pooled_projections=conditions["pooled_prompt_embeds"].to(noisy.dtype),
            return_dict=False,
        )[0]
