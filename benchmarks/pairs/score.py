"""What a cell's pictures are worth: content and style by both judges, what leaks, what is kept, and the trade."""

from collections.abc import Callable, Sequence
from statistics import harmonic_mean

import torch
from torch import Tensor

from benchmarks.common.drawing import tensor
from benchmarks.pairs.cells import Cell, pictures, shown
from training import sheet
from training.base import data
from training.base.data import SPLIT
from training.base.judge import Judge
from training.config import PRESETS
from training.draws import keyed

SEEDS = tuple(range(16))
STYLE_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
GUIDANCE, STEPS = PRESETS["emoji"]["samples"]["guidance_scale"], 15  # as the product samples
Draw = Callable[[list[str], tuple[int, ...]], Tensor]  # prompts and seeds -> uint8 (n, 64, 64, 3)


def drawer(pipe, guidance_scale: float = GUIDANCE) -> Draw:
    """How the product draws: the base's own rule of guidance at its usual scale."""

    def draw(prompts: list[str], seeds: tuple[int, ...]) -> Tensor:
        return tensor(sheet.draw(pipe, prompts, seeds, data.SIZE, guidance_scale, STEPS))

    return draw


def score(
    cell: Cell,
    draw: Draw,
    set_scales: Callable[[float, float], None] | None,
    judges: dict[str, Judge],
    prompt: str,
    scales: Sequence[float] = STYLE_SCALES,
) -> tuple[dict, Tensor]:
    """All figures of a cell, and its pictures, a seed each, uint8 (16, 64, 64, 3).

    Args:
        draw: with what was learned on.
        set_scales: of content and style; None of a method that has no two scales.
        prompt: what asks for the cell.
        scales: of the style, 1 among them; the frontier is drawn through them.
    """
    across = {}
    for scale in scales if set_scales else (1.0,):
        if set_scales:
            set_scales(1.0, scale)
        across[scale] = draw([prompt] * len(SEEDS), SEEDS)
    if set_scales:
        set_scales(1.0, 1.0)
    pixels, found = across[1.0], {}
    known = kept_pairs()
    kept = draw([f"{content}, {style} style" for content, style in known], SEEDS)
    for name, judge in judges.items():
        told = shares(judge, pixels, cell)
        points = [shares(judge, drawn, cell) for drawn in across.values()]
        truth = judge.features(pictures().pixels[[pictures().where[cell.content, cell.style]]])
        found[name] = told | {
            "harmonic": harmonic_mean([told["content"], told["style"]]),
            "distance": (judge.features(pixels) - truth).norm(dim=1).mean().item(),
            "frontier": area([(point["content"], point["style"]) for point in points]),
            "points": [[point["content"], point["style"]] for point in points],
            "leaks": leaks(judge, pixels, cell),
            "kept": both_right(judge, kept, known),
        }
    found["differ"] = spread(pixels)
    return found, pixels


def shares(judge: Judge, pixels: Tensor, cell: Cell) -> dict[str, float]:
    """Content and style as shares of what the judge says of the real pictures of that content and of that style."""
    content, style = ceilings(judge, cell)
    says = judge.says(pixels, judge.config["styles"], judge.config["contents"])
    told_content = sum(said[0] == cell.content for said in says) / len(says)
    told_style = sum(said[1] == cell.style for said in says) / len(says)
    return {"content": min(1.0, told_content / content), "style": min(1.0, told_style / style)}


def ceilings(judge: Judge, cell: Cell) -> tuple[float, float]:
    """How often the judge tells the content of its real pictures, and the style of real pictures in it."""
    contents = [pair for pair in pictures().pairs if pair[0] == cell.content and pair[1] in judge.config["styles"]]
    styles = [pair for pair in pictures().pairs if pair[1] == cell.style and pair[0] in judge.config["contents"]]
    found = []
    for which, pairs in enumerate((contents, styles)):
        says = judge.says(pictures().take(pairs).pixels, judge.config["styles"], judge.config["contents"])
        found.append(sum(said[which] == pair[which] for said, pair in zip(says, pairs, strict=True)) / len(pairs))
    return found[0], found[1]


def area(points: list[tuple[float, float]]) -> float:
    """Of the part of the unit square that is below and left of one of the points."""
    total, height = 0.0, 0.0
    for content, style in sorted(points, reverse=True):
        total += content * max(0.0, style - height)
        height = max(height, style)
    return total


def leaks(judge: Judge, pixels: Tensor, cell: Cell) -> dict[str, float]:
    """Shares of the pictures that show a style of the content's pictures, or a content of the style's."""
    says = judge.says(pixels, judge.config["styles"], judge.config["contents"])
    styles = {style for _, style in shown("content", cell.content)}
    contents = {content for content, _ in shown("style", cell.style)}
    return {
        "style of content's": sum(style in styles for _, style in says) / len(says),
        "content of style's": sum(content in contents for content, _ in says) / len(says),
    }


def kept_pairs() -> list[data.Pair]:
    """Known contents in known styles, one for each seed."""
    known = data.known_pairs(data.load())
    order = torch.randperm(len(known), generator=keyed("kept"))[: len(SEEDS)].tolist()
    return [known[i] for i in order]


def both_right(judge: Judge, pixels: Tensor, pairs: list[data.Pair]) -> float:
    says = judge.says(pixels, SPLIT["styles"], SPLIT["contents"])
    return sum(said == pair for said, pair in zip(says, pairs, strict=True)) / len(pairs)


def spread(pixels: Tensor) -> float:
    """How far two pictures of different seeds are apart, in grey levels of 255, a mean over pairs and pixels."""
    x = pixels.flatten(1).float()
    apart = torch.cdist(x, x, p=1) / x.shape[1]
    return (apart.sum() / (len(x) * (len(x) - 1))).item()
