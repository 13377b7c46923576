"""Two LoRAs learned apart, added: Delta = c Delta_c + s Delta_s."""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import fused, summed
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.ready import Ready, opened


def direct_sum(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe = opened(changes)
    return fused(pipe, cell, summed(*both(pipe, cell, seed, changes)))
