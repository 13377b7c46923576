"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import FluxImg2ImgPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryFluxImg2ImgPipeline(GuidedMixin, FluxImg2ImgPipeline):
    """Flux.1 with true CFG, image to image, with adaptive projected guidance by default."""
