"""What a customization does, stage by stage: arithmetic on its configuration alone."""

from training.adapters import METHODS
from training.config import Customization
from training.stages import Stage

# What is drawn of a run, side by side: the content and style scale of each column.
SCALES = {"base": (0.0, 0.0), "content": (1.0, 0.0), "style": (0.0, 1.0), "joined": (1.0, 1.0)}


def plan(config: Customization) -> list[Stage]:
    """The stages of a customization, in order."""
    return METHODS[config.adapter.method].stages(config)
