"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusion3Img2ImgPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusion3Img2ImgPipeline(GuidedMixin, StableDiffusion3Img2ImgPipeline):
    """Stable Diffusion 3 and 3.5, image to image, with adaptive projected guidance by default."""
