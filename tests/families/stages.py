"""Several stages, each a pipeline: Stable Cascade, Kandinsky 2.2, DeepFloyd IF."""

import torch
from diffusers import DDPMScheduler, PriorTransformer, StableCascadeUNet, VQModel
from PIL import Image
from transformers import CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.families.case import MASK, Case, embeddings, lively, pictures, prompts, together
from tests.families.flows import WIDTH
from tests.tiny import TEXT_WIDTH, tiny_text_encoder, tiny_tokenizer, tiny_unet

TEXT = embeddings("prompt_embeds", 6, WIDTH)


def cascade(cls, scheduler):
    first = "Prior" in cls.__name__
    tokenizer = tiny_tokenizer()
    encoder = tiny_text_encoder(tokenizer, CLIPTextModelWithProjection)
    of_first = {"clip_image_in_channels": WIDTH, "clip_text_in_channels": TEXT_WIDTH}
    net = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_pooled_in_channels=TEXT_WIDTH,
        **(of_first if first else {"effnet_in_channels": 4}),
    )
    parts = {"prior": lively(net)} if first else {"decoder": lively(net), "vqgan": None}
    return cls(tokenizer=tokenizer, text_encoder=encoder, scheduler=scheduler, **parts)


def previous_stage(samples: list[int]) -> dict:
    made = embeddings("image_embeddings", 4, 4, 4)(samples)
    return {"image_embeddings": made["image_embeddings"]}


def kandinsky_prior(cls, scheduler):
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=TEXT_WIDTH,
    )
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=TEXT_WIDTH, num_layers=1, num_embeddings=77
    )
    return cls(
        prior=lively(prior),
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        text_encoder=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        scheduler=scheduler,
        image_processor=None,
    )


def earlier_embeddings(samples: list[int]) -> dict:
    return {"image": embeddings("image", TEXT_WIDTH)(samples)["image"]}


def kandinsky(cls, scheduler):
    name = cls.__name__
    unet = tiny_unet(
        {"Inpaint": 9, "Control": 8}.get(next((key for key in ("Inpaint", "Control") if key in name), ""), 4),
        out_channels=8,
        addition_embed_type="image_hint" if "Control" in name else "image",
        encoder_hid_dim=TEXT_WIDTH,
        encoder_hid_dim_type="image_proj",
    )
    movq = VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=8,
        vq_embed_dim=4,
        mid_block_add_attention=False,
    )
    return cls(unet=unet, scheduler=scheduler, movq=movq.eval())


def hints(samples: list[int]) -> dict:
    return {"hint": torch.stack([torch.linspace(-1, 1 + i, 3 * 128 * 128).reshape(3, 128, 128) for i in samples])}


def deepfloyd(cls, scheduler):
    larger = "SuperResolution" in cls.__name__
    unet = tiny_unet(
        6 if larger else 3,
        out_channels=6,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        cross_attention_dim=TEXT_WIDTH,
        **({"class_embed_type": "timestep"} if larger else {}),
    )
    return cls(
        tokenizer=None,
        text_encoder=None,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
        **({"image_noising_scheduler": DDPMScheduler()} if larger else {}),
    )


def small(name: str):
    return lambda samples: {name: [Image.new("RGB", (16, 16), ("orange", "teal")[i]) for i in samples]}


def stage_embeddings(samples: list[int]) -> dict:
    made = embeddings("image_embeds", TEXT_WIDTH)(samples)
    return {"image_embeds": made["image_embeds"], "negative_image_embeds": made["negative_image_embeds"]}


LEARNED = ("DDPM, learned variance",)
THRESHOLDING = ("DDPM, learned variance, thresholding",)
image_embeds = together(stage_embeddings, height=32, width=32)
floyd_larger = together(TEXT, small("image"))

CASES = [
    Case(
        "StableCascadePriorPipeline",
        cascade,
        together(prompts, height=512, width=512),
        ("Wuerstchen",),
        output="pt",
    ),
    Case("StableCascadeDecoderPipeline", cascade, together(prompts, previous_stage), ("Wuerstchen",)),
    Case("KandinskyV22PriorPipeline", kandinsky_prior, prompts, ("UnCLIP",), output="pt"),
    Case(
        "KandinskyV22PriorEmb2EmbPipeline",
        kandinsky_prior,
        together(prompts, earlier_embeddings, strength=0.8),
        ("UnCLIP",),
        output="pt",
    ),
    Case("KandinskyV22Pipeline", kandinsky, image_embeds, (*LEARNED, "DDPM")),
    Case("KandinskyV22Img2ImgPipeline", kandinsky, together(image_embeds, pictures(), strength=0.8), LEARNED),
    Case(
        "KandinskyV22InpaintPipeline",
        kandinsky,
        together(image_embeds, pictures(), mask_image=MASK),
        LEARNED,
        alone=True,
    ),
    Case("KandinskyV22ControlnetPipeline", kandinsky, together(image_embeds, hints), LEARNED, output="pt"),
    Case(
        "KandinskyV22ControlnetImg2ImgPipeline",
        kandinsky,
        together(image_embeds, hints, pictures(), strength=0.8),
        LEARNED,
        output="pt",
    ),
    Case("IFPipeline", deepfloyd, together(TEXT, height=16, width=16), (*LEARNED, *THRESHOLDING, "DDPM"), output="pt"),
    Case("IFImg2ImgPipeline", deepfloyd, together(floyd_larger, strength=0.8), LEARNED, output="pt"),
    Case(
        "IFInpaintingPipeline",
        deepfloyd,
        together(floyd_larger, strength=0.8, mask_image=MASK.resize((16, 16))),
        LEARNED,
        output="pt",
    ),
    Case("IFSuperResolutionPipeline", deepfloyd, together(floyd_larger, height=32, width=32), LEARNED, output="pt"),
    Case(
        "IFImg2ImgSuperResolutionPipeline",
        deepfloyd,
        together(floyd_larger, pictures("original_image"), strength=0.8),
        LEARNED,
        output="pt",
    ),
    Case(
        "IFInpaintingSuperResolutionPipeline",
        deepfloyd,
        together(floyd_larger, pictures("original_image"), strength=0.8, mask_image=MASK),
        LEARNED,
        output="pt",
    ),
]
