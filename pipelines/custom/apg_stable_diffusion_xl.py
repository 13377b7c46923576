"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionXLPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionXLPipeline(GuidedMixin, StableDiffusionXLPipeline):
    """Stable Diffusion XL, text to image, with adaptive projected guidance by default."""
