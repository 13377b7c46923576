"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import WanImageToVideoPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryWanImageToVideoPipeline(GuidedMixin, WanImageToVideoPipeline):
    """Wan 2.1 and 2.2, image to video, with adaptive projected guidance by default."""
