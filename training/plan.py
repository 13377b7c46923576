"""What a customization does, stage by stage: arithmetic on its configuration alone."""

from dataclasses import dataclass

from training.config import Customization

BOTH = ("content", "style")
SHORT = "content, captions short"
# What is drawn of a run, side by side: the content and style scale of each column.
SCALES = {"base": (0.0, 0.0), "content": (1.0, 0.0), "style": (0.0, 1.0), "joined": (1.0, 1.0)}


@dataclass(frozen=True)
class Part:
    """One loss of a step: whose pictures, how many, and which learned halves it moves."""

    concept: str  # "content", "style", "other contents" or "other styles"
    count: int
    moves: tuple[str, ...]
    pictures: str = ""  # by another name than the concept's


@dataclass(frozen=True)
class Stage:
    """A stretch of the run. `rates` are the learning rates of the halves; a half without one stays as it is."""

    name: str
    first: int  # the run's step with which it begins
    steps: int
    parts: tuple[Part, ...]
    rates: dict[str, float]


def plan(config: Customization) -> list[Stage]:
    """The stages of a customization, in order."""
    steps, settings = config.steps, config.optimizer
    if config.adapter.method == "full":
        return [
            Stage(c, i * steps.break_, steps.break_, (_own_part(config, c),), {c: settings.lr})
            for i, c in enumerate(config.concepts)
        ]
    stages, up = [], "content" if config.adapter.content_half == "up" else "style"
    for own in config.concepts:
        parts, rates = [_own_part(config, own)], {own: settings.lr}
        other = "style" if own == "content" else "content"
        given = other in config.concepts and config.concepts[other].others
        if (given or config.others.count) and settings.weak > 0:
            parts.append(Part(f"other {other}s", steps.others_batch_size, (other,)))
            rates[other] = settings.lr * settings.weak
        stages.append(Stage(own, len(stages) * steps.break_, steps.break_, tuple(parts), settings.rates(rates, up)))
    if len(config.concepts) == 2:
        half = max(1, steps.batch_size // 2)
        parts = tuple(Part(concept, half, BOTH) for concept in BOTH)
        rates = settings.rates(dict.fromkeys(BOTH, settings.make_lr), up)
        stages.append(Stage("make", 2 * steps.break_, steps.make, parts, rates))
    return stages


def _own_part(config: Customization, concept: str) -> Part:
    short = SHORT if concept == "content" and config.content.short_captions else ""
    return Part(concept, config.steps.batch_size, (concept,), short)
