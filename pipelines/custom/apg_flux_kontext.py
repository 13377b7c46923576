"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import FluxKontextPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryFluxKontextPipeline(GuidedMixin, FluxKontextPipeline):
    """Flux.1 Kontext with true CFG, with adaptive projected guidance by default."""
