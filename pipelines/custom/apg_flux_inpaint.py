"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import FluxInpaintPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryFluxInpaintPipeline(GuidedMixin, FluxInpaintPipeline):
    """Flux.1 with true CFG, inpainting, with adaptive projected guidance by default."""
