"""Stable Diffusion 3, Flux, Qwen-Image: transformers over patches, trained as rectified flows."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    QwenImageControlNetModel,
    QwenImageTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
)

from tests.families.case import MASK, PICTURES, Case, certain, embeddings, lively, pictures, together

SIZE = {"height": 32, "width": 32}
WIDTH = 16  # of a text token
TEXT = embeddings("prompt_embeds", 6, WIDTH)
POOLED = embeddings("pooled_prompt_embeds", WIDTH)
EULERS = ("flow Euler, dynamic shift", "flow Euler", "flow Euler karras")
ALL = ("flow Euler", "flow Euler karras", "flow Heun", "flow DPM++ 2M", "flow UniPC")
SPACED = ("flow Euler exponential", "flow Euler beta")


def autoencoder(channels: int = 4, cls=AutoencoderKL, levels: int = 2):
    """32x32x3 <-> 16x16, halved again by each further level."""
    vae = cls(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16, 16, 16)[:levels],
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=cls is AutoencoderKLFlux2,
        use_post_quant_conv=cls is AutoencoderKLFlux2,
        **({} if cls is AutoencoderKLFlux2 else {"shift_factor": 0.1, "scaling_factor": 1.5}),
    )
    return certain(vae, vae.encoder.conv_out)


def sd3(cls, scheduler):
    config = {
        "sample_size": 16,
        "in_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 16,
        "pooled_projection_dim": WIDTH,
        "pos_embed_max_size": 16,
    }
    extra = {}
    if "ControlNetInpainting" in cls.__name__:
        extra["controlnet"] = lively(SD3ControlNetModel(**config, out_channels=16, extra_conditioning_channels=1))
    elif "ControlNet" in cls.__name__:
        extra["controlnet"] = lively(SD3ControlNetModel(**config, out_channels=16))
    return cls(
        transformer=lively(SD3Transformer2DModel(**config, out_channels=16)),
        scheduler=scheduler,
        vae=autoencoder(16),
        **dict.fromkeys(
            ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
        ),
        **extra,
    )


def flux(cls, scheduler):
    config = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "axes_dims_rope": (2, 2, 4),
    }
    extra = {"controlnet": lively(FluxControlNetModel(**config))} if "ControlNet" in cls.__name__ else {}
    return cls(
        transformer=lively(FluxTransformer2DModel(**config, guidance_embeds=True)),
        scheduler=scheduler,
        vae=autoencoder(),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
        **extra,
    )


def klein(cls, scheduler):
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    return cls(
        transformer=lively(transformer),
        scheduler=scheduler,
        vae=autoencoder(4, AutoencoderKLFlux2),
        text_encoder=None,
        tokenizer=None,
    )


def film_autoencoder(levels: int = 1) -> AutoencoderKLQwenImage:
    """32x32x3 <-> 16x16x4, halved again by each further level."""
    vae = AutoencoderKLQwenImage(
        base_dim=2 if levels > 1 else 8,
        z_dim=4,
        dim_mult=[1] * (levels + 1),
        num_res_blocks=1,
        temperal_downsample=[False] * levels,
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    )
    return vae.eval()


def qwen(cls, scheduler):
    """The edit classes encode a megapixel of the given picture: with five levels it is few tokens."""
    config = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (2, 2, 4),
    }
    levels = 5 if "Edit" in cls.__name__ else 1
    extra = {"processor": None} if "Edit" in cls.__name__ else {}
    if "ControlNet" in cls.__name__:
        more = {"extra_condition_channels": 4} if "Inpaint" in cls.__name__ else {}
        extra["controlnet"] = lively(QwenImageControlNetModel(**config, **more))
    return cls(
        transformer=lively(QwenImageTransformer2DModel(**config)),
        scheduler=scheduler,
        vae=film_autoencoder(levels),
        text_encoder=None,
        tokenizer=None,
        **extra,
    )


def krea(cls, scheduler, **parts):
    """Its text is of two layers of a language model.

    Args:
        parts: text encoder, tokenizer and autoencoder, where there are some.
    """
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=WIDTH,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(2, 2, 4),
    )
    parts = dict.fromkeys(("text_encoder", "tokenizer")) | {"vae": film_autoencoder()} | parts
    return cls(transformer=lively(transformer), scheduler=scheduler, text_encoder_select_layers=(1, 2), **parts)


def masks(samples: list[int]) -> dict:
    """Of the text embeddings: all of them are meant."""
    mask = torch.ones(len(samples), 6, dtype=torch.long)
    return {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask}


def bool_masks(samples: list[int]) -> dict:
    return {name: mask.bool() for name, mask in masks(samples).items()}


def control_masks(samples: list[int]) -> dict:
    return {"control_mask": [MASK for _ in samples]}


sd3_text = together(TEXT, POOLED, **SIZE)
sd3_image = together(TEXT, POOLED, pictures(), **SIZE, strength=0.8)
flux_text = sd3_text
flux_image = sd3_image
qwen_text = together(TEXT, masks, **SIZE)
krea_text = together(embeddings("prompt_embeds", 6, 2, WIDTH), bool_masks, **SIZE)
qwen_edit = together(TEXT, masks, height=256, width=256)
qwen_image = together(TEXT, masks, pictures(), **SIZE, strength=0.8)
skipped = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 0.5, "skip_layer_guidance_start": -1.0}
true_cfg = {"scale": {"true_cfg_scale": 5.0}}
as_qwen = {**true_cfg, "renormalised": True}

CASES = [
    Case(
        "StableDiffusion3Pipeline",
        sd3,
        sd3_text,
        (*ALL, *SPACED, "flow Euler, shift terminal", "flow Euler, stochastic", "flow Euler ancestral"),
    ),
    Case(
        "StableDiffusion3Pipeline",
        sd3,
        together(sd3_text, **skipped),
        ALL[:1],
        variant="skip-layer",
        added=True,
        no_unguided="without guidance diffusers skips no layers either",
    ),
    Case("StableDiffusion3Img2ImgPipeline", sd3, sd3_image, ALL[:3:2]),
    Case("StableDiffusion3InpaintPipeline", sd3, together(sd3_image, mask_image=MASK), ALL[:3:2]),
    Case("StableDiffusion3ControlNetPipeline", sd3, together(sd3_text, pictures("control_image")), ALL[::2]),
    Case(
        "StableDiffusion3ControlNetInpaintingPipeline",
        sd3,
        together(sd3_text, pictures("control_image"), control_masks),
        ALL[:1],
    ),
    Case("StableDiffusion3PAGPipeline", sd3, together(sd3_text, pag_scale=0.5), ALL[:1], added=True),
    Case("StableDiffusion3PAGImg2ImgPipeline", sd3, together(sd3_image, pag_scale=0.5), ALL[:1], added=True),
    Case("FluxPipeline", flux, flux_text, (*EULERS, *SPACED, "flow Euler, dynamic shift, linear"), **true_cfg),
    Case("FluxImg2ImgPipeline", flux, flux_image, EULERS[:1], **true_cfg),
    Case("FluxInpaintPipeline", flux, together(flux_image, mask_image=MASK), EULERS[:1], **true_cfg),
    Case("FluxControlNetPipeline", flux, together(flux_text, pictures("control_image")), EULERS[:1], **true_cfg),
    Case(
        "FluxKontextPipeline",
        flux,
        together(flux_text, pictures(), _auto_resize=False, max_area=32 * 32),
        EULERS[:1],
        **true_cfg,
    ),
    Case(
        "FluxKontextInpaintPipeline",
        flux,
        together(flux_image, mask_image=MASK, _auto_resize=False, max_area=32 * 32),
        EULERS[:1],
        **true_cfg,
    ),
    Case("Flux2KleinPipeline", klein, together(TEXT, **SIZE), EULERS),
    Case(
        "Flux2KleinPipeline",
        klein,
        together(TEXT, **SIZE, image=PICTURES[0].resize((64, 64))),
        EULERS[:1],
        variant="image",
        alone=True,
    ),
    Case(
        "Flux2KleinInpaintPipeline", klein, together(TEXT, pictures(), **SIZE, mask_image=MASK), EULERS[:1], alone=True
    ),
    Case("Krea2Pipeline", krea, krea_text, EULERS, {"guidance_scale": 4.0}),
    Case("QwenImagePipeline", qwen, qwen_text, EULERS, **as_qwen),
    Case("QwenImageImg2ImgPipeline", qwen, qwen_image, EULERS[:1], **as_qwen),
    Case("QwenImageInpaintPipeline", qwen, together(qwen_image, mask_image=MASK), EULERS[:1], **as_qwen),
    Case("QwenImageControlNetPipeline", qwen, together(qwen_text, pictures("control_image")), EULERS[:1], **as_qwen),
    Case(
        "QwenImageControlNetInpaintPipeline",
        qwen,
        together(qwen_text, pictures("control_image"), control_masks),
        EULERS[:1],
        **as_qwen,
        alone=True,  # diffusers mixes up the pictures of a batch
    ),
    Case("QwenImageEditPipeline", qwen, together(qwen_edit, pictures()), EULERS[:1], **as_qwen, slow=True),
    Case(
        "QwenImageEditPlusPipeline", qwen, together(qwen_edit, pictures()), EULERS[:1], **as_qwen, alone=True, slow=True
    ),
    Case("QwenImageEditInpaintPipeline", qwen, together(qwen_image, mask_image=MASK), EULERS[:1], **as_qwen, slow=True),
]
