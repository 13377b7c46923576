"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionXLControlNetPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionXLControlNetPipeline(GuidedMixin, StableDiffusionXLControlNetPipeline):
    """Stable Diffusion XL with a ControlNet, with adaptive projected guidance by default."""
