"""Tiny real pipelines, built in code: every part is the real class, only narrow."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TEXT_WIDTH = 32
CAPTION_WORDS = ["[DEC]", "a", "red", "cat", "on", "the", "table"]
COLOURS = {"content": "red", "style": "blue", "other_contents": "green", "other_styles": "orange"}


def write_pictures(folder: Path) -> None:
    """Three small pictures of each kind that a project names, in folders of their own; a style's say what they show."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(3):
            picture = Image.new("RGB", (40, 32), colour)
            picture.paste("white", (4 * i + 4, 4, 4 * i + 16, 20))
            picture.save(folder / name / f"picture-{i}.png")
            if name == "style":
                (folder / name / f"picture-{i}.txt").write_text(f"thing {i}, {{placeholder}} style")


def tiny_tokenizer() -> CLIPTokenizer:
    """Every byte, alone and at a word's end, then start and end: each text has tokens, none is unknown."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def tiny_text_encoder(tokenizer: CLIPTokenizer, cls=CLIPTextModel, width: int = TEXT_WIDTH) -> CLIPTextModel:
    return cls(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def tiny_captioner(folder: Path) -> Path:
    """A BLIP in a folder, which says some of `CAPTION_WORDS` of any picture."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CAPTION_WORDS]
    ends = {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    text = small | ends | {"vocab_size": len(words), "encoder_hidden_size": 16}
    config = BlipConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizer({word: i for i, word in enumerate(words)})
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def tiny_autoencoder(channels: int = 4) -> AutoencoderKL:
    """32x32x3 <-> 16x16xchannels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=32,
    ).eval()


def tiny_unet(in_channels: int = 4, **config) -> UNet2DConditionModel:
    """Three levels, the two lower ones with self- and cross-attention; `config` changes that."""
    settings = {
        "sample_size": 16,
        "in_channels": in_channels,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": TEXT_WIDTH,
    }
    return UNet2DConditionModel(**settings | config).eval()


def tiny_pipeline(
    cls=StableDiffusionPipeline, prediction_type: str = "epsilon", scheduler=None, seed: int = 0, in_channels: int = 4
):
    """A Stable Diffusion pipeline of any class with that layout, or an SDXL one; the same weights for the same seed.

    Args:
        prediction_type: of the default scheduler, a plain DDIM.
        in_channels: of the denoiser; 9 for an inpainting model.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    scheduler = scheduler or DDIMScheduler(
        prediction_type=prediction_type, clip_sample=False, timestep_spacing="trailing", steps_offset=1
    )
    if issubclass(cls, StableDiffusionXLPipeline) or "XL" in cls.__name__:
        pipe = cls(
            vae=tiny_autoencoder(),
            text_encoder=tiny_text_encoder(tokenizer),
            text_encoder_2=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=tiny_unet(
                cross_attention_dim=2 * TEXT_WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 8,
            ),
            scheduler=scheduler,
        )
    else:
        pipe = cls(
            vae=tiny_autoencoder(),
            text_encoder=tiny_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=tiny_unet(in_channels),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
