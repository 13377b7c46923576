"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionImg2ImgPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionImg2ImgPipeline(GuidedMixin, StableDiffusionImg2ImgPipeline):
    """Stable Diffusion 1.x and 2.x, image to image, with adaptive projected guidance by default."""
