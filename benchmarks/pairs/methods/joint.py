"""One LoRA learned on the pictures of both concepts at once.

It takes as many steps as content and style have together where they are learned apart, with half of each batch for
each concept, and has no two scales: what it has learned cannot be told apart.
"""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import fused, summed
from benchmarks.pairs.methods.lora import together
from benchmarks.pairs.methods.ready import Ready, opened


def joint(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe = opened(changes)
    factors = together(pipe, cell, seed, changes)
    ready = fused(pipe, cell, summed(factors, {}))
    return Ready(ready.pipe, ready.prompt, None)
