"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import QwenImagePipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryQwenImagePipeline(GuidedMixin, QwenImagePipeline):
    """Qwen-Image, text to image, with adaptive projected guidance by default."""
