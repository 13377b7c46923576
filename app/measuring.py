"""What only the base can say of a project, found by a child process: what it takes, and which words are near to it."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.given import Given
from app.library import Library
from pipelines.errors import UserError
from training import Customization
from training.config import HOUSE

LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Measured:
    """Of a whole run, and what there is."""

    seconds: float
    memory: int  # bytes, of the GPU or of this machine
    has_memory: int
    disk: int  # bytes, in the run's folder at most
    free_disk: int
    device: str

    @property
    def fits(self) -> bool:
        return self.memory <= self.has_memory and self.disk <= self.free_disk


def measure(library: Library, config: Customization, pictures: dict[str, list[Given]]) -> Iterator[float | Measured]:
    """The seconds that have passed, again and again, and at last what was found. Closing the iterator ends the work.

    Args:
        pictures: as `Library.create` takes them.
    Raises:
        UserError: what training would say of the project.
    """
    found = yield from _asked(config, pictures, ["estimate"], [], "The first steps did not come to their end")
    yield Measured(
        found["seconds"],
        memory=found["peak"],
        has_memory=found["has"] or psutil.virtual_memory().total,
        disk=found["disk"],
        free_disk=shutil.disk_usage(library.folder).free,
        device=found["device"],
    )


def nearest(
    config: Customization, pictures: dict[str, list[Given]], kind: str, words: list[str]
) -> Iterator[float | list[str]]:
    """The seconds that have passed, and at last the words that the base knows, the nearest to the pictures first.

    Args:
        pictures: as `Library.create` takes them.
        kind: "content" or "style": whose.
        words: to compare; those of the project if there are none.
    Raises:
        UserError: what training would say of the base and the pictures.
    """
    found = yield from _asked(config, pictures, ["words"], [kind, *words], "The words could not be compared")
    yield [word for word, _ in found]


def _asked(
    config: Customization, pictures: dict[str, list[Given]], command: list[str], more: list[str], failed: str
) -> Generator[float, None, Any]:
    """What a command says of a project in JSON; the project is written for it, into a folder that goes away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = Library(Path(folder)).create(config, pictures)
        line = [sys.executable, "-m", "training", *command, str(run.config), *more, "--json"]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as said, tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(line, cwd=HOUSE, stdin=subprocess.DEVNULL, stdout=said, stderr=errors)
            began = time.monotonic()
            try:
                while child.poll() is None:
                    yield time.monotonic() - began
                    time.sleep(LOOK_EVERY)
            finally:
                child.kill()  # if it was closed
                child.wait()
            said.seek(0)
            errors.seek(0)
            if child.returncode:
                last = (errors.read().strip().splitlines() or ["It ended without a word."])[-1]
                raise UserError(f"{failed}: {last.rstrip('.')}", "Mend this first")
            return json.loads(said.read())
