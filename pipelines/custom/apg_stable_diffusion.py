"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionPipeline(GuidedMixin, StableDiffusionPipeline):
    """Stable Diffusion 1.x and 2.x, text to image, with adaptive projected guidance by default."""
