"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionXLInpaintPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionXLInpaintPipeline(GuidedMixin, StableDiffusionXLInpaintPipeline):
    """Stable Diffusion XL, inpainting, with adaptive projected guidance by default."""
