"""The methods that are compared on cells: each makes a pipeline ready to draw a cell.

A content's run does not depend on the style, nor a style's on the content, so such runs are made once for all cells.
"""

from collections.abc import Callable

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.b4m_published import b4m_published
from benchmarks.pairs.methods.b_lora import b_lora
from benchmarks.pairs.methods.by_layers import by_layers
from benchmarks.pairs.methods.craft_lora import craft_lora
from benchmarks.pairs.methods.direct_sum import direct_sum
from benchmarks.pairs.methods.joined import joined, ours, words
from benchmarks.pairs.methods.joint import joint
from benchmarks.pairs.methods.k_lora import k_lora
from benchmarks.pairs.methods.np_lora import np_lora
from benchmarks.pairs.methods.ready import Ready, folder
from benchmarks.pairs.methods.subspace_blending import subspace_blending
from benchmarks.pairs.methods.zip_lora import zip_lora

__all__ = ["LEARNING", "METHODS", "RIVALS", "Ready", "folder"]

# In the order of the summary.
RIVALS: dict[str, Callable[[Cell, int, dict], Ready]] = {
    "base": words,
    "direct_sum": direct_sum,
    "joint": joint,
    "b_lora": b_lora,
    "zip_lora": zip_lora,
    "k_lora": k_lora,
    "np_lora": np_lora,
    "craft_lora": craft_lora,
    "subspace_blending": subspace_blending,
    "b4m_published": b4m_published,
}
LEARNING = [method for method in RIVALS if method != "base"]
METHODS: dict[str, Callable[[Cell, int, dict], Ready]] = RIVALS | {
    "by_layers": by_layers,
    "joined": joined,
    "ours": ours,
}
