"""Prompts longer than CLIP reads: several windows of 75 tokens, one after the other, as web UIs and kohya's scripts do.

Each window has its own start and end, and the embeddings of all lie behind each other. A prompt that fits into one is
encoded as in diffusers, to the bit.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MOST = 8  # windows of tokens that are read of a text; what comes behind them is not
TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
EMBEDDED = ("prompt_embeds", "negative_prompt_embeds")


def split(text: str, length: Callable[[str], int], room: int) -> list[str]:
    """A text in pieces that a window each has room for, between words where no word alone is longer.

    Args:
        length: tokens of a text, without start and end.
        room: tokens of a window, without start and end.
    """
    if length(text) <= room:
        return [text]
    pieces: list[list[str]] = [[]]
    used, left = 0, MOST * room
    for part in (part for word in text.split() for part in _parts(word, length, room)):
        size = length(part)
        if size > left:
            break
        if used + size > room:
            pieces, used = [*pieces, []], 0
        pieces[-1].append(part)
        used, left = used + size, left - size
    return [" ".join(parts) for parts in pieces]


def _parts(word: str, length: Callable[[str], int], room: int) -> Iterator[str]:
    """A word, or halves of it, of halves, until each fits: some scripts have no spaces."""
    if length(word) <= room or len(word) == 1:
        yield word
    else:
        middle = len(word) // 2
        yield from _parts(word[:middle], length, room)
        yield from _parts(word[middle:], length, room)


def in_windows(encode: Callable) -> Callable:
    """The `encode_prompt` of a stock class of Stable Diffusion or SDXL, for prompts and negative prompts of any length.

    All texts of a call get as many windows as the longest has, of no words behind their end. A pooled embedding is that
    of the first.
    """
    signature = inspect.signature(encode)

    @functools.wraps(encode)
    def encoded(self: "DiffusionPipeline", *args: Any, **kwargs: Any) -> tuple:
        import torch

        given = signature.bind(self, *args, **kwargs).arguments
        guided = given.get("do_classifier_free_guidance", True)
        texts = {n: given[n] for n in TEXTS if given.get(n) is not None and (guided or not n.startswith("negative"))}
        if given.get("prompt") is None or any(given.get(name) is not None for name in EMBEDDED):
            return encode(self, *args, **kwargs)
        count = 1 if isinstance(given["prompt"], str) else len(given["prompt"])
        texts = {name: [text] * count if isinstance(text, str) else text for name, text in texts.items()}
        tokenizers = [one for one in (self.tokenizer, getattr(self, "tokenizer_2", None)) if one is not None]
        convert = getattr(self, "maybe_convert_prompt", lambda text, tokenizer: text)
        room = min(tokenizer.model_max_length for tokenizer in tokenizers) - 2

        @functools.cache
        def length(text: str) -> int:
            """Of a textual inversion as many tokens as it has vectors."""
            found = []
            for tokenizer in tokenizers:
                learned = any(token in text for token in tokenizer.added_tokens_encoder)
                whole = convert(text, tokenizer) if learned else text
                found.append(len(tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]))
            return max(found)

        cut = {name: [split(text, length, room) for text in some] for name, some in texts.items()}
        most = max((len(pieces) for some in cut.values() for pieces in some), default=1)
        if most == 1:
            return encode(self, *args, **kwargs)
        found = []
        for window in range(most):
            own = {name: ["".join(pieces[window : window + 1]) for pieces in some] for name, some in cut.items()}
            found.append(encode(**given | own))
        positive, negative = zip(*(embeds[:2] for embeds in found), strict=True)
        whole = [None if some[0] is None else torch.cat(some, 1) for some in (positive, negative)]
        return *whole, *found[0][2:]

    return encoded
