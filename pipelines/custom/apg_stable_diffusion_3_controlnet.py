"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusion3ControlNetPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusion3ControlNetPipeline(GuidedMixin, StableDiffusion3ControlNetPipeline):
    """Stable Diffusion 3 and 3.5 with a ControlNet, with adaptive projected guidance by default."""
