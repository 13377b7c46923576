"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import FluxControlNetPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryFluxControlNetPipeline(GuidedMixin, FluxControlNetPipeline):
    """Flux.1 with true CFG and a ControlNet, with adaptive projected guidance by default."""
