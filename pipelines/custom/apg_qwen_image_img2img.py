"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import QwenImageImg2ImgPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryQwenImageImg2ImgPipeline(GuidedMixin, QwenImageImg2ImgPipeline):
    """Qwen-Image, image to image, with adaptive projected guidance by default."""
