"""For diffusers: `DiffusionPipeline.from_pretrained(base, custom_pipeline=<this file>, trust_remote_code=True)`."""

from diffusers import StableDiffusionControlNetPipeline

from pipelines.guided_pipeline import GuidedMixin


class JoineryStableDiffusionControlNetPipeline(GuidedMixin, StableDiffusionControlNetPipeline):
    """Stable Diffusion 1.x and 2.x with a ControlNet, with adaptive projected guidance by default."""
