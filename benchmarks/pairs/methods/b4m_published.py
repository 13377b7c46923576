"""Break-for-Make as its authors have it (arXiv 2403.19456), on this base.

As they describe and release it: the constant block A C is not zero; adapters on the projections of attention alone;
AdamW; the other's half learns on three pictures of other concepts a step, at a tenth of the rate; and a make as long as
a break run, at the same rate, with Riemannian preconditioning. Rate and steps are scaled to this base: the rate is
chosen like every rival's, the break runs' steps are everyone's, and make has those of the style's. What the preset of
this base has of its own is left out. `adapter.content_half` gives the content one factor or the other, on which their
figure and their code disagree.

Otherwise than in their code, where it departs from their text: make starts from what the break runs have learned in all
layers, the preconditioner runs, and each loss moves its own half alone. The rate falls over a run, as every rival's.
"""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.joined import join, of_one
from benchmarks.pairs.methods.lora import RATE
from benchmarks.pairs.methods.ready import Ready, over, project
from training.stages import steps_of

OURS = {  # the preset's own, taken back
    "content": {"prior_weight": 0.0, "variants": {}, "rate": 1.0},
    "style": {"prior_weight": 0.0, "reach": 0.0},
    "adapter": {"split": "factors", "content_in": "everywhere", "style_in": "everywhere"},
}


def b4m_published(cell: Cell, seed: int, changes: dict) -> Ready:
    tables = published(changes)
    return join(cell, seed, tables, make=steps_of(of_one("style", cell.style, seed, tables), "style"))


def published(changes: dict) -> dict:
    """The authors' settings, with changes over them."""
    rate = changes.get("optimizer", {}).get("lr", RATE)
    theirs = {
        "adapter": OURS["adapter"] | {"constant_block": "released", "layers": "attention"},
        "optimizer": {"name": "adamw", "lr": rate, "make_lr": rate, "weak": 0.1},
        "make": {"precondition": True},
        "steps": {"others_batch_size": 3},
    }
    return over(OURS | theirs, project(changes))
