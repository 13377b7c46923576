"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import QwenImageInpaintPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryQwenImageInpaintPipeline(GuidedMixin, QwenImageInpaintPipeline):
    """Qwen-Image, inpainting, with adaptive projected guidance by default."""
