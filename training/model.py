"""The base model as training sees it: opened from a folder, a file or the hub; pictures, prompts, and its own loss.

What differs between families of bases lies in `training.families`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from pipelines.adapters import fingerprint
from pipelines.errors import UserError, first_line
from pipelines.fingerprint import is_quantized
from training import processes
from training.captions import Reader
from training.families import FAMILIES, Family, denoiser_of, family_of
from training.families.family import PARTS
from training.four_bits import quantize
from training.memory import card_has_bf16
from training.optimizers.outlier import blocks_of
from training.recognise import Base, read_json, recognise, variant
from training.state import all_finite

log = logging.getLogger("joinery")

UNDECIDING = ("dtype", "torch_dtype", "transformers_version", "architectures", "model_type", "sample_size")


def device() -> torch.device:
    """Where accelerate computes: the GPU if there is one."""
    return processes.state().device


def dtype(precision: str) -> torch.dtype:
    """In which the frozen base computes: "auto" and "nf4" in bf16 on a GPU that has it, and in float32 elsewhere.

    fp16 only where it is asked for: gradients of a small loss vanish in it, which the loop scales for that.
    """
    if precision == "fp16":
        return torch.float16
    if precision == "bf16" and device().type == "cuda" and not card_has_bf16():
        log.warning(
            'This GPU has no bf16 and emulates it, slowly: memory = "auto" or precision = "fp16" suit it better'
        )
    narrow = precision == "bf16" or (precision in ("auto", "nf4") and device().type == "cuda" and _computes_bf16())
    return torch.bfloat16 if narrow else torch.float32


def fast_dtype() -> torch.dtype:
    """What the base's networks are made in: bf16 where it is fast, else float32."""
    narrow = _computes_bf16() if device().type in ("cpu", "cuda") else True
    return torch.bfloat16 if narrow else torch.float32


def _computes_bf16() -> bool:
    """Whether it is fast there: on NVIDIA's from Ampere on, and on CPUs that multiply tiles of it.

    AVX-512 has instructions for it too, but a step of the base takes longer with them than in float32.
    """
    if device().type == "cuda":
        return card_has_bf16()
    return torch.cpu._is_amx_tile_supported()


def autocast() -> torch.autocast:
    """Computes in `fast_dtype` inside the block."""
    return torch.autocast(device().type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16)


def open_base(
    base: str, precision: str = "auto", prediction: str | None = None, zero_snr: bool | None = None
) -> DiffusionPipeline:
    """Open a base model, frozen, for inference.

    Args:
        base: a diffusers folder, one safetensors file, or a hub id.
        prediction: of its family's `predictions`, where what the base says of itself is not to be believed.
        zero_snr: likewise, whether its noise schedule ends in pure noise.
    Raises:
        UserError: it is not there, cannot be read, is of a kind that cannot be customized yet, or a part of it is
            missing or not finite.
    """
    found = recognise(base).told(prediction, zero_snr)
    found.check_opens()
    family = FAMILIES[found.family]
    if precision == "fp16" and not family.fp16:
        raise UserError(
            f"precision is 'fp16', in which {family.title} does not compute soundly", 'Set it to "auto" or "nf4"'
        )
    try:
        if os.path.isfile(base):
            pipe = family.open_file(base, dtype(precision))
        else:
            pipe = _open_folder(found, family, dtype(precision))
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"The base model {base!r} cannot be opened ({first_line(error)})",
            "Set base to a diffusers folder, a .safetensors file, or a hub id",
        ) from None
    _check_whole(pipe, family, base)
    pipe.scheduler = family.told(pipe.scheduler, found.prediction, found.zero_snr)
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval()
    if precision == "nf4":
        denoiser = denoiser_of(pipe)
        quantize(denoiser, blocks_of(denoiser, blocks=family.blocks).values(), device())
    return pipe.to(device())


def _open_folder(found: Base, family: Family, narrow: torch.dtype) -> DiffusionPipeline:
    """A folder's networks one by one, each with the weights that it has, then the rest.

    Safetensors only: a pickle from a stranger runs whatever its author liked.
    """
    base = found.name
    folder = Path(base) if os.path.isdir(base) else _download(found)
    index, networks, safe = read_json(folder / "model_index.json"), {}, {"dtype": narrow, "use_safetensors": True}
    for part in family.networks:
        library, name = index.get(part) or ("", "")
        if library not in ("diffusers", "transformers"):
            continue
        kind = getattr(import_module(library), name, None)
        if kind is None:
            raise UserError(
                f"The {PARTS[part]} of the base model {base!r} is of the unknown class {name}",
                f"Choose another base, or a version of {library} that has it",
            )
        own = {"variant": variant(folder / part) or None, "output_loading_info": True}
        networks[part], info = kind.from_pretrained(folder / part, **safe, **own)
        if info["missing_keys"]:
            raise _incomplete(base, part, min(info["missing_keys"]), "is missing")
    others = variant(folder / "safety_checker")
    return DiffusionPipeline.from_pretrained(folder, variant=others or None, **safe, **networks)


def _download(found: Base) -> Path:
    """The folder of a hub id's files; those in half precision where it has no others.

    Raises:
        UserError: a part of it is missing.
    """
    try:
        folder = DiffusionPipeline.download(found.name, use_safetensors=True)
    except OSError:
        folder = DiffusionPipeline.download(found.name, use_safetensors=True, variant="fp16")
    replace(recognise(str(folder)), name=found.name, prediction=found.prediction).check_opens()
    return Path(folder)


def _check_whole(pipe: DiffusionPipeline, family: Family, base: str) -> None:
    """Raises UserError: a tensor of a network was not in the file, or holds what is no number."""
    for part in family.networks:
        network = getattr(pipe, part, None)
        tensors = network.state_dict() if network is not None else {}
        for name in (name for name, tensor in tensors.items() if tensor.is_meta):
            raise _incomplete(base, part, name, "is missing")
        numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
        if not all_finite(numbers.values()):
            name = next(name for name, tensor in numbers.items() if not all_finite([tensor]))
            raise _incomplete(base, part, name, "holds numbers that are not finite")


def _incomplete(base: str, part: str, tensor: str, what: str) -> UserError:
    return UserError(
        f"The tensor {tensor} in the {PARTS[part]} of the base model {base!r} {what}",
        "Fetch the model again, or choose another base",
    )


@torch.no_grad()
def encode_pictures(pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
    """Pictures, (n, 3, h, w) in [-1, 1], to latents, (n, c, h / f, w / f), float32, contiguous, on the CPU.

    The autoencoder computes in float32, whatever the base was opened in: every step learns from what it makes once.
    That takes more of a GPU's memory than a step, so it has the GPU to itself.
    """
    family, vae, own = family_of(pipe), pipe.vae, pipe.vae.dtype
    others = [] if vae.device.type == "cpu" else [module for module in _networks(pipe) if module is not vae]
    places = [module.device for module in others]
    for module in others:
        module.to("cpu")
    nn.Module.to(vae, torch.float32)  # diffusers' own warns of layers that are in float32 anyway
    try:
        latents = [family.encode_picture(pipe, one[None].to(vae.device)) for one in pixels]
    finally:
        nn.Module.to(vae, own)  # its weights are what they were
        for module, place in zip(others, places, strict=True):
            module.to(place)
    return torch.cat(latents).cpu().contiguous()


def rest_encoders(pipe: DiffusionPipeline) -> None:
    """Send all networks but the denoiser to ordinary memory: a step needs only what they have made."""
    for module in _beside_denoiser(pipe):
        module.to("cpu")
    if device().type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def encoders_at_hand(pipe: DiffusionPipeline) -> Iterator[None]:
    """All networks where the denoiser is, inside the block, for drawing; after it those that rested rest again."""
    resting = [module for module in _beside_denoiser(pipe) if module.device != denoiser_of(pipe).device]
    for module in resting:
        module.to(denoiser_of(pipe).device)
    try:
        yield
    finally:
        if resting:
            rest_encoders(pipe)


def _beside_denoiser(pipe: DiffusionPipeline) -> list[ModelMixin]:
    return [module for module in _networks(pipe) if module is not denoiser_of(pipe)]


def _networks(pipe: DiffusionPipeline) -> list[ModelMixin]:
    return [module for module in pipe.components.values() if isinstance(module, nn.Module)]


def encoders(pipe: DiffusionPipeline) -> list:
    """What decides latents and prompt embeddings, as JSON takes it: weights, settings and words of all that encodes."""
    parts = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    modules = {name: getattr(pipe, name, None) for name in parts}
    found: list[Any] = [[name, *_decisive(module)] for name, module in modules.items() if module is not None]
    for tokenizer in _tokenizers(pipe, ("tokenizer", "tokenizer_2", "tokenizer_3")):
        whole = getattr(tokenizer, "backend_tokenizer", None)
        words = json.loads(whole.to_str()) if whole else tokenizer.get_vocab()
        words = {key: value for key, value in words.items() if key not in ("truncation", "padding")}  # of the last call
        text = json.dumps([words, tokenizer.model_max_length], sort_keys=True)
        found.append(hashlib.sha256(text.encode()).hexdigest())
    return found


def sampler(pipe: DiffusionPipeline) -> list:
    """What decides a picture beside prompt, seed and `encoders`, as JSON takes it."""
    scheduler = {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"}
    empty = pipe.config.get("force_zeros_for_empty_prompt")  # what guidance leads away from, in SDXL
    denoiser = denoiser_of(pipe)
    narrow = ["nf4"] * is_quantized(denoiser)
    return [*_decisive(denoiser), str(denoiser.dtype), *narrow, type(pipe.scheduler).__name__, scheduler, empty]


def _decisive(module: ModelMixin) -> tuple[str, dict[str, Any]]:
    """Weights and settings of a network, less what says only where they came from."""
    config = module.config.to_diff_dict() if hasattr(module.config, "to_diff_dict") else dict(module.config)
    return fingerprint(module), {key: value for key, value in config.items() if key[0] != "_" and key not in UNDECIDING}


@torch.no_grad()
def encode_prompts(pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
    """Prompts to what `denoising_loss` takes as conditions, each entry with n rows, on the CPU."""
    conditions = family_of(pipe).encode_prompts(pipe, prompts, resolution)
    return {key: value.cpu().contiguous() for key, value in conditions.items()}


def tokenizers(pipe: DiffusionPipeline) -> list[Reader]:
    """A base's tokenizers that know how many tokens of a prompt it reads."""
    family = family_of(pipe)
    return [Reader(tokenizer, family.longest, family.windows) for tokenizer in _tokenizers(pipe, family.readers)]


def _tokenizers(pipe: DiffusionPipeline, parts: tuple[str, ...]) -> list[PreTrainedTokenizerBase]:
    return [found for found in (getattr(pipe, part, None) for part in parts) if found is not None]


def denoising_loss(
    pipe: DiffusionPipeline,
    latents: Tensor,
    conditions: dict[str, Tensor],
    noise: Tensor,
    levels: Tensor,
    weights: Tensor | None = None,
    groups: int = 1,
) -> Tensor:
    """The base's own training loss, a mean over the batch, or (groups,) of equal stretches of it.

    Args:
        latents, noise: (n, c, h, w), float32.
        conditions: of `encode_prompts`, n rows each.
        levels: (n,), of its family's `levels`.
        weights: of the squared errors, of a shape that spreads to theirs; None: one each.
    """
    return family_of(pipe).loss(pipe, latents, conditions, noise, levels, weights, groups)


def timestep_count(pipe: DiffusionPipeline) -> int:
    return pipe.scheduler.config.num_train_timesteps
