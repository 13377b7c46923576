"""Pictures that a base draws for a measurement, and how they are looked at."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipelines import CFG, GuidanceRule
from training import checkpoint, sheet
from training.base import data
from training.base.data import Pair, Pictures
from training.base.judge import Judge
from training.config import HOUSE
from training.draws import keyed

STEPS = 20
BATCH = 32
PLAIN = CFG()
CAPTION = "{}, {} style"


def both_judges() -> dict[str, Judge]:
    """The judges that ship, the one that guides choices and the one that confirms."""
    return {name: Judge.load(HOUSE / "models" / name) for name in ("judge", "judge-2")}


def prompts(pictures: Pictures, count: int) -> tuple[list[Pair], list[Pair]]:
    """Trained pairs, no pair twice before all have come, and left-out ones, in an order of their own."""

    def some(pairs: list[Pair], wanted: int, name: str) -> list[Pair]:
        order = torch.randperm(len(pairs), generator=keyed("prompts", name)).tolist()
        return [pairs[order[i % len(order)]] for i in range(wanted)]

    left = count // 5
    trained = some(data.known_pairs(pictures), count - left, "trained")
    return trained, some(data.known_pairs(pictures, left_out=True), left, "left out")


def draw(
    pipe: DiffusionPipeline,
    pairs: list[Pair],
    scale: float,
    folder: Path,
    rule: GuidanceRule = PLAIN,
    steps: int = STEPS,
) -> Tensor:
    """uint8 (n, 64, 64, 3), picture i from seed i. What was drawn before is read back."""
    parts = []
    for first in range(0, len(pairs), BATCH):
        path = folder / f"w{scale:g}-{first:04d}.safetensors"
        if not path.exists():
            some, began = pairs[first : first + BATCH], time.monotonic()
            texts, seeds = [CAPTION.format(*pair) for pair in some], tuple(range(first, first + len(some)))
            images = sheet.draw(pipe, texts, seeds, data.SIZE, scale, steps, rule)
            checkpoint.write_tensors(path, {"pixels": tensor(images)})
            passed = time.monotonic() - began
            print(f"{folder.name}  w {scale:g}  {first + len(some)}/{len(pairs)}  {passed:.1f} s", flush=True)
        parts.append(load_file(path)["pixels"])
    return torch.cat(parts)


def tensor(images: list[Image.Image]) -> Tensor:
    size = images[0].size
    return torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(*size, 3) for i in images])


def looks(pictures: list[Image.Image]) -> dict[str, float]:
    """What too much guidance changes first. Means over pictures.

    Returns:
        saturation: of HSV, (max - min) / max over the channels; clipped: share of channel values at either end of
        0..255, white grounds left out; contrast: standard deviation of the luminance (Rec. 601) within a picture.
    """
    pixels = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float64)
    high, low = pixels.max(-1), pixels.min(-1)
    drawn = low < 250  # not the white ground
    ends = ((pixels == 0) | (pixels == 255)).mean(-1)
    luminance = pixels / 255 @ np.array([0.299, 0.587, 0.114])
    figures = {
        "saturation": ((high - low) / np.maximum(high, 1))[drawn].mean(),
        "clipped": ends[drawn].mean(),
        "contrast": luminance.std((1, 2)).mean(),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def rounded(value: Any) -> Any:
    """A result with every number in it to four places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value
