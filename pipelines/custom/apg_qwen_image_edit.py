"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import QwenImageEditPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryQwenImageEditPipeline(GuidedMixin, QwenImageEditPipeline):
    """Qwen-Image-Edit, with adaptive projected guidance by default."""
