"""Captions: where they come from, and what in them does not reach the text encoder as it was meant."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import UserError
from training.families import FAMILIES
from training.families.family import NO_LIMIT
from training.formats import shown
from training.recognise import recognise


class Tokenizer(Protocol):
    """What is asked of a base's tokenizers."""

    @property
    def model_max_length(self) -> int: ...

    def __call__(self, text: str, **options: bool) -> Any: ...


@dataclass(frozen=True)
class Reader:
    """A tokenizer that a base lets read no more than so many tokens, whatever it could read by itself.

    Args:
        windows: of as many tokens as it reads, between start and end, that are read one after the other.
    """

    tokenizer: Tokenizer
    longest: int
    windows: int = 1

    @property
    def model_max_length(self) -> int:
        if self.windows > 1:
            return (self.tokenizer.model_max_length - 2) * self.windows + 2
        return min(self.tokenizer.model_max_length, self.longest)

    def __call__(self, text: str, **options: bool) -> Any:
        return self.tokenizer(text, **options)


def beside(picture: Path) -> str:
    """The caption in the .txt of the picture's name beside it; empty if there is none.

    Raises:
        UserError: it is not UTF-8 text.
    """
    text = picture.with_suffix(".txt")
    return read(text) if os.path.isfile(text) else ""


def read(text: Path) -> str:
    """A caption from its file.

    Raises:
        UserError: it is not UTF-8 text.
    """
    try:
        return text.read_text(encoding="utf-8-sig").strip()  # the mark that some editors put at the start is no word
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The caption {shown(text)} cannot be read ({error})", "Save it as UTF-8 text") from None


def file_name(picture: Path) -> str:
    """A picture's name as words, without a number at its start."""
    return re.sub(r"^\d+ ", "", _spaced(picture.stem))


def with_words(words: str, caption: str) -> str:
    """A caption with what else the picture shows: before that of a style, after that of a content."""
    return f"{words}, {caption}" if caption.endswith("style") else f"{caption}, {words}"


def shortened(caption: str) -> str:
    """A caption up to its first comma."""
    return caption.split(",")[0]


def fill(caption: str, picture: Path, words: Mapping[str, str]) -> str:
    """A caption with what its words in braces stand for; an empty one is the picture's whole name."""
    text = caption or _spaced(picture.stem)
    for key, word in ({"file_name": file_name(picture)} | dict(words)).items():
        text = text.replace("{" + key + "}", word)
    return " ".join(text.split()).replace(" ,", ",")  # a word may be empty


def unknown(text: str) -> list[str]:
    """What is left in braces."""
    return re.findall(r"\{[^{}]*\}", text)


def holds(text: str, word: str) -> bool:
    """Whether a text has a word, as the text encoder reads both: small letters, composed."""
    text, word = (unicodedata.normalize("NFC", one).lower() for one in (text, word))
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def without(text: str, placeholder: str, class_word: str) -> str:
    """A text as a base reads it that has not learned a placeholder: its class word stands there alone.

    Without a class word nothing can stand in its place, and the text stays.
    """
    word = rf"(?<!\w){re.escape(placeholder)}"
    if class_word:
        text = re.sub(rf"{word}\s+(?={re.escape(class_word)}(?!\w))", "", text, flags=re.IGNORECASE)
        text = re.sub(rf"{word}(?!\w)", lambda _: class_word, text, flags=re.IGNORECASE)
    return text


def cut_from(text: str, tokenizers: Sequence[Tokenizer]) -> str:
    """The first word of which the text encoders do not see all; empty if they see every word."""

    def fits(some: list[str]) -> bool:
        given = shown(" ".join(some))
        return all(
            len(tokenizer(given, truncation=False, padding=False, verbose=False)["input_ids"])
            <= tokenizer.model_max_length
            for tokenizer in tokenizers
        )

    words = text.split()
    return "" if fits(words) else next(word for count, word in enumerate(words, 1) if not fits(words[:count]))


@lru_cache(maxsize=4)
def local_tokenizers(base: str) -> tuple[Tokenizer, ...]:
    """The tokenizers of a base that lies on this machine as a folder or fetched from the hub, without opening it.

    Empty for a single file, which has none, and for a base that is not there.
    """
    from transformers import AutoTokenizer

    found = []
    with suppress(UserError, OSError, ValueError):  # opening the base says what is wrong with it
        known = recognise(base, fetch=False)
        family = FAMILIES.get(known.family) if known else None
        if family is None:
            return ()
        for part in family.readers:
            tokenizer = AutoTokenizer.from_pretrained(base, subfolder=part, local_files_only=True)
            if tokenizer.model_max_length < NO_LIMIT:  # else it may be one without words, of files that are not there
                found.append(Reader(tokenizer, family.longest, family.windows))
    return tuple(found)


def _spaced(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")
