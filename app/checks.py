"""What a person should know about pictures before training starts, in words."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.painter import import_tools
from app.recipe import Recipe
from pipelines.errors import UserError
from training import Customization
from training.captions import local_tokenizers
from training.config import Concept
from training.findings import of_prompt, of_words
from training.formats import shown
from training.pictures import look_at, said_of_size
from training.stages import partner_of

FEWEST = {"content": 3, "style": 1}  # fewer work, but not well
MOST = 30


@dataclass(frozen=True)
class Finding:
    text: str
    blocks: bool  # whether training cannot start with it


def check(concept: str, paths: list[Path], resolution: int) -> list[Finding]:
    """Look at the pictures of a content or a style: unreadable, too few, the same twice, not used as they are."""
    if not paths:
        other = partner_of(concept)
        return [Finding(f"There are no pictures of the {concept}, so the {other} will be learned alone.", False)]
    findings, seen = [], {}
    for path in paths:
        try:
            frame = look_at(path)
        except UserError as error:
            findings.append(Finding(str(error).replace(shown(path), shown(path.name)), True))
            continue
        picture = frame.image
        digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
        if digest in seen:
            findings.append(Finding(f"{path.name} and {seen[digest]} are the same picture; one will be used.", False))
        else:
            notes = frame.notes + said_of_size(picture, resolution)
            findings += [Finding(f"{path.name}: {note}.", False) for note in notes]
        seen.setdefault(digest, path.name)
    if seen and len(seen) < FEWEST[concept]:
        advice = f"{FEWEST[concept]} to 10 work best, each with the {concept} shown differently."
        findings.append(Finding(f"Only {_pictures(len(seen))} of the {concept}. {advice}", False))
    if len(seen) > MOST:
        findings.append(Finding(f"{_pictures(len(seen))} of the {concept}: more than {MOST} seldom help.", False))
    return findings


def check_words(config: Customization, pictures: dict[str, list[tuple[Path, str | None]]]) -> list[Finding]:
    """Look at captions and the prompt: placeholders, words in braces, and what the base does not read any more."""
    given = {concept: [(path, own or "") for path, own in those] for concept, those in pictures.items()}
    import_tools()
    said = of_words(config, given, local_tokenizers(config.resolved_base()))
    return [Finding(f"{text}.", False) for text in said]


def check_prompts(recipe: Recipe, learned: dict[str, Concept], base: str) -> list[Finding]:
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
