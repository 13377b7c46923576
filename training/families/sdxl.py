"""Stable Diffusion XL: two text encoders, and a UNet that is told the picture's sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from training.families.family import BLOCKS, EIGHT_BIT, EXACT, PHOTOGRAPHED, PROJECTED, by_statistics
from training.families.stable_diffusion import END, StableDiffusion

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from training.pictures import Picture


class StableDiffusionXL(StableDiffusion):
    name: ClassVar[str] = "sdxl"
    title: ClassVar[str] = "Stable Diffusion XL"
    origin: ClassVar[str] = "stabilityai/stable-diffusion-xl-base-1.0"
    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    parts: ClassVar[tuple[str, ...]] = (
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    )
    preset: ClassVar[str] = "sdxl"
    settings: ClassVar[dict[str, Any]] = {
        "others": PHOTOGRAPHED,
        "make": {"precondition": True},
        "base": "stabilityai/stable-diffusion-xl-base-1.0",
        "resolution": 1024,
        "adapter": {"rank": 64, "layers": "attention", "split_gates": True},
        "optimizer": {"lr": 2e-5, "make_lr": 5e-6},
        "steps": {"break": 1000, "make": 300, "batch_size": 1, "others_batch_size": 1},
        "samples": {"every": 250, "inference_steps": 25},
    }
    memory: ClassVar[dict[str, dict[int | str, tuple]]] = {
        "plp": {
            8: ("bf16", True, 1, 4, 16, 512, EIGHT_BIT),
            12: ("bf16", True, 2, 2, 32, 1024, EIGHT_BIT),
            16: ("bf16", True, 4, 1, 64, 1024, EIGHT_BIT),
            24: ("bf16", True, 4, 1, 64, 1024, EXACT),
            48: ("bf16", False, 4, 1, 64, 1024, EXACT),
            "cpu": ("fp32", True, 2, 2, 32, 512, EIGHT_BIT),
        },
        "full": {
            8: ("bf16", True, 4, 1, 32, 512, BLOCKS),
            12: ("bf16", True, 4, 1, 32, 1024, PROJECTED),
            16: ("bf16", True, 4, 1, 64, 1024, PROJECTED),
            24: ("fp32", True, 4, 1, 64, 1024, PROJECTED),
            48: ("fp32", True, 4, 1, 64, 1024, PROJECTED),
            "cpu": ("fp32", True, 4, 1, 32, 512, BLOCKS),
        },
    }
    pads: ClassVar[tuple[str, ...]] = (END, "!")
    prefixes: ClassVar[dict[str, str]] = {
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    }

    def version(self, short: str) -> str:
        return "sdxl_base_v1-0"

    def architecture(self, short: str) -> str:
        return "stable-diffusion-xl-v1-base"

    def of_folder(self, kind: str, index: dict[str, Any], denoiser: dict[str, Any]) -> bool:
        relative = denoiser.get("in_channels") == 9 or index.get("requires_aesthetics_score")
        return kind == self.pipeline or bool(kind.startswith("StableDiffusionXL") and relative)

    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        """Some descendants' autoencoders say a mean and a deviation of each channel, by which theirs are normalised."""
        vae = pipe.vae
        return by_statistics(vae.encode(pixels).latent_dist.mean.float(), vae) * vae.config.scaling_factor

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        """Also the pooled text, and the picture's height and width, its crop, and the target's height and width."""
        import torch

        embeds, _, pooled, _ = pipe.encode_prompt(
            prompts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        time_ids = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=pooled.dtype)
        return {
            "encoder_hidden_states": embeds,
            "text_embeds": pooled,
            "time_ids": time_ids.repeat(len(prompts), 1),
        }

    def framing(self, pictures: list[Picture]) -> dict[str, Tensor]:
        """The file's height and width, how far down and right its square begins, and the square's height and width.

        A picture that was enlarged, or cut, is then learned as such (arXiv 2307.01952, section 2.2).
        """
        import torch

        rows = []
        for picture in pictures:
            side, (left, top) = picture.image.width, picture.corner
            width, height = picture.size if any(picture.size) else (side, side)
            rows.append([height, width, top, left, side, side])
        return {"time_ids": torch.tensor(rows, dtype=torch.float32)}

    def inputs(self, conditions: dict[str, Tensor]) -> dict[str, Any]:
        added = {key: conditions[key] for key in ("text_embeds", "time_ids")}
        return super().inputs(conditions) | {"added_cond_kwargs": added}
