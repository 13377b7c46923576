"""The base model as training sees it: opened from a folder, a file or the hub; pictures, prompts, and its own loss."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from pipelines.adapters import fingerprint
from pipelines.errors import UserError

FAMILIES = (StableDiffusionPipeline, StableDiffusionXLPipeline)
UNDECIDING = ("dtype", "torch_dtype", "transformers_version", "architectures", "model_type", "sample_size")
LOSS_READS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def device() -> torch.device:
    """Where accelerate computes: the GPU if there is one."""
    return PartialState().device


def dtype(precision: str) -> torch.dtype:
    """Of the frozen base: "auto" is bf16 on a GPU."""
    whole = precision == "fp32" or (precision == "auto" and device().type != "cuda")
    return torch.float32 if whole else torch.bfloat16


def fast_dtype() -> torch.dtype:
    """What the base's networks are made in: bf16, but float32 on a CPU that would emulate it, ten times slower."""
    narrow = device().type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if narrow else torch.float32


def autocast() -> torch.autocast:
    """Computes in `fast_dtype` inside the block."""
    return torch.autocast(device().type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16)


def open_base(base: str, precision: str = "auto") -> DiffusionPipeline:
    """Open a base model, frozen, for inference.

    Args:
        base: a diffusers folder, one safetensors file, or a hub id.
    Raises:
        UserError: it is not there, cannot be read, or is of a family that cannot be customized yet.
    """
    path = Path(base)
    try:
        if path.is_file():
            family = StableDiffusionXLPipeline if _is_sdxl(path) else StableDiffusionPipeline
            pipe = family.from_single_file(base, dtype=dtype(precision))
        else:
            # Safetensors only: a pickle from a stranger runs whatever its author liked.
            pipe = DiffusionPipeline.from_pretrained(base, dtype=dtype(precision), use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        kind = "cannot be opened" if path.exists() else "is neither a folder, nor a file, nor a hub model within reach"
        raise UserError(
            f"The base model {base!r} {kind} ({str(error).strip().splitlines()[0][:200].rstrip('.')})",
            "Set base to a diffusers folder, a .safetensors file, or a hub id",
        ) from None
    if not isinstance(pipe, FAMILIES) or pipe.scheduler.config.get("prediction_type") not in PREDICTIONS:
        raise UserError(
            f"The base model {base!r} is a {type(pipe).__name__}, which cannot be customized yet",
            "Choose a Stable Diffusion 1, 2 or XL base",
        )
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval()
    return pipe.to(device())


def _is_sdxl(path: Path) -> bool:
    with safe_open(path, "pt") as file:
        return any(key.startswith("conditioner.embedders.1") for key in file.keys())  # noqa: SIM118 (not a dict)


@torch.no_grad()
def encode_pictures(pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
    """Pictures, (n, 3, h, w) in [-1, 1], to scaled latents, (n, c, h / f, w / f), float32, contiguous, on the CPU.

    The mean of the autoencoder's posterior: the same picture always gives the same latents.
    """
    vae = pipe.vae
    latents = [vae.encode(one[None].to(vae.device, vae.dtype)).latent_dist.mean for one in pixels]
    return (torch.cat(latents).float() * vae.config.scaling_factor).cpu().contiguous()


def encoders(pipe: DiffusionPipeline) -> list:
    """What decides latents and prompt embeddings, as JSON takes it: weights, settings and words of all that encodes."""
    modules = {name: getattr(pipe, name, None) for name in ("vae", "text_encoder", "text_encoder_2")}
    found = [[name, *_decisive(module)] for name, module in modules.items() if module is not None]
    for tokenizer in tokenizers(pipe):
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
    return [*_decisive(pipe.unet), str(pipe.unet.dtype), type(pipe.scheduler).__name__, scheduler, empty]


def _decisive(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """Weights and settings of a network, less what says only where they came from."""
    config = module.config.to_diff_dict() if hasattr(module.config, "to_diff_dict") else dict(module.config)
    return fingerprint(module), {key: value for key, value in config.items() if key[0] != "_" and key not in UNDECIDING}


def noise_schedule(pipe: DiffusionPipeline) -> dict[str, Any]:
    """The settings of the base's scheduler that its loss depends on."""
    return {key: value for key, value in _schedule(pipe.scheduler).config.items() if key in LOSS_READS}


@torch.no_grad()
def encode_prompts(pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
    """Prompts to what the denoiser takes beside latents and timestep, each entry with n rows, on the CPU."""
    encoded = pipe.encode_prompt(
        prompts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    conditions = {"encoder_hidden_states": encoded[0]}
    if isinstance(pipe, StableDiffusionXLPipeline):
        time_ids = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=encoded[2].dtype)
        conditions |= {"text_embeds": encoded[2], "time_ids": time_ids.repeat(len(prompts), 1)}
    return {key: value.cpu().contiguous() for key, value in conditions.items()}


def tokenizers(pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
    """A base's tokenizers, which know how many tokens its text encoders read."""
    return [found for found in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)) if found is not None]


def denoising_loss(
    pipe: DiffusionPipeline, latents: Tensor, conditions: dict[str, Tensor], noise: Tensor, timesteps: Tensor
) -> Tensor:
    """The base's own training loss, a mean over the batch: the squared error of what its network predicts.

    For v-prediction this is a constant weight of v, which stays sound at a terminal signal-to-noise ratio of zero.

    Args:
        latents, noise: (n, c, h, w), float32.
        timesteps: (n,), whole numbers.
    """
    unet, schedule = pipe.unet, _schedule(pipe.scheduler)
    noisy = schedule.add_noise(latents, noise, timesteps)
    match schedule.config.prediction_type:
        case "epsilon":
            target = noise
        case "v_prediction":
            target = schedule.get_velocity(latents, noise, timesteps)
        case "sample":
            target = latents
    added = {key: conditions[key] for key in ("text_embeds", "time_ids") if key in conditions}
    output = unet(
        noisy.to(unet.dtype),
        timesteps,
        encoder_hidden_states=conditions["encoder_hidden_states"],
        added_cond_kwargs=added or None,
        return_dict=False,
    )[0]
    # Inpainting and learned-variance networks have more channels than they are trained to predict here.
    return (output[:, : target.shape[1]].float() - target).square().mean()


@cache
def _schedule(scheduler: SchedulerMixin) -> DDPMScheduler:
    """The noise schedule of training behind any sampling scheduler."""
    return DDPMScheduler.from_config(scheduler.config)


def timestep_count(pipe: DiffusionPipeline) -> int:
    return pipe.scheduler.config.num_train_timesteps
