"""Adapter files of any trainer: which layers of a pipeline they adapt, and by what factors."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipelines.errors import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# X.lora_A.weight, with an adapter's name perhaps (peft); X.lora_down.weight (kohya, ComfyUI); X_lora.down.weight and
# X.lora.down.weight (diffusers once).
FACTOR = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<new>A|B|down|up)(?:\.\w+)?|(?:_lora|\.lora|\.lora_linear_layer)\.(?P<old>down|up))\.weight"
)
OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "boft_": "a BOFT",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "on_input": "an (IA)3",
    ".a1.weight": "a GLoRA",
    ".diff": "a difference of whole weights",
}
DENOISER = (
    "unet.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
    "model.diffusion_model.",
    "diffusion_model.",
    "",
)
TEXT_ENCODERS = {
    "text_encoder": ("text_encoder.", "lora_te_", "lora_te1_", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."),
}


@dataclass(frozen=True)
class Factors:
    """What is added to a layer: alpha / rank * up @ down.

    Args:
        down: (rank, inputs), or (rank, inputs, height, width) of a convolution.
        up: (outputs, rank), or (outputs, rank, 1, 1).
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)


Layers = dict[str, dict[str, Factors]]  # component of the pipeline -> module in it -> factors


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: it is not there or is not safetensors (a pickle, whatever its name).
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, without its tensors.

    Raises:
        UserError: as `read_file`.
    """
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise OSError("no file")
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:  # the library says so of one that may not be read, too
        gone = "may not be read" if path.exists() else "does not exist"
        raise UserError(f"The adapter {path} {gone}", "Mend the path, or the right to read it") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error})",
            "Load an adapter in safetensors format; pickles (.pt, .bin, .ckpt) can run foreign code and are refused",
        ) from None


def find_layers(
    pipe: DiffusionPipeline, tensors: dict[str, Tensor], metadata: dict[str, str], path: Path
) -> tuple[Layers, list[str]]:
    """The layers of a pipeline that a file adapts, and those that it names and the pipeline does not have.

    Read are the names of peft, diffusers, kohya and ComfyUI, with a UNet's blocks as diffusers or as its authors
    number them, and what diffusers converts for a family.

    Raises:
        UserError: it is no LoRA, changes nothing here, or does not fit; with the reason.
    """
    if not tensors:
        raise UserError(f"The adapter {path} holds no tensors", "Choose another file")
    for mark, kind in OTHER_KINDS.items():
        if any(mark in key for key in tensors):
            raise UserError(
                f"The adapter {path} is {kind}, which is not read here", "Convert it to a LoRA, or merge it"
            )
    named = _factors(tensors, _alphas(metadata, path), path)
    if not named:
        raise UserError(
            f"The adapter {path} holds no layers of a LoRA ({len(tensors)} tensors, {next(iter(tensors))} among them)",
            "Choose a LoRA in the names of diffusers, peft, kohya or ComfyUI",
        )
    found, unknown = _match(pipe, named)
    if unknown and (converted := _converted(pipe, tensors)) is not None:
        other = _match(pipe, _factors(converted, _alphas(metadata, path), path))
        if sum(map(len, other[0].values())) > sum(map(len, found.values())):
            found, unknown = other
    if not found:
        raise UserError(
            f"The adapter {path} changes nothing here: none of its {len(named)} layers is one of this base "
            f"({unknown[0]} is the first)",
            "Load it on a base of the family that it was trained on",
        )
    _check(pipe, found, path)
    return found, unknown


def _factors(tensors: dict[str, Tensor], alphas: dict[str, float], path: Path) -> dict[str, Factors]:
    """Of each layer as the file names it, where it has both factors."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if match := FACTOR.fullmatch(key):
            which = "down" if (match["new"] or match["old"]) in ("A", "down") else "up"
            if tensor.ndim < 2:
                raise UserError(f"{key} in {path} is {list(tensor.shape)}, which is no factor", "Export it anew")
            parts.setdefault(match["layer"], {})[which] = tensor
    factors = {}
    for layer, part in parts.items():
        if part.keys() == {"down", "up"}:
            rank = len(part["down"])
            usual = alphas.get(layer.removeprefix("base_model.model."), alphas.get("", rank))
            alpha = tensors.get(f"{layer}.alpha", usual)
            if isinstance(alpha, Tensor) and alpha.numel() != 1:
                raise UserError(
                    f"The alpha of {layer} in {path} is {list(alpha.shape)}", "Export it anew, as one number"
                )
            factors[layer] = Factors(part["down"], part["up"], float(alpha))
    return factors


def _alphas(metadata: dict[str, str], path: Path) -> dict[str, float]:
    """By layer, "" for all others, as peft keeps them: in the file's metadata (diffusers) or in a file beside it."""
    beside = path.with_name("adapter_config.json")
    try:
        if "lora_adapter_metadata" in metadata:
            settings = json.loads(metadata["lora_adapter_metadata"])
        else:
            settings = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        alphas = {"": settings["lora_alpha"]} if "lora_alpha" in settings else {}
        alphas |= settings.get("alpha_pattern") or {}
        for component in ("unet", "transformer", "text_encoder", "text_encoder_2"):
            if f"{component}.lora_alpha" in settings:
                alphas.setdefault("", settings[f"{component}.lora_alpha"])
            pattern = settings.get(f"{component}.alpha_pattern") or {}
            alphas |= {f"{component}.{layer}": alpha for layer, alpha in pattern.items()}
        rank = settings.get("r") if settings.get("use_rslora") else None
        return {layer: float(alpha) * (math.sqrt(rank) if rank else 1) for layer, alpha in alphas.items()}
    except (ValueError, TypeError, AttributeError, KeyError, OSError, RecursionError) as error:
        raise UserError(f"What {path} says of its alpha cannot be read ({error})", "Export it anew") from None


def _converted(pipe: DiffusionPipeline, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """In diffusers' names, if it has a converter for the family that takes this file."""
    convert = getattr(pipe, "lora_state_dict", None)
    if convert is None:
        return None
    wanted = {"return_alphas": True} if "return_alphas" in inspect.signature(convert).parameters else {}
    try:
        result = convert(dict(tensors), **wanted)
    except Exception:  # converters of some forty families end in anything when a file is not for them
        return None
    state, alphas = result if isinstance(result, tuple) else (result, None)
    return state | {key: torch.tensor(float(alpha)) for key, alpha in (alphas or {}).items()}


def _match(pipe: DiffusionPipeline, named: dict[str, Factors]) -> tuple[Layers, list[str]]:
    tables = {component: (prefixes, layer_names(module)) for component, prefixes, module in _components(pipe)}
    found: Layers = {}
    unknown = []
    for layer, factors in named.items():
        bare = layer.removeprefix("base_model.model.")
        for component, (prefixes, names) in tables.items():
            flat = (_flat(bare.removeprefix(prefix)) for prefix in prefixes if bare.startswith(prefix))
            if name := next((names[key] for key in flat if key in names), None):
                found.setdefault(component, {})[name] = factors
                break
        else:
            unknown.append(layer)
    return found, unknown


def _components(pipe: DiffusionPipeline) -> Iterator[tuple[str, tuple[str, ...], nn.Module]]:
    """Name, prefixes and module of what adapters change; the denoiser last, since its layers may have no prefix."""
    for name, prefixes in (*TEXT_ENCODERS.items(), ("unet", DENOISER), ("transformer", DENOISER)):
        if isinstance(module := getattr(pipe, name, None), nn.Module):
            yield name, prefixes, unwrapped(module)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` has wrapped."""
    return getattr(module, "_orig_mod", module)


def _flat(name: str) -> str:
    return name.replace(".processor.", ".").replace(".", "_")


def layer_names(module: Any) -> dict[str, str]:
    """Every name that a file may have for a layer, with underscores for dots -> its name in the module."""
    layers = [
        name
        for name, layer in module.named_modules()
        if _sizes(layer) and "lora_" not in name and not name.endswith(".base_layer")
    ]
    names = {_flat(name): name for name in layers}
    if hasattr(module, "down_blocks") and hasattr(module, "up_blocks"):
        depth = len(module.down_blocks[0].resnets)
        for name in layers:
            theirs = original_name(name, depth)
            for alias in (theirs, theirs.replace(".2.conv", ".1.conv")):  # the second where nothing attends before
                names.setdefault(_flat(alias), name)
    for name in layers:
        if name.endswith("to_out.0"):
            names.setdefault(_flat(name.removesuffix(".0")), name)
        old = name.replace("out_proj", "to_out")
        for letter in "qkv":
            old = old.replace(f"{letter}_proj", f"to_{letter}")
        for alias in (name, old):  # of CLIP, whose inner model had a name once
            names.setdefault(_flat(alias.removeprefix("text_model.")), name)
            names.setdefault(_flat("text_model." + alias), name)
    return names


RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


KINDS = {"resnets": 0, "attentions": 1, "upsamplers": 2}
BLOCK = re.compile(
    r"(?P<way>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>resnets|attentions|(?:down|up)samplers)\.(?P<place>\d+)"
)


def original_name(name: str, depth: int) -> str:
    """What a UNet's authors call one of its layers, with them ComfyUI, and of SDXL kohya's scripts.

    Args:
        name: in diffusers.
        depth: residual blocks of each of its blocks on the way down; on the way up there is one more.
    """
    if found := BLOCK.match(name):
        first = int(found["block"]) * (depth + 1)
        if found["kind"] == "downsamplers":
            return f"input_blocks.{first + depth + 1}.0.op"
        last = depth if found["kind"] == "upsamplers" else int(found["place"])
        way, number = ("output", first + last) if found["way"] == "up" else ("input", first + last + 1)
        start, rest = f"{way}_blocks.{number}.{KINDS[found['kind']]}", name[found.end() :]
    else:
        ours = next((part for part in TOP if name == part or name.startswith(f"{part}.")), "")
        start, rest = TOP.get(ours, ""), name[len(ours) :]
    if ".resnets." in name:
        for part, original in RESNET.items():
            rest = rest.replace(f".{part}", f".{original}")
    return start + rest


def _sizes(layer: nn.Module) -> tuple | None:
    """Inputs, outputs and kernel of a layer that factors fit; None of any other."""
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    if isinstance(base, nn.Conv2d):
        return base.in_channels, base.out_channels, tuple(base.kernel_size)
    if hasattr(base, "in_features") and hasattr(base, "out_features"):  # of whatever quantization
        return base.in_features, base.out_features, ()
    return None


def _as_computed(factor: Tensor) -> Tensor:
    """What is kept in eight bits, or in whole numbers, as something that can be computed with."""
    return factor if factor.is_floating_point() and factor.element_size() > 1 else factor.float()


def _check(pipe: DiffusionPipeline, found: Layers, path: Path) -> None:
    """Bring all factors to their layers' shape; refuse what does not fit, or changes nothing."""
    for component, layers in found.items():
        module = unwrapped(getattr(pipe, component))
        for name, factors in layers.items():
            sizes = _sizes(module.get_submodule(name))
            assert sizes is not None  # `find_layers` gives layers that factors fit
            inputs, outputs, kernel = sizes
            down, up = (_as_computed(factor) for factor in (factors.down, factors.up))
            # A convolution of one pixel is a linear layer, and trainers write either.
            if not kernel and down.shape[2:] == (1, 1):
                down, up = down.flatten(1), up.flatten(1)
            elif kernel == (1, 1) and down.ndim == 2:
                down, up = down[..., None, None], up[..., None, None]
            rank = len(down)
            ones = (1,) * len(kernel)
            if tuple(down.shape) != (rank, inputs, *kernel) or tuple(up.shape) != (outputs, rank, *ones):
                raise UserError(
                    f"The adapter {path} does not fit this base: {name} has {inputs} inputs and {outputs} outputs, "
                    f"and its factors are {list(down.shape)} and {list(up.shape)}",
                    "Load it on the base model that it was trained on",
                )
            if not rank:
                raise UserError(f"The adapter {path} has a rank of 0 in {name}", "Export it anew")
            if not (down.isfinite().all() and up.isfinite().all() and math.isfinite(factors.alpha)):
                raise UserError(f"The adapter {path} is not finite in {name}", "Train it again, from a lower rate")
            layers[name] = Factors(down.contiguous(), up.contiguous(), factors.alpha)
    if not any(layer.up.any() and layer.down.any() for layers in found.values() for layer in layers.values()):
        raise UserError(f"The adapter {path} changes nothing: its factors are zero", "Train it, or choose another file")
