"""A base in a single file, opened without a network: what a file leaves out lies in `configs/`.

That is the shape of each part, and the tokenizer. CLIP's is known by its list of merges, from which the vocabulary
follows.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from transformers import CLIPTokenizer

from training.families.family import PARTS
from training.families.stable_diffusion import END, START, StableDiffusion

CONFIGS = Path(__file__).parent / "configs"  # a folder for each family, as diffusers has them, without weights


def open_single_file(path: str, family: StableDiffusion, dtype: torch.dtype) -> DiffusionPipeline:
    """Open a file in the layout of Stability AI's.

    Raises:
        ValueError, RuntimeError: a tensor is missing, in the part that is named, or of another shape.
    """
    shared = {"config": str(CONFIGS / family.name), "local_files_only": True, "dtype": dtype}
    parts = {name: clip_tokenizer(pad) for name, pad in zip(("tokenizer", "tokenizer_2"), family.pads, strict=False)}
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        with _naming(PARTS[name]):
            parts[name] = kind.from_single_file(path, subfolder=name, **shared)
    with _naming(PARTS["text_encoder"]):
        return getattr(diffusers, family.pipeline).from_single_file(path, **shared, **parts)


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """What is raised inside for a tensor that the file does not hold names the part."""
    try:
        yield
    except (KeyError, NotImplementedError, SingleFileComponentError):  # it is looked up, or wanted from "meta"
        raise ValueError(f"a tensor of its {part} is missing") from None


def clip_tokenizer(pad: str = END) -> CLIPTokenizer:
    """The tokenizer of all CLIP text encoders: 49,408 words and pieces of words, 77 of them at a time."""
    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The bytes, the bytes at a word's end, what each merge makes, start and end; and the merges."""
    lines = gzip.decompress((CONFIGS / "merges.txt.gz").read_bytes()).decode().splitlines()
    merges = [(first, second) for first, second in map(str.split, lines)]
    # The 256 bytes as letters: those that print as themselves come first, the 68 others are letters from 256 on.
    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {piece: number for number, piece in enumerate(pieces)}, merges
