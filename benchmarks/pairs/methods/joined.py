"""The base in words, and Joinery's own: learned apart, joined, and fine-tuned after it."""

import hashlib
import json
from collections.abc import Callable

from diffusers import DiffusionPipeline

from benchmarks.pairs.cells import SHOWN, Cell, customization, prompt_with
from benchmarks.pairs.methods.prompted import without_prompt
from benchmarks.pairs.methods.ready import OWN, Ready, folder, opened, over, own, project
from training import Run, customize, mixed
from training.base.data import SIZE
from training.config import Customization

# Tables of the project for the run of one concept alone, for example apart.style.optimizer.name=adamw; and "bare": the
# adapter is off in the unconditional half of guidance.
OWN["apart"] = {"content": {}, "style": {}, "bare": False}
OWN["shown"] = {"content": SHOWN, "style": SHOWN}  # pictures that each is learned from, for example shown.content=3


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
    """Content and style learned apart, joined, and fine-tuned where the preset or the changes have it."""
    both = customization({"content": cell.content, "style": cell.style}, project(changes))
    return join(cell, seed, changes, make=both.steps.make)


def join(cell: Cell, seed: int, changes: dict, make: int) -> Ready:
    """A content's run does not depend on the style, nor a style's on the content: such runs serve all cells.

    Args:
        make: steps of fine-tuning after joining.
    """
    apart = own("apart", changes)
    runs = {
        kind: learned(of_one(kind, getattr(cell, kind), seed, over(changes, tables)))
        for kind, tables in (("content", apart.content), ("style", apart.style))
    }
    run = learned(mixed(runs["content"].folder, runs["style"].folder, make))
    pipe, set_scales = loaded(run, changes)
    words = run.customization().concepts  # a change may name another class word than the cell has
    return Ready(
        pipe,
        prompt_with(words["content"].class_word, words["style"].class_word),
        lambda content, style: set_scales(content=content, style=style),
    )


def loaded(run: Run, changes: dict) -> tuple[DiffusionPipeline, Callable[..., None]]:
    """The base with a run's adapter, and what sets its scales by name."""
    pipe, scales = opened(changes), {}
    pipe.load_adapter(run.adapter)

    def set_scales(**found: float) -> None:
        scales.update(found)
        pipe.set_scales(**found)

    set_scales(**dict.fromkeys(run.customization().concepts, 1.0))
    if own("apart", changes).bare:
        off = dict.fromkeys(scales, 0.0)
        without_prompt(pipe, changes.get("resolution", SIZE), lambda on: pipe.set_scales(**scales if on else off))
    return pipe, set_scales


def of_one(kind: str, name: str, seed: int, changes: dict) -> Customization:
    """The customization of a content or a style alone."""
    tables = over({"samples": {"every": 0}}, project(changes)) | {"seed": seed}
    tables["steps"] = {key: value for key, value in tables.get("steps", {}).items() if key != "make"}
    return customization({kind: name}, tables, getattr(own("shown", changes), kind))
