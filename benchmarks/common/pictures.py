"""The real pictures that benchmarks compare with: those of the sample project, and others of the same kind beside."""

from pathlib import Path

from training.config import HOUSE

CONTENT, STYLE = "koala", "neon"  # of the sample project


def reference_pictures() -> dict[tuple[str, str], Path]:
    """(content, style) -> the picture's file; the names as files have them, with hyphens, in a fixed order."""
    samples = HOUSE / "samples"
    found = {tuple(file.stem.split(",")): file for file in (HOUSE / "benchmarks/pictures").glob("*.png")}
    for file in (samples / "content").glob("*.png"):
        found[CONTENT, file.stem.removeprefix(f"{CONTENT}-")] = file
    for folder in ("style", "truth"):
        for file in (samples / folder).glob("*.png"):
            found[file.stem.removesuffix(f"-{STYLE}"), STYLE] = file
    return dict(sorted(found.items()))
