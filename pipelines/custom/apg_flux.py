"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import FluxPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryFluxPipeline(GuidedMixin, FluxPipeline):
    """Flux.1 with true CFG, text to image, with adaptive projected guidance by default."""
