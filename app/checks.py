"""What a person should know about pictures before training starts, in words."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from app.given import Given
from app.painter import import_tools
from app.recipe import Recipe
from pipelines.errors import UserError
from training import Customization
from training.captions import local_tokenizers
from training.config import Content, Style
from training.findings import of_prompt, of_words
from training.formats import shown
from training.pictures import ALIKE, cropped, look_at, notes_of, read_mask, seen_small
from training.stages import partner_of

FEWEST = {"content": 3, "style": 1}  # fewer work, but not well
MOST = 30


@dataclass(frozen=True)
class Finding:
    text: str
    blocks: bool  # whether training cannot start with it
    number: int | None = None  # of the picture that it is about, from 0


def check(concept: str, pictures: Sequence[Given], resolution: int) -> list[Finding]:
    """Look at the pictures of a content or a style: unreadable, too few, the same or nearly so, not used as is."""
    if not pictures:
        other = partner_of(concept)
        return [Finding(f"There are no pictures of the {concept}, so the {other} will be learned alone.", False)]
    findings: list[Finding] = []
    seen: dict[str, str] = {}
    small: dict[str, Any] = {}
    for number, (path, _, crop, mask) in enumerate(pictures):
        try:
            files = tuple((file, _written(file)) for file in (path, mask) if file)
            digest, notes, one = _look(files, resolution, crop)
        except UserError as error:
            said = str(error)
            for file in filter(None, (path, mask)):
                said = said.replace(shown(file), shown(file.name))
            findings.append(Finding(said, True, number))
            continue
        if digest in seen:
            same = f"{path.name} and {seen[digest]} are the same picture; one will be used."
            findings.append(Finding(same, False, number))
        else:
            if like := next((name for name, other in small.items() if one @ other > ALIKE), None):
                notes += (f"nearly the same picture as {like}; another view would teach more",)
            findings += [Finding(f"{path.name}: {note}.", False, number) for note in notes]
            small.setdefault(path.name, one)
        seen.setdefault(digest, path.name)
    if seen and len(seen) < FEWEST[concept]:
        advice = f"{FEWEST[concept]} to 10 work best, each with the {concept} shown differently."
        findings.append(Finding(f"Only {_pictures(len(seen))} of the {concept}. {advice}", False))
    if len(seen) > MOST:
        findings.append(Finding(f"{_pictures(len(seen))} of the {concept}: more than {MOST} seldom help.", False))
    return findings


def _written(file: Path) -> int:
    """When, in nanoseconds; 0 of what is not there, or has a name that none can have."""
    return file.stat().st_mtime_ns if os.path.exists(file) else 0


@lru_cache(maxsize=256)
def _look(files: tuple[tuple[Path, int], ...], resolution: int, crop: float) -> tuple[str, tuple[str, ...], np.ndarray]:
    """A picture as training sees it, as a digest; what should be known about it; and it seen small. Kept, as a page
    asks often.

    Args:
        files: the picture and the mask that it may have, each with the time of its writing.
    """
    (path, _), *masks = files
    frame = look_at(path)
    for mask, _ in masks:
        read_mask(mask, frame)
    image = cropped(frame.image, resolution, crop)
    return hashlib.sha256(image.tobytes()).hexdigest(), notes_of(frame, image, crop), seen_small(image)


def check_words(config: Customization, pictures: dict[str, list[Given]]) -> list[Finding]:
    """Look at captions and the prompt: placeholders, words in braces, and what the base does not read any more."""
    given = {concept: [(one.path, one.caption or "") for one in those] for concept, those in pictures.items()}
    import_tools()
    said = of_words(config, given, local_tokenizers(config.resolved_base()))
    return [Finding(f"{text}.", False) for text in said]


def check_prompts(recipe: Recipe, learned: dict[str, Content | Style], base: str) -> list[Finding]:
    """Look at what is to be drawn.

    Args:
        learned: what the adapter holds, by name.
        base: a folder, a file or a hub id.
    """
    import_tools()
    tokenizers = local_tokenizers(base)
    words = [concept.placeholder for name, concept in learned.items() if getattr(recipe, name)]
    said = of_prompt(recipe.prompt, words, tokenizers)
    said += of_prompt(recipe.negative_prompt, [], tokenizers, "negative prompt")
    return [Finding(f"{text}.", False) for text in said]


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
