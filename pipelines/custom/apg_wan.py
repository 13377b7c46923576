"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import WanPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryWanPipeline(GuidedMixin, WanPipeline):
    """Wan 2.1 and 2.2, text to video, with adaptive projected guidance by default."""
