"""The methods beside each other on the test cells: python -m benchmarks.pairs.summary

Reads results/cells.jsonl, writes results/summary.json and docs/pictures/pairs-frontier.png. A cell counts where every
method has it, and a seed where every such cell has it; seeds are averaged. Intervals are bootstraps of 95 % over cells.
"""

import json
from statistics import mean

import numpy as np
from matplotlib import colormaps
from PIL import Image
from scipy.stats import bootstrap

from benchmarks.common.drawing import rounded
from benchmarks.common.plot import new_figure, picture
from benchmarks.pairs.cells import cells
from benchmarks.pairs.methods import METHODS, RIVALS
from benchmarks.pairs.run import LINES, lines
from pipelines.errors import UserError
from training import sheet
from training.config import HOUSE

SUMMARY, PLOT = LINES.with_name("summary.json"), HOUSE / "docs/pictures/pairs-frontier.png"
OURS, JUDGE, SECOND = "ours", "judge", "judge-2"
FIGURES = ("content", "style", "harmonic", "frontier")

Scores = dict[str, dict[tuple[str, str], list[dict]]]  # method -> cell -> its lines, one for each seed


def scores(found: list[dict], wanted: set[tuple[str, str]]) -> Scores:
    """The lines of some cells, with the seeds that every method has for all of them.

    Raises:
        UserError: there are none, or a method has lines of two sets of changes.
    """
    by: Scores = {}
    changes: dict[str, list] = {}
    for line in found:
        method, cell = line["method"], (line["content"], line["style"])
        if cell in wanted:
            if changes.setdefault(method, line["changes"]) != line["changes"]:
                told = " and ".join(" ".join(each) or "none" for each in (changes[method], line["changes"]))
                raise UserError(f"{method} has test cells with two sets of changes ({told})", "Keep the lines of one")
            by.setdefault(method, {}).setdefault(cell, []).append(line)
    shared = set.intersection(*({*of} for of in by.values())) if by else set()
    if len(shared) < 2:
        raise UserError(f"{len(shared)} test cells have been scored with every method", "Score them first")
    seeds = set.intersection(*({line["seed"] for line in of[cell]} for of in by.values() for cell in shared))
    if not seeds:
        raise UserError("The methods have no seed in common", "Score every test cell with the same seeds")
    return {
        method: {cell: [line for line in of[cell] if line["seed"] in seeds] for cell in sorted(shared)}
        for method, of in by.items()
    }


def summary(by: Scores) -> dict:
    """What is said of the methods, by the first judge, and by the second under its name."""
    first = next(iter(by.values()))
    seeds = len(next(iter(first.values())))
    return rounded(
        {"test_cells": len(first), "seeds": seeds, **told(by, JUDGE), "second_judge": told(by, SECOND)},
    )


def told(by: Scores, judge: str) -> dict:
    methods = {}
    for method in (one for one in METHODS if one in by):
        of = {figure: values(by[method], judge, figure) for figure in FIGURES}
        intervals = {figure: interval(of[figure]) for figure in FIGURES}
        low, high = intervals.pop("harmonic")
        row = {figure: float(of[figure].mean()) for figure in FIGURES}
        methods[method] = row | {"low": low, "high": high, "intervals": intervals}
    paired = {}
    for rival in (one for one in RIVALS if one in by and OURS in by):
        apart = values(by[OURS], judge, "harmonic") - values(by[rival], judge, "harmonic")
        low, high = interval(apart)
        paired[rival] = {"mean": float(apart.mean()), "low": low, "high": high}
    return {"methods": methods, "paired": paired}


def values(of: dict[tuple[str, str], list[dict]], judge: str, figure: str) -> np.ndarray:
    """A figure of each cell, a mean over its seeds."""
    return np.array([mean(line[judge][figure] for line in some) for some in of.values()])


def interval(found: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the mean when cells are drawn anew."""
    drawn = bootstrap((found,), np.mean, confidence_level=0.95, method="percentile", rng=0)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def frontiers(by: Scores, judge: str = JUDGE) -> dict[str, np.ndarray]:
    """Method -> mean content and style at each scale of the style, (scales, 2)."""
    return {
        method: np.mean([np.mean([line[judge]["points"] for line in some], 0) for some in by[method].values()], 0)
        for method in METHODS
        if method in by
    }


def plot(by: Scores) -> Image.Image:
    """Content against style while the style's scale grows."""
    figure, axes = new_figure((7.6, 5.2))
    axes.set(title="Content against style, style scale 0 to 1.5", xlabel="content", ylabel="style")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for k, (method, points) in enumerate(frontiers(by).items()):
        wide = {"linewidth": 3} if method == OURS else {}
        axes.plot(*points.T, marker="o", markersize=4, label=method, color=colormaps["tab20"](k), **wide)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return picture(figure)


def main() -> None:
    by = scores(lines(), {(cell.content, cell.style) for cell in cells("test")})
    SUMMARY.write_text(json.dumps(summary(by), indent=1) + "\n", encoding="utf-8")
    sheet.save(plot(by), PLOT)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
