"""Families that are trained as rectified flows (arXiv 2209.03003): a straight line from the picture to the noise.

x_s = (1 - s) x + s n        target: n - x        s in [0, 1], 1 is pure noise
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.errors import UserError
from training.families.family import PHOTOGRAPHED, Family, dtype_of, mean_square

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from training.config import Loss


class Flow(Family):
    """A transformer that predicts the velocity n - x."""

    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    predictions: ClassVar[tuple[str, ...]] = ("flow",)
    multiple: ClassVar[int] = 16  # the autoencoder's factor of 8, and patches of 2 x 2
    architecture: ClassVar[str] = ""  # what trainers call it in ModelSpec 1.0.0; none of a family without a usual name

    def of_folder(self, kind: str, index: dict[str, Any], denoiser: dict[str, Any]) -> bool:
        return kind == self.pipeline or kind in self.relatives

    def labels(self, prediction: str) -> dict[str, str]:
        """As kohya's scripts write them for these bases; web UIs sort by them."""
        if not self.architecture:
            return {}
        return {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{self.architecture}/lora",
            "modelspec.implementation": "diffusers",
        }

    def side(self, denoiser: dict[str, Any], vae: dict[str, Any]) -> int:
        return vae.get("sample_size", 0)

    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        config = pipe.vae.config
        return (pipe.vae.encode(pixels).latent_dist.mean.float() - config.shift_factor) * config.scaling_factor

    def levels(self, pipe: DiffusionPipeline, shares: Tensor) -> Tensor:
        """s, drawn evenly and then moved by the scheduler's own shift: s = k u / (1 + (k - 1) u).

        As diffusers' LoRA scripts draw it, but without rounding to thousandths. A shift that depends on the picture's
        size is for drawing; the scripts train without it.
        """
        shift = self.noise_schedule(pipe)["shift"]
        return shift * shares / (1 + (shift - 1) * shares)

    def noise_schedule(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        config = pipe.scheduler.config
        own = config.get("shift", config.get("flow_shift", 1.0))  # DPM++ and UniPC call it flow_shift
        return {"shift": 1.0 if config.get("use_dynamic_shifting") else own}

    def check_loss(self, settings: Loss) -> None:
        for key in ("min_snr", "noise_offset"):
            if value := getattr(settings, key):
                raise UserError(
                    f"loss.{key} is {value:g}, and {self.title} is trained as a flow, which it does not fit",
                    f"Leave loss.{key} out",
                )

    def loss(
        self,
        pipe: DiffusionPipeline,
        latents: Tensor,
        conditions: dict[str, Tensor],
        noise: Tensor,
        levels: Tensor,
        weights: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """The squared error of the velocity."""
        s = levels.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        velocity = self.velocity(pipe, noisy.to(dtype_of(pipe.transformer)), conditions, levels)
        return mean_square(velocity.float() - (noise - latents), weights, groups)

    @abstractmethod
    def velocity(self, pipe: DiffusionPipeline, noisy: Tensor, conditions: dict[str, Tensor], levels: Tensor) -> Tensor:
        """What the network predicts of n - x.

        Args:
            noisy: (n, c, h, w), in the network's precision.
            conditions: of `encode_prompts`, n rows each.
            levels: s, (n,).
        Returns:
            (n, c, h, w)
        """


def logit_normal(shares: Tensor) -> Tensor:
    """The logistic function of a normal number, drawn by its quantile (arXiv 2403.03206, section 3.1).

    Args:
        shares: (n,), in [0, 1).
    """
    import torch

    return torch.special.ndtri(shares).sigmoid()


def settings_of(base: str, guidance_scale: float) -> dict[str, Any]:
    """What a preset of these families differs in from a project file's defaults; untried on published weights."""
    return {
        "others": PHOTOGRAPHED,
        "make": {"precondition": True},
        "base": base,
        "resolution": 1024,
        "adapter": {"rank": 32, "layers": "attention"},
        "optimizer": {"lr": 2e-5, "make_lr": 5e-6},
        "steps": {"break": 1000, "make": 300, "batch_size": 1, "others_batch_size": 1, "gradient_checkpointing": True},
        "samples": {"every": 250, "inference_steps": 28, "guidance_scale": guidance_scale},
    }


def padded(rows: list[Tensor]) -> dict[str, Tensor]:
    """Prompts of different lengths as conditions.

    Args:
        rows: n embeddings, (tokens, width).
    Returns:
        prompt_embeds, (n, most tokens, width), zeros behind each row; prompt_mask, (n, most tokens), true where a row
        is.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = torch.tensor([len(row) for row in rows])
    embeds = pad_sequence(list(rows), batch_first=True).cpu()
    return {"prompt_embeds": embeds, "prompt_mask": torch.arange(embeds.shape[1]) < lengths[:, None]}


def cut_to_longest(conditions: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings and mask of `padded`, as long as a batch's longest prompt: the concept's longest may be longer."""
    mask = conditions["prompt_mask"]
    longest = int(mask.sum(1).max())
    return conditions["prompt_embeds"][:, :longest], mask[:, :longest]
