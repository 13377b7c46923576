"""What a customization does, stage by stage: arithmetic on its configuration alone."""

from collections.abc import Mapping

from training import captions
from training.adapters import METHODS
from training.config import Content, Customization, Style
from training.stages import Stage

# What is drawn of a run, side by side: the content and style scale of each column.
SCALES = {"base": (0.0, 0.0), "content": (1.0, 0.0), "style": (0.0, 1.0), "joined": (1.0, 1.0)}


def prompt_of(column: str, prompt: str, concepts: Mapping[str, Content | Style]) -> str:
    """What a column is drawn under: of a concept that it leaves out the class word alone, which the base knows."""
    for name, scale in zip(("content", "style"), SCALES[column], strict=True):
        if name in concepts and not scale:
            prompt = captions.without(prompt, concepts[name].placeholder, concepts[name].class_word)
    return prompt


def plan(config: Customization) -> list[Stage]:
    """The stages of a customization, in order."""
    return METHODS[config.adapter.method].stages(config)
