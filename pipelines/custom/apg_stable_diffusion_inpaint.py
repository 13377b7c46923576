"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionInpaintPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionInpaintPipeline(GuidedMixin, StableDiffusionInpaintPipeline):
    """Stable Diffusion 1.x and 2.x, inpainting, with adaptive projected guidance by default."""
