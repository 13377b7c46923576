"""Captions by a captioning model in the models folder, asked in a child process, so that its memory returns."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.bases import models_folder
from pipelines.errors import UserError
from training.config import HOUSE
from training.formats import NO_JSON

PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # a model that looks at pictures has one of them


def captioner() -> Path | None:
    """The first captioning model by name; None if there is none."""
    folder = models_folder()
    return next((one for one in sorted(folder.iterdir()) if _captions(one)), None) if folder.is_dir() else None


def _captions(folder: Path) -> bool:
    try:
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (OSError, KeyError, TypeError, *NO_JSON):
        return False
    written = isinstance(kinds, list) and any(str(kind).endswith(("Generation", "CausalLM")) for kind in kinds)
    return written and any((folder / name).exists() for name in PROCESSORS)


def describe(model: Path, pictures: Sequence[Path], caption: str) -> Iterator[tuple[Path, str]]:
    """Pictures with their captions, one by one as they come. Closing the iterator ends the work.

    Args:
        caption: what the description joins; nothing: placeholder and class word.
    Raises:
        UserError: what the model or a picture has wrong with it.
    """
    places = {str(path.resolve()): path for path in pictures}  # the child works in another folder
    command = [sys.executable, "-m", "training", "caption", *places, "--model", str(model.resolve())]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        child = subprocess.Popen(
            [*command, *(["--caption", caption] if caption else []), "--say"],
            cwd=HOUSE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        try:
            assert child.stdout is not None  # it is a pipe
            for line in child.stdout:
                said = json.loads(line)
                yield places[said["picture"]], said["caption"]
            child.wait()
        finally:
            child.kill()  # if it was closed
            child.wait()
        if child.returncode > 0:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [""])[-1].rstrip(".")  # a sentence, if it knew what was wrong
            what, _, remedy = last.rpartition(". ")
            raise UserError(what or "The captioning model could not be used", remedy or "Try another")
