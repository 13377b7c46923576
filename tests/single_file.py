"""Tiny pipelines written as one file, with the names that Stability AI's files have."""

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from tests.tiny import TEXT_WIDTH, tiny_autoencoder, tiny_pipeline, tiny_text_encoder, tiny_unet
from training.single_file import clip_tokenizer

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
OPENCLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "encoder.layers": "transformer.resblocks",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}


def tiny_base(family: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A tiny pipeline of a family with CLIP's whole vocabulary; its text encoders differ in width, as the real ones."""
    pipe = tiny_pipeline(StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline)
    torch.manual_seed(1)
    pipe.tokenizer = clip_tokenizer("!" if family == "sd2" else "<|endoftext|>")
    pipe.text_encoder = tiny_text_encoder(pipe.tokenizer)
    if family == "sdxl":
        pipe.tokenizer_2 = clip_tokenizer("!")
        pipe.text_encoder_2 = tiny_text_encoder(pipe.tokenizer_2, CLIPTextModelWithProjection, 2 * TEXT_WIDTH)
        pipe.unet = tiny_unet(
            cross_attention_dim=3 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=2 * TEXT_WIDTH + 6 * 8,
        )
    pipe.vae = tiny_autoencoder()
    return pipe


def save_single_file(
    pipe: StableDiffusionPipeline, family: str, path: Path, marks: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    tensors = _under("model.diffusion_model.", _unet(pipe.unet)) | _under("first_stage_model.", _vae(pipe.vae))
    plain = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in pipe.text_encoder.state_dict().items()}
    match family:
        case "sd1":
            tensors |= _under("cond_stage_model.transformer.", plain)
        case "sd2":
            tensors |= _under("cond_stage_model.model.", _openclip(pipe.text_encoder))
        case "sdxl":
            tensors |= _under("conditioner.embedders.0.transformer.", plain)
            tensors |= _under("conditioner.embedders.1.model.", _openclip(pipe.text_encoder_2))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()} | marks, path, metadata)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _renamed(module: nn.Module, names: dict[str, str], inner: dict[str, str]) -> dict[str, Tensor]:
    """The tensors below each name under the other one, with what is inside of residual blocks renamed too."""
    renamed = {}
    for key, tensor in module.state_dict().items():
        name = max((name for name in names if key.startswith(f"{name}.")), key=len, default="")
        rest = key[len(name) :]
        first = rest.lstrip(".").split(".")[0]
        if first in inner:
            rest = rest.replace(first, inner[first], 1)
        renamed[names.get(name, "") + rest] = tensor
    return renamed


def _unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    names, number = dict(ENDS), 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            names[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            names[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        number += 1
    number = 0
    for i, block in enumerate(unet.up_blocks):
        attends = getattr(block, "attentions", None) is not None
        for j in range(len(block.resnets)):
            names[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            names[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        names[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{1 + attends}.conv"
    return _renamed(unet, names, RESNET)


def _vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    names, levels = {}, len(vae.config.block_out_channels)
    for half, blocks in (("encoder.down", vae.encoder.down_blocks), ("decoder.up", vae.decoder.up_blocks)):
        side, way = half.split(".")
        for i, block in enumerate(blocks):
            level = i if way == "down" else levels - 1 - i
            for j in range(len(block.resnets)):
                names[f"{half}_blocks.{i}.resnets.{j}"] = f"{half}.{level}.block.{j}"
            names[f"{half}_blocks.{i}.{way}samplers.0.conv"] = f"{half}.{level}.{way}sample.conv"
        names |= {f"{side}.mid_block.resnets.{j}": f"{side}.mid.block_{j + 1}" for j in range(2)}
        names[f"{side}.conv_norm_out"] = f"{side}.norm_out"
    return _renamed(vae, names, {"conv_shortcut": "nin_shortcut"})


def _openclip(encoder: nn.Module) -> dict[str, Tensor]:
    tensors, fused = {}, {}
    for key, tensor in encoder.state_dict().items():
        key = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            tensors["text_projection"] = tensor.T
            continue
        for name, other in OPENCLIP.items():
            key = key.replace(name, other)
        part = re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.(\w+)", key)
        if part:
            fused.setdefault(f"{part[1]}attn.in_proj_{part[3]}", {})[part[2]] = tensor
        else:
            tensors[key] = tensor
    return tensors | {name: torch.cat([three[letter] for letter in "qkv"]) for name, three in fused.items()}
