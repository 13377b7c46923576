"""The bases that a person can choose from, what is known of each without opening it, and the words that it knows."""

import json
import os
from functools import cache
from pathlib import Path

from app.library import Library
from app.quota import size
from pipelines.errors import UserError
from training import Customization, Run
from training.config import HOUSE, PRESETS
from training.recognise import FAMILIES, PARTS, Base, recognise

EMBEDDED = HOUSE / "models" / "emoji-composing"
TAUGHT = (EMBEDDED, HOUSE / "models" / "emoji")  # the same words
PREDICTIONS = {"epsilon": "predicts noise", "v_prediction": "predicts velocity", "sample": "predicts the picture"}


def models_folder() -> Path:
    """Where a person's own bases lie: `models` in the data folder."""
    return Path(os.environ.get("JOINERY_DATA") or "data") / "models"


def offered(library: Library, sample: Customization) -> dict[str, str]:
    """Bases by the names that the page shows: the project's, the embedded one, what lies in the models folder, what
    runs used, and the presets' own on the hub.

    What lies outside the house has its folder's name there: the page shows no machine's paths.
    """
    lying = sorted(
        str(path)
        for path in (models_folder().iterdir() if models_folder().is_dir() else ())
        if path.suffix == ".safetensors" or (path / "model_index.json").exists()
    )
    used = [base for run in library.runs() for base in _used(run)]
    presets = [settings.get("base", str(EMBEDDED)) for settings in PRESETS.values()]
    named: dict[str, str] = {}
    for base in dict.fromkeys(map(short, [sample.base, str(EMBEDDED), *lying, *used, *presets])):
        name = stem = Path(base).name if Path(base).is_absolute() else base
        number = 1
        while name in named:
            number += 1
            name = f"{stem} ({number})"
        named[name] = base
    return named


def short(base: str) -> str:
    """A base as a person would type it: a path in the house starts there."""
    if not Path(base).is_absolute():
        return base
    path = Path(base).resolve()
    inside = [start for start in (Path.cwd(), HOUSE) if path.is_relative_to(start)]
    return path.relative_to(inside[0]).as_posix() if inside else str(path)


def place(base: str) -> Path | None:
    """Where a base lies on this machine, if it does."""
    return next((start / base for start in (Path.cwd(), HOUSE) if base and (start / base).exists()), None)


def about(base: str) -> str:
    """What a base is, in a sentence, from its own files; of a hub id that was not used yet, what will happen."""
    path = place(base)
    if path is not None and path.is_file() and path.suffix != ".safetensors":
        return f"{path.name} is neither a diffusers folder nor a .safetensors file."
    try:
        found = recognise(str(path or base), fetch=False) if base else None
    except UserError:
        return f"{path.name} holds no base model." if path else ""
    if found is None:
        return "Not on this machine: it is fetched from the hub when training starts." if base else ""
    return f"{', '.join([*_facts(found), *([_size(path)] if path else [])])}."


def words(base: str) -> dict[str, list[str]]:
    """The contents and the styles that a base is known to have learned; empty where nobody wrote them down."""
    path = place(base)
    return _taught() if path is not None and path.resolve() in TAUGHT else {}


def unknown_word(base: str, concept: str, word: str) -> str:
    """What to say of a class word that the base was not taught; empty where it was, or where that is not known."""
    known = words(base).get(concept)
    if not known or word.strip() in known:
        return ""
    if not word.strip():
        return f"Without a class word the new {concept} starts from nothing. Choose the nearest from the list."
    return f"The base was not taught {word.strip()!r}. Choose the nearest word from the list."


@cache
def _taught() -> dict[str, list[str]]:
    split = json.loads((HOUSE / "training" / "base" / "split.json").read_text(encoding="utf-8"))
    return {"content": sorted(split["contents"]), "style": sorted(split["styles"])}


def _used(run: Run) -> list[str]:
    """The base that a run was trained on, if its project can be read and the base was not moved since."""
    try:
        base = run.customization().base
    except UserError:
        return []
    return [] if base.startswith("..") else [base]


def _facts(found: Base) -> list[str]:
    other = found.inpainting or found.refiner or found.relative or found.edm or found.distilled
    trained = found.family in FAMILIES and not other
    facts = {
        found.title: True,
        PREDICTIONS.get(found.prediction, found.prediction): found.prediction,
        "down to pure noise": found.zero_snr,
        f"made for {found.resolution} px": found.resolution,
        "distilled to draw in a few steps": found.distilled,
        "preconditioned as in EDM": found.edm,
        "which cannot be customized yet": not trained,
        f"without its {', '.join(PARTS[part] for part in found.missing)}": found.missing,
    }
    return [fact for fact, holds in facts.items() if holds]


def _size(path: Path) -> str:
    files = [path] if path.is_file() else path.rglob("*")
    return size(sum(file.stat().st_size for file in files if file.is_file()))
