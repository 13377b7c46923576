"""Transformers that draw: Sana, PixArt, HunyuanDiT, AuraFlow, Lumina 2, CogView, Chroma, Z-Image, HiDream."""

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    ChromaTransformer2DModel,
    CogView3PlusTransformer2DModel,
    CogView4Transformer2DModel,
    HiDreamImageTransformer2DModel,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    Lumina2Transformer2DModel,
    PixArtTransformer2DModel,
    SanaControlNetModel,
    SanaTransformer2DModel,
    ZImageControlNetModel,
    ZImageTransformer2DModel,
)

from tests.families.case import MASK, PICTURES, Case, embeddings, lively, pictures, together
from tests.families.flows import EULERS, SIZE, WIDTH, autoencoder

TEXT = embeddings("prompt_embeds", 6, WIDTH)
NOTHING = ("text_encoder", "tokenizer")
FLOW = ("flow Euler", "flow Heun", "flow DPM++ 2M")
NOISE = ("DPM++ 2M", "DDIM", "Euler", "Heun")


def made(transformer, *absent, gain: float = 1.0, **fixed):
    """A maker: the transformer's class and its configuration, the parts that are left out, and the others' makers."""
    cls, config = transformer

    def pipeline(pipeline_cls, scheduler):
        parts = {name: part() for name, part in fixed.items()}
        net = lively(cls(**config), gain)
        return pipeline_cls(transformer=net, scheduler=scheduler, **dict.fromkeys((*NOTHING, *absent)), **parts)

    return pipeline


def masks(*names: str, dtype=torch.long):
    """Of text embeddings: all of them are meant."""
    return lambda samples: {name: torch.ones(len(samples), 6, dtype=dtype) for name in names}


both_masks = masks("prompt_attention_mask", "negative_prompt_attention_mask")
HEADS = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
sana = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 8,
    "cross_attention_dim": 16,
    "caption_channels": WIDTH,
    "sample_size": 16,
}
sana_text = together(TEXT, both_masks, **SIZE, use_resolution_binning=False, negative_prompt=None)
pixart = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 16,
    "caption_channels": WIDTH,
    "sample_size": 16,
    "use_additional_conditions": False,
}
pixart_text = together(TEXT, both_masks, height=128, width=128, use_resolution_binning=False, negative_prompt=None)
hunyuan = {
    "sample_size": 16,
    "in_channels": 4,
    "patch_size": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "hidden_size": 16,
    "cross_attention_dim": WIDTH,
    "cross_attention_dim_t5": WIDTH,
    "pooled_projection_dim": 8,
    "text_len": 6,
    "text_len_t5": 6,
    "activation_fn": "gelu-approximate",
}
hunyuan_text = together(
    TEXT,
    embeddings("prompt_embeds_2", 6, WIDTH),
    both_masks,
    masks("prompt_attention_mask_2", "negative_prompt_attention_mask_2"),
    height=128,
    width=128,
    use_resolution_binning=False,
)
absent_hunyuan = ("text_encoder_2", "tokenizer_2", "safety_checker", "feature_extractor")
aura = {
    "sample_size": 16,
    "num_mmdit_layers": 1,
    "num_single_dit_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "caption_projection_dim": 16,
    "pos_embed_max_size": 64,
}
lumina = {
    "sample_size": 16,
    "in_channels": 4,
    "hidden_size": 24,
    "num_layers": 1,
    "num_refiner_layers": 1,
    "num_attention_heads": 3,
    "num_kv_heads": 1,
    "multiple_of": 2,
    "axes_dim_rope": (4, 2, 2),
    "axes_lens": (32, 32, 32),
    "cap_feat_dim": WIDTH,
}
cogview = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "text_embed_dim": WIDTH,
    "time_embed_dim": 8,
    "condition_dim": 2,
    "pos_embed_max_size": 16,
    "sample_size": 16,
}
cogview_text = together(TEXT, height=128, width=128)
chroma = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (2, 2, 4),
    "approximator_num_channels": 8,
    "approximator_hidden_dim": 16,
    "approximator_layers": 1,
}
chroma_masks = masks("prompt_attention_mask", "negative_prompt_attention_mask", dtype=torch.bool)
chroma_text = together(TEXT, chroma_masks, **SIZE)
chroma_image = together(chroma_text, pictures(), strength=0.8)
zimage = {
    "in_channels": 4,
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": WIDTH,
    "axes_dims": [8, 4, 4],
    "axes_lens": [256, 32, 32],
}
hidream = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_channels": [WIDTH, WIDTH],
    "text_emb_dim": 8,
    "num_routed_experts": 2,
    "num_activated_experts": 2,
    "axes_dims_rope": (4, 2, 2),
    "max_resolution": (16, 16),
    "llama_layers": [0, 1],
    "force_inference_output": True,
}


def zimage_text(samples: list[int]) -> dict:
    """Its embeddings are lists, since they differ in length."""
    lists = {name: list(value) for name, value in TEXT(samples).items()}
    return {**lists, **SIZE}


def hidream_text(samples: list[int]) -> dict:
    """Of every layer of a language model: layers come first."""
    llama = embeddings("prompt_embeds_llama3", 2, 6, WIDTH)(samples)
    return {
        **embeddings("prompt_embeds_t5", 6, WIDTH)(samples),
        **embeddings("pooled_prompt_embeds", 8)(samples),
        **{name: value.transpose(0, 1) for name, value in llama.items()},
        "height": 16,
        "width": 16,
    }


absent_hidream = ("vae", *(f"{name}_{i}" for name in NOTHING for i in (2, 3, 4)))
sana_class = (SanaTransformer2DModel, sana)
pixart_class = (PixArtTransformer2DModel, pixart)
hunyuan_class = (HunyuanDiT2DModel, hunyuan)
chroma_class = (ChromaTransformer2DModel, chroma)
zimage_class = (ZImageTransformer2DModel, zimage)
of_zimage = {"scale": {"guidance_scale": 4.0}, "w": 5.0}
with_vae = {"vae": autoencoder}


def deep_autoencoder():
    """Of Sana's kind, with no variance; 32x32x3 <-> 16x16x4."""
    net = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    )
    return net.eval()


def hidream_pipeline(cls, scheduler):
    """It enlarges every picture to a megapixel."""
    pipe = made((HiDreamImageTransformer2DModel, hidream), *absent_hidream)(cls, scheduler)
    pipe.default_sample_size = 16
    return pipe


def hunyuan_controlnet():
    config = {key: value for key, value in hunyuan.items() if key != "num_layers"}
    return lively(HunyuanDiT2DControlNetModel(**config, transformer_num_layers=2))


def zimage_controlnet(channels: int = 4):
    net = ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return lively(net)


CASES = [
    Case("SanaPipeline", made(sana_class, vae=deep_autoencoder), sana_text, FLOW),
    Case(
        "SanaControlNetPipeline",
        made(
            sana_class,
            vae=deep_autoencoder,
            controlnet=lambda: lively(SanaControlNetModel(**{**sana, "num_layers": 1})),
        ),
        together(sana_text, pictures("control_image")),
        FLOW[:1],
    ),
    Case(
        "SanaPAGPipeline",
        made(sana_class, vae=deep_autoencoder),
        together(sana_text, pag_scale=0.5),
        FLOW[:1],
        added=True,
    ),
    Case("PixArtAlphaPipeline", made(pixart_class, "vae"), pixart_text, NOISE[:1]),
    Case("PixArtSigmaPipeline", made(pixart_class, "vae"), pixart_text, NOISE),
    Case(
        "PixArtSigmaPAGPipeline", made(pixart_class, "vae"), together(pixart_text, pag_scale=0.5), NOISE[:1], added=True
    ),
    Case("HunyuanDiTPipeline", made(hunyuan_class, "vae", *absent_hunyuan), hunyuan_text, ("DDIM v", *NOISE)),
    Case(
        "HunyuanDiTControlNetPipeline",
        made(
            hunyuan_class,
            *absent_hunyuan,
            vae=lambda: autoencoder(levels=4),
            controlnet=hunyuan_controlnet,
        ),
        together(hunyuan_text, lambda samples: {"control_image": [PICTURES[i].resize((128, 128)) for i in samples]}),
        ("DDIM v",),
    ),
    Case(
        "HunyuanDiTPAGPipeline",
        made(hunyuan_class, "vae", *absent_hunyuan),
        together(hunyuan_text, pag_scale=0.5),
        ("DDIM v",),
        added=True,
        no_unguided="diffusers' own call fails",
    ),
    Case(
        "AuraFlowPipeline",
        made((AuraFlowTransformer2DModel, aura), "vae", gain=3.0),
        together(TEXT, both_masks, height=128, width=128),
        FLOW[:2],
    ),
    Case(
        "Lumina2Pipeline",
        made((Lumina2Transformer2DModel, lumina), "vae"),
        together(TEXT, both_masks, height=128, width=128, cfg_normalization=False),
        FLOW[:1],
    ),
    Case(
        "Lumina2Pipeline",
        made((Lumina2Transformer2DModel, lumina), "vae"),
        together(TEXT, both_masks, height=128, width=128),
        FLOW[:1],
        variant="normalised",
        renormalised=True,
    ),
    Case(
        "CogView3PlusPipeline",
        made((CogView3PlusTransformer2DModel, cogview), "vae"),
        cogview_text,
        ("CogVideoX DDIM v", "CogVideoX DPM v"),
    ),
    Case(
        "CogView4Pipeline",
        made((CogView4Transformer2DModel, {**cogview, "rope_axes_dim": (16, 16)}), "vae"),
        cogview_text,
        EULERS[:1],
    ),
    Case(
        "CogView4ControlPipeline",
        made((CogView4Transformer2DModel, {**cogview, "in_channels": 8, "rope_axes_dim": (16, 16)}), **with_vae),
        together(TEXT, pictures("control_image"), **SIZE),
        EULERS[:1],
    ),
    Case("ChromaPipeline", made(chroma_class, **with_vae), chroma_text, EULERS[:1]),
    Case("ChromaImg2ImgPipeline", made(chroma_class, **with_vae), chroma_image, EULERS[:1]),
    Case("ZImagePipeline", made(zimage_class, **with_vae), zimage_text, FLOW[:1], **of_zimage),
    Case(
        "ZImagePipeline",
        made(zimage_class, **with_vae),
        together(zimage_text, cfg_normalization=True),
        FLOW[:1],
        **of_zimage,
        variant="normalised",
        renormalised=True,
    ),
    Case(
        "ZImageImg2ImgPipeline",
        made(zimage_class, **with_vae),
        together(zimage_text, pictures(), strength=0.8),
        FLOW[:1],
        **of_zimage,
    ),
    Case(
        "ZImageInpaintPipeline",
        made(zimage_class, **with_vae),
        together(zimage_text, pictures(), strength=0.8, mask_image=MASK),
        FLOW[:1],
        **of_zimage,
    ),
    Case(
        "ZImageControlNetPipeline",
        made(zimage_class, **with_vae, controlnet=zimage_controlnet),
        together(zimage_text, pictures("control_image")),
        FLOW[:1],
        **of_zimage,
    ),
    Case(
        "ZImageControlNetInpaintPipeline",
        made(zimage_class, **with_vae, controlnet=lambda: zimage_controlnet(9)),
        together(
            zimage_text, pictures("control_image"), pictures(), lambda samples: {"mask_image": [MASK for _ in samples]}
        ),
        FLOW[:1],
        **of_zimage,
    ),
    Case("HiDreamImagePipeline", hidream_pipeline, hidream_text, FLOW[:1]),
]
