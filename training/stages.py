"""What a run consists of: stages, and in each the losses of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the configuration names the methods, and these make stages
    from training.config import Customization

BOTH = ("content", "style")
SHORT = "content, captions short"


@dataclass(frozen=True)
class Part:
    """One loss of a step: whose pictures, how many, and the learned factors of which concepts it moves."""

    concept: str  # "content", "style", "other contents" or "other styles"
    count: int
    moves: tuple[str, ...]
    pictures: str = ""  # by another name than the concept's
    weight: float = 1.0  # of its loss beside those of other parts


@dataclass(frozen=True)
class Stage:
    """A stretch of the run, "content", "style" or "make".

    `rates` are the learning rates of the concepts' learned factors; those of a concept without one stay as they are.
    """

    name: str
    first: int  # the run's step with which it begins
    steps: int
    parts: tuple[Part, ...]
    rates: dict[str, float]

    @property
    def end(self) -> int:
        """The run's step after its last."""
        return self.first + self.steps

    @property
    def joins(self) -> bool:
        """Whether both concepts are learned together, from what the break runs ended with."""
        return self.name == "make"

    @property
    def teaches(self) -> tuple[str, ...]:
        """The concepts whose learned factors are kept when it ends."""
        return BOTH if self.joins else (self.name,)


def in_one_pass(parts: Sequence[Part], most: int) -> list[tuple[Part, ...]]:
    """Parts that move the same learned factors alike, together as far as they are no more than so many pictures."""
    found: list[tuple[Part, ...]] = []
    for part in parts:
        last = found[-1] if found else ()
        alike = {(one.moves, one.weight, one.count) for one in (*last, part)}
        if last and len(alike) == 1 and sum(one.count for one in (*last, part)) <= most:
            found[-1] = (*last, part)
        else:
            found.append((part,))
    return found


def end_of(stages: list[Stage]) -> int:
    """The run's step after the last of some stages, with which the next begins."""
    return stages[-1].end if stages else 0


def own_part(config: Customization, concept: str) -> Part:
    """The loss of a concept's own pictures, which moves its own learned factors."""
    content = config.content if concept == "content" else None
    short = SHORT if content and content.short_captions else ""
    return Part(concept, config.steps.batch_size, (concept,), short)


def partner_of(concept: str) -> str:
    return "style" if concept == "content" else "content"


def others_parts(config: Customization, concept: str, moves: tuple[str, ...]) -> tuple[Part, ...]:
    """The loss of others beside a concept's own pictures, which moves these; none where there are no others."""
    partner = partner_of(concept)
    given = partner in config.concepts and config.concepts[partner].others
    if not moves or not (given or config.others.count):
        return ()
    weight = config.concepts[concept].prior_weight if concept in moves else 1.0
    return (Part(f"other {partner}s", config.steps.others_batch_size, moves, weight=weight),)


def steps_of(config: Customization, concept: str) -> int:
    """Of a concept's break run."""
    return config.concepts[concept].steps or config.steps.break_
