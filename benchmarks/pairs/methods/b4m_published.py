"""Break-for-Make as its authors have it (arXiv 2403.19456), on this base.

As they describe and release it: the constant block A C is not zero; adapters on the projections of attention alone;
AdamW; the other's half learns on three pictures of other concepts a step, at a tenth of the rate; and a make as long as
a break run, at the same rate, with Riemannian preconditioning. Rate and steps are scaled to this base: the rate is
chosen like every rival's, the steps are everyone's. `adapter.content_half` gives the content one factor or the other,
on which their figure and their code disagree.

Otherwise than in their code, where it departs from their text: make starts from what the break runs have learned in all
layers, the preconditioner runs, and each loss moves its own half alone. The rate falls over a run, as every rival's.
"""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.joined import join
from benchmarks.pairs.methods.lora import RATE
from benchmarks.pairs.methods.ready import Ready, over, project
from training.config import Steps


def b4m_published(cell: Cell, seed: int, changes: dict) -> Ready:
    tables = published(changes)
    return join(cell, seed, tables, make=Steps(**tables["steps"]).make)


def published(changes: dict) -> dict:
    """The authors' settings, with changes over them."""
    rate = changes.get("optimizer", {}).get("lr", RATE)
    steps = Steps(**changes.get("steps", {})).break_
    theirs = {
        "adapter": {"constant_block": "released", "layers": "attention"},
        "optimizer": {"name": "adamw", "lr": rate, "make_lr": rate, "weak": 0.1},
        "make": {"precondition": True},
        "steps": {"make": steps, "others_batch_size": 3},
    }
    return over(theirs, project(changes))
