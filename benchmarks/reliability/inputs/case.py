"""An input that is meant to harm, and what counts as clear."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from app.library import Library
from pipelines.errors import UserError
from training import Run

LONGEST = 1500  # letters of a sentence that a person reads
# What stands in place of a value that was asked for.
VALUES = [-1, 0, 10**30, 1e308, float("nan"), float("inf"), True, "", " ", "x" * 100_000, "\0", "\x1b[2J\n", "🙂\u202e"]
VALUES += [[], {}, [[[]]], {"a": {"a": 1}}, "../../..", "/etc/passwd", "/dev/zero", "0x10", "-0", "1e999", "{}", "<b>"]
NAMES = ["..", ".", "", "../..", "../outside", "/etc/passwd", "/dev/zero", "/proc/self/mem", "NUL", "con.png", "a\0b"]
NAMES += ["a/" * 2000, "x" * 5000, "\n", "\x1b[2J", "‮gnp.exe", "%2e%2e%2f", "..\\..", "~root", "~nobody/x", "\udcff"]
NAMES += [
    "٣",
    "9" * 300,
    "*",
    "[",
    "?",
    "**/*",
    ".trash",
    ".projects",
    "a b/../..",
    "file:" + "///etc/passwd",
    "-rf",
    "$HOME",
]


@dataclass(frozen=True)
class World:
    """What the inputs meet: a data folder with a finished run, a base beside it, and what must stay as it is."""

    library: Library
    run: Run
    base: Path
    outside: Path
    pipe: Any  # the base, guided


@dataclass(frozen=True)
class Case:
    """An input; `act` gives it, from an empty folder, to all that reads its like."""

    what: str
    act: Callable[[World, Path], None]


class Unclear(Exception):
    """What was said is not one sentence and what to do, or what was given back is wrong."""


def ask(function: Callable, *given: Any, **named: Any) -> Any:
    """What a function gives, or None if it refuses in one sentence."""
    try:
        return function(*given, **named)
    except UserError as error:
        said = str(error)
        odd = [letter for letter in said if unicodedata.category(letter) in ("Cc", "Cs")]
        if odd or len(said) > LONGEST or not error.what.strip() or not error.remedy.strip():
            raise Unclear(f"{len(said)} letters, with {odd[:3]}: {said[:200]!r}") from None
        return None


def flipped(data: bytes, chance: Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(data: bytes, chance: Random) -> bytes:
    return data[: chance.randrange(len(data))]
