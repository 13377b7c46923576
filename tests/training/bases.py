"""Tiny real bases of every family that is trained, as folders: a maker for each key of `training.families.FAMILIES`."""

import inspect
from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKLFlux2,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Krea2Pipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.families.case import lively
from tests.families.flows import autoencoder as latent_autoencoder
from tests.families.flows import film_autoencoder
from tests.families.flows import krea as krea_pipeline
from tests.families.transformers import chroma as chroma_sizes
from tests.families.transformers import deep_autoencoder, zimage
from tests.families.transformers import sana as sana_sizes
from tests.tiny import TEXT_WIDTH, tiny_autoencoder, tiny_pipeline, tiny_text_encoder, tiny_tokenizer

WIDTH = 16  # of a text token
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def tokenizer() -> Qwen2Tokenizer:
    """Every byte is a token."""
    letters = sorted(ByteLevel.alphabet())
    words = {piece: i for i, piece in enumerate([*letters, "<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    special = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "pad_token": "<|endoftext|>"}
    return Qwen2Tokenizer(vocab=words, merges=[], chat_template=TEMPLATE, model_max_length=512, **special)


def language_model(kind: type = Qwen3Model, config: type = Qwen3Config, layers: int = 2, **more: object) -> Qwen3Model:
    sizes = {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    return kind(config(**sizes | more)).eval()


def t5(width: int = WIDTH) -> tuple[T5EncoderModel, T5Tokenizer]:
    """Every letter is a token."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz,"]
    tokenizer = T5Tokenizer(vocab=[(word, -1.0) for word in words], extra_ids=0, model_max_length=512)
    sizes = {"d_model": width, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes)).eval(), tokenizer


def autoencoder(channels: int = 4) -> torch.nn.Module:
    vae = tiny_autoencoder(channels)
    vae.register_to_config(shift_factor=0.1, scaling_factor=1.5)
    return vae


def z_image() -> ZImagePipeline:
    return ZImagePipeline(
        transformer=lively(ZImageTransformer2DModel(**zimage)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(),
        text_encoder=language_model(),
        tokenizer=tokenizer(),
    )


def klein() -> Flux2KleinPipeline:
    """Its text is of layers 9, 18 and 27."""
    vae = latent_autoencoder(4, AutoencoderKLFlux2)
    vae.register_to_config(sample_size=32)
    vae.bn.running_mean += 0.2
    vae.bn.running_var *= 2
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        transformer=lively(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=language_model(Qwen3ForCausalLM, layers=27),
        tokenizer=tokenizer(),
    )


def qwen() -> QwenImagePipeline:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
    )
    text = {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    sight = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": WIDTH, "intermediate_size": 16}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=sight | {"fullatt_block_indexes": [0]})
    return QwenImagePipeline(
        transformer=lively(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=film_autoencoder(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer(),
    )


def flux() -> FluxPipeline:
    """CLIP's summary of a prompt beside T5's tokens."""
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    clip, (encoder, words) = tiny_tokenizer(), t5()
    return FluxPipeline(
        transformer=lively(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(),
        text_encoder=tiny_text_encoder(clip),
        tokenizer=clip,
        text_encoder_2=encoder,
        tokenizer_2=words,
    )


def sd3() -> StableDiffusion3Pipeline:
    """As 3.5 medium: its first block has a second attention, of the picture alone."""
    width = 2 * TEXT_WIDTH  # of both CLIPs side by side
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=width,
        caption_projection_dim=16,
        pooled_projection_dim=width,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    clip, (encoder, words) = tiny_tokenizer(), t5(width)
    return StableDiffusion3Pipeline(
        transformer=lively(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16),  # its pipeline for inpainting asks for so many
        text_encoder=tiny_text_encoder(clip, CLIPTextModelWithProjection),
        tokenizer=clip,
        text_encoder_2=tiny_text_encoder(clip, CLIPTextModelWithProjection),
        tokenizer_2=clip,
        text_encoder_3=encoder,
        tokenizer_3=words,
    )


def chroma() -> ChromaPipeline:
    encoder, words = t5()
    return ChromaPipeline(
        transformer=lively(ChromaTransformer2DModel(**chroma_sizes)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=words,
    )


def krea() -> Krea2Pipeline:
    """Its text is of two layers of a language model that could see."""
    text = {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }
    sight = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": WIDTH, "intermediate_size": 16}
    config = Qwen3VLConfig(text_config=text, vision_config=sight | {"deepstack_visual_indexes": [0]})
    return krea_pipeline(
        Krea2Pipeline,
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=film_autoencoder(),
        text_encoder=Qwen3VLModel(config).eval(),
        tokenizer=tokenizer(),
    )


def sana() -> SanaPipeline:
    vae = deep_autoencoder()
    vae.register_to_config(scaling_factor=0.4)
    words = tokenizer()
    # Each line of the instruction before a prompt is one token: byte by byte they are a thousand.
    words.add_tokens(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)
    return SanaPipeline(
        transformer=lively(SanaTransformer2DModel(**sana_sizes)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=language_model(Gemma2Model, Gemma2Config),
        tokenizer=words,
    )


BASES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd1": lambda: tiny_pipeline(StableDiffusionPipeline),
    "sdxl": lambda: tiny_pipeline(StableDiffusionXLPipeline),
    "z-image": z_image,
    "flux2-klein": klein,
    "qwen-image": qwen,
    "flux1": flux,
    "sd3": sd3,
    "chroma": chroma,
    "krea2": krea,
    "sana": sana,
}


def made(family: str) -> DiffusionPipeline:
    """The same weights each time."""
    torch.manual_seed(0)
    pipe = BASES[family]()
    pipe.set_progress_bar_config(disable=True)
    return pipe
