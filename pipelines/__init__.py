"""How pictures are sampled: guidance rules, and the stock pipelines that carry them."""

from pipelines.attention import set_attention
from pipelines.errors import UserError
from pipelines.guidance import APG, CFG, GuidanceRule
from pipelines.guided_pipeline import APGStableDiffusionPipeline, guided

__all__ = ["APG", "CFG", "APGStableDiffusionPipeline", "GuidanceRule", "UserError", "guided", "set_attention"]
