"""What a person should know about pictures before training starts, in words."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UserError
from training.pictures import open_picture

FEWEST = {"content": 3, "style": 1}  # fewer work, but not well
MOST = 30


@dataclass(frozen=True)
class Finding:
    text: str
    blocks: bool  # whether training cannot start with it


def check(concept: str, paths: list[Path], resolution: int) -> list[Finding]:
    """Look at the pictures of a content or a style: unreadable, too few, too small, the same twice."""
    if not paths:
        other = "style" if concept == "content" else "content"
        return [Finding(f"There are no pictures of the {concept}, so the {other} will be learned alone.", False)]
    findings, seen = [], {}
    for path in paths:
        try:
            picture = open_picture(path)
        except UserError as error:
            findings.append(Finding(str(error).replace(str(path), path.name), True))
            continue
        digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
        if digest in seen:
            findings.append(Finding(f"{path.name} and {seen[digest]} are the same picture; one will be used.", False))
        elif min(picture.size) < resolution:
            size = f"{picture.width} x {picture.height}"
            findings.append(Finding(f"{path.name} is only {size} pixels and will be enlarged to {resolution}.", False))
        seen.setdefault(digest, path.name)
    if seen and len(seen) < FEWEST[concept]:
        advice = f"{FEWEST[concept]} to 10 work best, each with the {concept} shown differently."
        findings.append(Finding(f"Only {_pictures(len(seen))} of the {concept}. {advice}", False))
    if len(seen) > MOST:
        findings.append(Finding(f"{_pictures(len(seen))} of the {concept}: more than {MOST} seldom help.", False))
    return findings


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
