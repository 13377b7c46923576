"""FLUX.1 dev and Krea dev: text and picture in blocks of two streams, then of one; guidance is a number they hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import Flow, settings_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

BOTH = r"transformer_blocks\.\d+"  # of two streams
ONE = r"single_transformer_blocks\.\d+"
JOINT = rf"{BOTH}\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
SINGLE = rf"{ONE}\.attn\.(to_q|to_k|to_v)"
FEED = rf"{BOTH}\.(ff|ff_context)\.net\.(0\.proj|2)|{ONE}\.(proj_mlp|proj_out)"
WHOLE = f"{JOINT}|{SINGLE}|{FEED}"
GUIDANCE = 1.0  # that the network is told in training: what a picture is without any; drawing tells it more


class Flux1(Flow):
    name: ClassVar[str] = "flux1"
    title: ClassVar[str] = "FLUX.1"
    origin: ClassVar[str] = "black-forest-labs/FLUX.1-dev"
    pipeline: ClassVar[str] = "FluxPipeline"
    relatives: ClassVar[dict[str, str]] = {
        "FluxKontextPipeline": "model that edits pictures (Kontext)",
        "FluxFillPipeline": "inpainting model (Fill)",
        "FluxControlPipeline": "model that follows edges or depth",
    }
    parts: ClassVar[tuple[str, ...]] = (
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    )
    readers: ClassVar[tuple[str, ...]] = ("tokenizer_2",)  # T5's; CLIP only makes the summary of a prompt
    preset: ClassVar[str] = "flux1"
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 1.0)
    others_scale: ClassVar[float] = 1.0
    longest: ClassVar[int] = 512
    architecture: ClassVar[str] = "flux-1-dev"
    network: ClassVar[str] = "FluxTransformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": JOINT,  # where two streams meet
        "attention": f"{JOINT}|{SINGLE}",
        "attention+feedforward": WHOLE,
        "all": WHOLE,
    }
    words: ClassVar[str] = r"\.add_[kv]_proj$"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")

    def fused(self, denoiser: nn.Module, name: str) -> dict[str, tuple[int, ...]]:
        """Attention and feed-forward of a single block have one projection out."""
        if not name.endswith(".proj_out"):
            return {}
        layer: Any = denoiser.get_submodule(name)
        return {"down": (layer.out_features, layer.in_features - layer.out_features)}

    def distilled(self, denoiser: dict[str, Any], scheduler: dict[str, Any]) -> str:
        """Schnell hears no guidance, and its schedule is the same for every size."""
        told = denoiser.get("guidance_embeds") or scheduler.get("use_dynamic_shifting")
        return "" if told else "it is not told the guidance scale and has one schedule for all sizes, as schnell"

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """512 tokens of T5, the padding in sight as in its training, and CLIP's summary."""
        embeds, pooled, _ = pipe.encode_prompt(prompts, device=pipe.device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        """The network takes patches of 2 x 2 as tokens, with their rows and columns; those of text are all 0."""
        n, c, h, w = noisy.shape
        texts = conditions["prompt_embeds"].to(noisy.dtype)
        output = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy, n, c, h, w),
            timestep=levels,
            encoder_hidden_states=texts,
            txt_ids=levels.new_zeros(texts.shape[1], 3),
            img_ids=pipe._prepare_latent_image_ids(n, h // 2, w // 2, noisy.device, levels.dtype),
            **self.inputs(pipe, noisy, conditions),
            return_dict=False,
        )[0]
        factor = pipe.vae_scale_factor
        return pipe._unpack_latents(output, h * factor, w * factor, factor)

    def inputs(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor]) -> dict[str, Any]:
        """What the network takes beside tokens, their places and the noise level."""
        told = pipe.transformer.config.guidance_embeds
        return {
            "guidance": noisy.new_full((len(noisy),), GUIDANCE) if told else None,
            "pooled_projections": conditions["pooled_prompt_embeds"].to(noisy.dtype),
        }
