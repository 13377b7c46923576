"""One LoRA learned on the pictures of both concepts at once.

It takes all the steps that a whole customization has (break of the content, break of the style, make), with half of
each batch for each concept, and has no two scales: what it has learned cannot be told apart.
"""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import fused, summed
from benchmarks.pairs.methods.lora import together
from benchmarks.pairs.methods.ready import Ready, opened
from training.config import Steps


def joint(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, steps = opened(changes), Steps(**changes.get("steps", {}))
    factors = together(pipe, cell, seed, changes, 2 * steps.break_ + steps.make)
    ready = fused(pipe, cell, summed(factors, {}))
    return Ready(ready.pipe, ready.prompt, None)
