"""Stable Diffusion 1.x and 2.x, SDXL, Kolors: one UNet, every task."""

import io
import tempfile
from pathlib import Path

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, DDPMScheduler, T2IAdapter
from transformers import CLIPTextModelWithProjection

from tests.families.case import MASK, PROMPTS, Case, lively, pictures, prompts, together
from tests.families.schedulers import NOISE
from tests.tiny import TEXT_WIDTH, tiny_autoencoder, tiny_text_encoder, tiny_tokenizer, tiny_unet

SIZE = {"height": 32, "width": 32}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 8,
}
TWO_LEVELS = {  # a T2I-adapter adds to what attention has seen, from the first level on
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def controlnet(unet, cls=ControlNetModel):
    """Fresh ones are silent: their last layers are zero."""
    net = cls.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    if cls is ControlNetUnionModel:  # its transformer does not take its width from the UNet
        net = cls.from_config(net.config, num_trans_channel=8, num_trans_head=2, num_proj_channel=8)
    return lively(net)


def make(channels: int = 4, **config):
    """A maker of pipelines whose UNet has so many input channels."""

    def pipeline(cls, scheduler):
        name, tokenizer = cls.__name__, tiny_tokenizer()
        large = "XL" in name
        extra, shape = {}, {}
        if large:
            shape |= {"cross_attention_dim": 2 * TEXT_WIDTH, **XL}
            extra |= {
                "text_encoder_2": tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
                "tokenizer_2": tokenizer,
            }
        else:
            extra |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        if "Adapter" in name:
            shape |= TWO_LEVELS
            extra["adapter"] = T2IAdapter(
                in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
            ).eval()
        if "Upscale" in name:
            extra = {"low_res_scheduler": DDPMScheduler()}
        if "Depth" in name:
            extra = {"depth_estimator": None, "feature_extractor": None}
        unet = tiny_unet(channels, **shape | config)
        if "ControlNetUnion" in name:
            extra["controlnet"] = controlnet(unet, ControlNetUnionModel)
        elif "ControlNet" in name:
            extra["controlnet"] = controlnet(unet)
        return cls(
            vae=tiny_autoencoder(),
            text_encoder=tiny_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            **extra,
        )

    return pipeline


def kolors(cls, scheduler):
    """With its text encoder, since diffusers' image to image drops the pooled embeddings that it is given."""
    import sentencepiece
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    with tempfile.TemporaryDirectory() as folder:
        pieces = Path(folder, "pieces.model")
        words = io.BytesIO()

        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(PROMPTS * 50),
            model_writer=words,
            vocab_size=30,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        pieces.write_bytes(words.getvalue())
        tokenizer = ChatGLMTokenizer(str(pieces))
    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=1,
            padded_vocab_size=64,
            hidden_size=TEXT_WIDTH,
            ffn_hidden_size=TEXT_WIDTH,
            kv_channels=8,
            num_attention_heads=4,
            multi_query_attention=True,
            multi_query_group_num=2,
            add_qkv_bias=True,
            original_rope=True,
        )
    )
    for parameter in encoder.parameters():  # it leaves its weights as they lay in memory
        torch.nn.init.normal_(parameter, std=0.2)
    unet = tiny_unet(encoder_hid_dim=TEXT_WIDTH, encoder_hid_dim_type="text_proj", **XL)
    return cls(vae=tiny_autoencoder(), text_encoder=encoder.eval(), tokenizer=tokenizer, unet=unet, scheduler=scheduler)


def depth_maps(samples: list[int]) -> dict:
    return {"depth_map": torch.stack([torch.linspace(0, 1 + i, 32 * 32).reshape(32, 32) for i in samples])}


SOME = ("DDIM", "DPM++ 2M karras", "Euler ancestral", "Heun")
text = together(prompts, **SIZE)
image = together(prompts, pictures(), strength=0.8)
inpaint = together(image, **SIZE, mask_image=MASK)
control = together(prompts, pictures())
control_image = together(image, pictures("control_image"))
control_inpaint = together(inpaint, pictures("control_image"))
union = together(prompts, pictures("control_image"), control_mode=0)
pag = {"pag_scale": 0.5}

CASES = [
    Case("StableDiffusionPipeline", make(), text, SOME, elsewhere=tuple(NOISE)),
    Case("StableDiffusionImg2ImgPipeline", make(), image, SOME),
    Case("StableDiffusionInpaintPipeline", make(), inpaint, SOME),
    Case("StableDiffusionInpaintPipeline", make(9), inpaint, SOME, variant="9 channels"),
    Case("StableDiffusionControlNetPipeline", make(), control, SOME),
    Case("StableDiffusionControlNetPipeline", make(), together(control, guess_mode=True), variant="guess mode"),
    Case("StableDiffusionControlNetImg2ImgPipeline", make(), control_image),
    Case("StableDiffusionControlNetInpaintPipeline", make(), control_inpaint),
    Case("StableDiffusionDepth2ImgPipeline", make(5), together(image, depth_maps), SOME),
    Case("StableDiffusionUpscalePipeline", make(7, num_class_embeds=1000), control, ("DDIM v", *SOME)),
    Case("StableDiffusionAdapterPipeline", make(), together(control, **SIZE), SOME),
    Case("StableDiffusionPAGPipeline", make(), together(text, **pag), SOME, added=True),
    Case("StableDiffusionPAGImg2ImgPipeline", make(), together(image, **pag), added=True),
    Case("StableDiffusionPAGInpaintPipeline", make(), together(inpaint, **pag), added=True),
    Case("StableDiffusionControlNetPAGPipeline", make(), together(control, **pag), added=True),
    Case("StableDiffusionControlNetPAGInpaintPipeline", make(), together(control_inpaint, **pag), added=True),
    Case("StableDiffusionXLPipeline", make(), text, SOME),
    Case("StableDiffusionXLImg2ImgPipeline", make(), image, SOME),
    Case("StableDiffusionXLImg2ImgPipeline", make(), together(image, denoising_start=0.4), variant="hand-over"),
    Case("StableDiffusionXLInpaintPipeline", make(), inpaint, SOME),
    Case("StableDiffusionXLInpaintPipeline", make(9), inpaint, variant="9 channels"),
    Case("StableDiffusionXLControlNetPipeline", make(), control, SOME),
    Case("StableDiffusionXLControlNetPipeline", make(), together(control, guess_mode=True), variant="guess mode"),
    Case("StableDiffusionXLControlNetImg2ImgPipeline", make(), control_image),
    Case("StableDiffusionXLControlNetInpaintPipeline", make(), control_inpaint),
    Case("StableDiffusionXLControlNetUnionPipeline", make(), union, alone=True),
    Case(
        "StableDiffusionXLControlNetUnionImg2ImgPipeline", make(), together(control_image, control_mode=0), alone=True
    ),
    Case(
        "StableDiffusionXLControlNetUnionInpaintPipeline", make(), together(control_inpaint, control_mode=0), alone=True
    ),
    Case("StableDiffusionXLAdapterPipeline", make(), together(control, **SIZE)),
    Case("StableDiffusionXLPAGPipeline", make(), together(text, **pag), SOME, added=True),
    Case("StableDiffusionXLPAGImg2ImgPipeline", make(), together(image, **pag), added=True),
    Case("StableDiffusionXLPAGInpaintPipeline", make(), together(inpaint, **pag), added=True),
    Case("StableDiffusionXLControlNetPAGPipeline", make(), together(control, **pag), added=True),
    Case("StableDiffusionXLControlNetPAGImg2ImgPipeline", make(), together(control_image, **pag), added=True),
    Case("KolorsPipeline", kolors, text, SOME, needs="sentencepiece"),
    Case("KolorsImg2ImgPipeline", kolors, image, needs="sentencepiece"),
    Case("KolorsPAGPipeline", kolors, together(text, **pag), added=True, needs="sentencepiece"),
]
