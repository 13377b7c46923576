"""The tokenizer of the base: byte pairs learned from captions, the same ones whenever they are learned."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from transformers import CLIPTokenizer

RARE = "sks"  # one piece that no caption uses
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
END = "</w>"


def make_tokenizer(captions: Iterable[str], pieces: int, positions: int) -> CLIPTokenizer:
    """A tokenizer whose every byte is a piece, alone and at a word's end, so that any word works.

    `tokenizers` learns byte pairs too, but settles ties by chance.

    Args:
        pieces: how many at most, those of bytes, start and end included.
        positions: of a caption, start and end included.
    Source: Sennrich et al., Neural machine translation of rare words with subword units (arXiv 1508.07909).
    """
    letters = [letter for byte in range(256) if (letter := _letter(byte))]
    vocabulary = [*letters, *(letter + END for letter in letters)]
    merges = _learn(_words([*captions, RARE]), pieces - len(vocabulary) - len(SPECIAL))
    vocabulary += dict.fromkeys(left + right for left, right in merges)
    ids = {piece: i for i, piece in enumerate([*vocabulary, *SPECIAL])}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=positions)


def _letter(byte: int) -> str:
    """The printed letter that stands for a byte: itself where it is one, else one from 256 on, in order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in plain else chr(256 + byte - sum(p < byte for p in plain))


def _words(texts: list[str]) -> Counter[tuple[str, ...]]:
    """Words as CLIP splits them, in letters, with how often they come."""
    empty = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(SPECIAL)}, merges=[]).backend_tokenizer
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word, _ in empty.pre_tokenizer.pre_tokenize_str(empty.normalizer.normalize_str(text)):
            counts[(*word[:-1], word[-1] + END)] += 1
    rare = next(word for word in counts if "".join(word) == RARE + END)
    counts[rare] = max(counts.values())  # whole before all else
    return counts


def _learn(words: Counter[tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """The commonest neighbours, joined one pair after the other; of equally common ones the first in the alphabet."""
    merges: list[tuple[str, str]] = []
    pairs: Counter[tuple[str, str]] = Counter()
    for word, n in words.items():
        for pair in pairwise(word):
            pairs[pair] += n
    left = dict(words)
    while len(merges) < count and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in [word for word in left if best in pairwise(word)]:
            n = left.pop(word)
            joined = _join(word, best)
            left[joined] = left.get(joined, 0) + n
            for pair in pairwise(word):
                pairs[pair] -= n
            for pair in pairwise(joined):
                pairs[pair] += n
        pairs = +pairs
    return merges


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    i = 0
    while i < len(word):
        both = word[i : i + 2] == pair
        found.append("".join(pair) if both else word[i])
        i += 2 if both else 1
    return tuple(found)
