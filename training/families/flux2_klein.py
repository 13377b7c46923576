"""FLUX.2 klein, the base models: text and picture in blocks of two streams, then of one; latents in patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.flow import Flow, settings_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import Tensor

JOINT = r"attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
FEED = r"(ff|ff_context)\.linear_(in|out)"
SINGLE = r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"  # attention and feed-forward in one
WHOLE = rf"transformer_blocks\.\d+\.({JOINT}|{FEED})|{SINGLE}"


class Flux2Klein(Flow):
    name: ClassVar[str] = "flux2-klein"
    title: ClassVar[str] = "FLUX.2 klein"
    origin: ClassVar[str] = "black-forest-labs/FLUX.2-klein-base-4B"
    pipeline: ClassVar[str] = "Flux2KleinPipeline"
    preset: ClassVar[str] = "flux2-klein"
    starts: ClassVar[tuple[str, ...]] = ("inpaint",)
    settings: ClassVar[dict[str, Any]] = settings_of(origin, 4.0)
    longest: ClassVar[int] = 512
    network: ClassVar[str] = "Flux2Transformer2DModel"
    layers: ClassVar[dict[str, str]] = {
        "cross-attention": rf"transformer_blocks\.\d+\.{JOINT}",  # where two streams meet
        "attention": rf"transformer_blocks\.\d+\.{JOINT}|{SINGLE}",
        "attention+feedforward": WHOLE,
        "all": WHOLE,
    }
    words: ClassVar[str] = r"\.add_[kv]_proj$"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")

    def fused(self, denoiser: ModelMixin, name: str) -> dict[str, tuple[int, ...]]:
        """Query, key, value, gate and value of the feed-forward; and both paths into the one projection out."""
        layer, config = denoiser.get_submodule(name), denoiser.config
        width = config.num_attention_heads * config.attention_head_dim
        if name.endswith(".to_qkv_mlp_proj"):
            hidden = (layer.out_features - 3 * width) // 2
            return {"up": (width, width, width, hidden, hidden)}
        if name.endswith(".linear_in"):
            return {"up": (layer.out_features // 2, layer.out_features // 2)}
        if name.startswith("single_transformer_blocks."):
            return {"down": (width, layer.in_features - width)}
        return {}

    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        """Patches of 2 x 2, (1, 4 c, h / 16, w / 16), normalised by the autoencoder's own statistics."""
        vae = pipe.vae
        patches = pipe._patchify_latents(vae.encode(pixels).latent_dist.mean.float())
        mean, variance = (x.float().view(1, -1, 1, 1) for x in (vae.bn.running_mean, vae.bn.running_var))
        return (patches - mean) / (variance + vae.config.batch_norm_eps).sqrt()

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """Always 512 tokens: the network was trained with the padding in sight."""
        return {"prompt_embeds": pipe.encode_prompt(prompts, device=pipe.device)[0]}

    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        texts = conditions["prompt_embeds"].to(noisy.dtype)
        output = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy),  # (n, h w, c)
            timestep=levels,
            guidance=None,
            encoder_hidden_states=texts,
            txt_ids=pipe._prepare_text_ids(texts).to(noisy.device),
            img_ids=pipe._prepare_latent_ids(noisy).to(noisy.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, noisy.shape[2:])
