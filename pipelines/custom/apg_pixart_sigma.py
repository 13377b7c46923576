"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import PixArtSigmaPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryPixArtSigmaPipeline(GuidedMixin, PixArtSigmaPipeline):
    """PixArt-Sigma, text to image, with adaptive projected guidance by default."""
