"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusion3InpaintPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusion3InpaintPipeline(GuidedMixin, StableDiffusion3InpaintPipeline):
    """Stable Diffusion 3 and 3.5, inpainting, with adaptive projected guidance by default."""
