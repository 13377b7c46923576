"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionXLImg2ImgPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionXLImg2ImgPipeline(GuidedMixin, StableDiffusionXLImg2ImgPipeline):
    """Stable Diffusion XL, image to image and refiner, with adaptive projected guidance by default."""
