"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import SanaPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoinerySanaPipeline(GuidedMixin, SanaPipeline):
    """Sana, text to image, with adaptive projected guidance by default."""
