"""The methods that are compared on cells: each makes a pipeline ready to draw a cell.

A content's run does not depend on the style, nor a style's on the content, so such runs are made once for all cells.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline

from benchmarks.pairs.cells import Cell, customization
from training import Run, customize, mixed
from training.config import Customization, Steps
from training.model import open_base
from training.run import runs_folder
from training.sampling import guided_pipeline


@dataclass(frozen=True)
class Ready:
    """A pipeline with what a method has learned on it, the prompt that asks for the cell, and its two scales."""

    pipe: DiffusionPipeline
    prompt: str
    set_scales: Callable[[float, float], None]


def folder() -> Path:
    return runs_folder().parent / "pairs"


def learned(config: Customization) -> Run:
    """The run of a customization, made if it is not there yet; one folder for each that differs in anything."""
    data = json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True)
    place = f"{config.name} {hashlib.sha256(data.encode()).hexdigest()[:12]}".replace(" ", "-")
    run = Run(folder() / "runs" / place)
    return run if run.status == "done" else customize(config, run.folder)


def words(cell: Cell, seed: int, changes: dict) -> Ready:
    """The base alone, asked in words that it knows."""
    pipe = opened(changes)
    return Ready(pipe, cell.class_words, lambda content, style: None)


def joined(cell: Cell, seed: int, changes: dict) -> Ready:
    """Content and style learned apart and joined, without training after it."""
    return _mixed(cell, seed, changes, make=0)


def ours(cell: Cell, seed: int, changes: dict) -> Ready:
    """Content and style learned apart, joined, and fine-tuned, as a project file has it."""
    return _mixed(cell, seed, changes, make=Steps(**changes.get("steps", {})).make)


def _mixed(cell: Cell, seed: int, changes: dict, make: int) -> Ready:
    runs = {
        kind: learned(customization({kind: getattr(cell, kind)}, changes | {"seed": seed}))
        for kind in ("content", "style")
    }
    run = learned(mixed(runs["content"].folder, runs["style"].folder, make))
    pipe = opened(changes)
    pipe.load_adapter(run.adapter)
    return Ready(pipe, cell.prompt, lambda content, style: pipe.set_scales(content=content, style=style))


def opened(changes: dict) -> DiffusionPipeline:
    config = Customization(content={"pictures": "."}, **{k: v for k, v in changes.items() if k in ("base", "preset")})
    return guided_pipeline(open_base(config.resolved_base()), config.preset)


METHODS: dict[str, Callable[[Cell, int, dict], Ready]] = {"base": words, "joined": joined, "ours": ours}
