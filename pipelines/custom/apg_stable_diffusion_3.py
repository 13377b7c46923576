"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusion3Pipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusion3Pipeline(GuidedMixin, StableDiffusion3Pipeline):
    """Stable Diffusion 3 and 3.5, text to image, with adaptive projected guidance by default."""
