"""The base in words, and Joinery's own: learned apart, joined, and fine-tuned after it."""

import hashlib
import json

from benchmarks.pairs.cells import Cell, customization
from benchmarks.pairs.methods.ready import OWN, Ready, folder, opened, over, own, project
from training import Run, customize, mixed
from training.config import Customization, Steps

# Tables of the project for the run of one concept alone, for example apart.style.optimizer.name=adamw.
OWN["apart"] = {"content": {}, "style": {}}


def learned(config: Customization) -> Run:
    """The run of a customization, made if it is not there yet; one folder for each that differs in anything."""
    data = json.dumps(config.model_dump(mode="json", by_alias=True), sort_keys=True)
    place = f"{config.name} {hashlib.sha256(data.encode()).hexdigest()[:12]}".replace(" ", "-")
    run = Run(folder() / "runs" / place)
    return run if run.status == "done" else customize(config, run.folder)


def words(cell: Cell, seed: int, changes: dict) -> Ready:
    """The base alone, asked in words that it knows."""
    return Ready(opened(changes), cell.class_words, None)


def joined(cell: Cell, seed: int, changes: dict) -> Ready:
    """Content and style learned apart and joined, without training after it."""
    return join(cell, seed, changes, make=0)


def ours(cell: Cell, seed: int, changes: dict) -> Ready:
    """Content and style learned apart, joined, and fine-tuned, as a project file has it."""
    return join(cell, seed, changes, make=Steps(**changes.get("steps", {})).make)


def join(cell: Cell, seed: int, changes: dict, make: int) -> Ready:
    """A content's run does not depend on the style, nor a style's on the content: such runs serve all cells.

    Args:
        make: steps of fine-tuning after joining.
    """
    runs = {
        kind: learned(of_one(kind, getattr(cell, kind), seed, over(changes, tables)))
        for kind, tables in vars(own("apart", changes)).items()
    }
    run = learned(mixed(runs["content"].folder, runs["style"].folder, make))
    pipe = opened(changes)
    pipe.load_adapter(run.adapter)
    return Ready(pipe, cell.prompt, lambda content, style: pipe.set_scales(content=content, style=style))


def of_one(kind: str, name: str, seed: int, changes: dict) -> Customization:
    """The customization of a content or a style alone."""
    tables = over({"samples": {"every": 0}}, project(changes)) | {"seed": seed}
    tables["steps"] = {key: value for key, value in tables.get("steps", {}).items() if key != "make"}
    return customization({kind: name}, tables)
