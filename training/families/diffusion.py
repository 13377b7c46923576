"""Families that are trained as diffusion: noise is added by a schedule of timesteps, and a UNet predicts from it."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.errors import UserError
from training.families.family import Family, dtype_of, mean_square

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin
    from torch import Tensor, nn

LAYERS = {  # of a UNet with cross-attention
    "cross-attention": r".*\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "attention": r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)",
    "attention+feedforward": r".*\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))",
    "all": r".*\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|resnets\.\d+\.conv[12])",
}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # by the names of the common web UIs; the first is the usual one
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
}
LOSS_READS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


class Diffusion(Family):
    """A UNet that predicts the noise, the velocity or the latents."""

    predictions: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction", "sample")
    network: ClassVar[str] = "UNet2DConditionModel"
    layers: ClassVar[dict[str, str]] = LAYERS
    fp16: ClassVar[bool] = True
    always_by_parts: ClassVar[bool] = False  # older runs learned a style on the gates alone
    words: ClassVar[str] = r"\.attn2\.to_[kv]$"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)

    def fused(self, denoiser: nn.Module, name: str) -> dict[str, tuple[int, ...]]:
        """The value and the gate of a feed-forward (GEGLU)."""
        if not name.endswith(".ff.net.0.proj"):
            return {}
        layer: Any = denoiser.get_submodule(name)
        half = layer.out_features // 2
        return {"up": (half, half)}

    def places(self, denoiser: ModelMixin, name: str) -> set[str]:
        """Fine are the residual blocks at its two finest resolutions, which hear no word."""
        last = len(denoiser.up_blocks) - 1
        fine = re.match(rf"(down_blocks\.[01]|up_blocks\.({last - 1}|{last}))\.resnets\.", name)
        return super().places(denoiser, name) | {"fine" if fine else "coarse"}

    def encode_picture(self, pipe: DiffusionPipeline, pixels: Tensor) -> Tensor:
        vae = pipe.vae
        return vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor

    def levels(self, pipe: DiffusionPipeline, shares: Tensor) -> Tensor:
        """Timesteps, whole numbers."""
        total = pipe.scheduler.config.num_train_timesteps
        return (shares * total).long().clamp(max=total - 1)

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
        """The squared error of what the network predicts.

        For v-prediction this is a constant weight of v, which stays sound at a terminal signal-to-noise ratio of zero.
        """
        unet, schedule = pipe.unet, _schedule(pipe.scheduler)
        noisy = schedule.add_noise(latents, noise, levels)
        match schedule.config.prediction_type:
            case "epsilon":
                target = noise
            case "v_prediction":
                target = schedule.get_velocity(latents, noise, levels)
            case "sample":
                target = latents
        output = unet(noisy.to(dtype_of(unet)), levels, **self.inputs(conditions), return_dict=False)[0]
        # Learned-variance networks have more channels than they are trained to predict here.
        return mean_square(output[:, : target.shape[1]].float() - target, weights, groups)

    def min_snr_weights(self, pipe: DiffusionPipeline, levels: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) of the latents' error, told by the error of what the network predicts."""
        schedule = _schedule(pipe.scheduler)
        kept = schedule.alphas_cumprod.to(levels.device)[levels]  # the share of the latents' variance
        snr = kept / (1 - kept)
        of_prediction = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[schedule.config.prediction_type]
        return snr.clamp(max=gamma) / of_prediction

    def inputs(self, conditions: dict[str, Tensor]) -> dict[str, Any]:
        """What the UNet takes beside latents and timesteps."""
        return {"encoder_hidden_states": conditions["encoder_hidden_states"]}

    def noise_schedule(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        return {key: value for key, value in _schedule(pipe.scheduler).config.items() if key in LOSS_READS}

    def told(self, scheduler: SchedulerMixin, prediction: str, zero_snr: bool) -> SchedulerMixin:
        """From pure noise on, its steps have to start at the very end (arXiv 2305.08891, section 3.3)."""
        own = scheduler.config
        changes: dict[str, Any] = {}
        if prediction != own.get("prediction_type"):
            changes["prediction_type"] = prediction
        if zero_snr != bool(own.get("rescale_betas_zero_snr")):
            changes["rescale_betas_zero_snr"] = zero_snr
            changes |= {"timestep_spacing": "trailing"} if zero_snr else {}
        if not changes:
            return scheduler
        # Into the configuration, which keeps for other classes what this one does not know; what is said is no default.
        defaults = [key for key in own.get("_use_default_values", ()) if key not in changes]
        return type(scheduler).from_config({**own, **changes, "_use_default_values": defaults})

    def sampler(self, scheduler: SchedulerMixin, name: str = "") -> SchedulerMixin:
        """DPM++ 2M unless another one is asked for, whatever the base came with."""
        import diffusers

        if name and name not in SAMPLERS:
            raise UserError(f"There is no sampler {name!r}", f"Choose of {', '.join(SAMPLERS)}")
        kind, settings = SAMPLERS[name or next(iter(SAMPLERS))]
        return getattr(diffusers, kind).from_config(scheduler.config, **settings)


@cache
def _schedule(scheduler: SchedulerMixin) -> DDPMScheduler:
    """The noise schedule of training behind any sampling scheduler."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler.config)
