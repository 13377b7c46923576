"""B-LoRA (arXiv 2403.14572): the content in one attention block, the style in another.

Both blocks learn together, on the content's pictures and again on the style's; what is drawn with has the content's
block from the first run and the style's from the second. The projections of self- and cross-attention learn. Which
block is whose was probed on this base as the authors probed theirs (`python -m benchmarks.pairs.blocks`). Captions are
those of the other rivals, where the authors have "A [v]" for every picture.
"""

import json
import re
from pathlib import Path

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import Factors, fused, summed
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own

BLOCKS = Path(__file__).parents[1] / "results/blocks.json"
OWN["b_lora"] = {"content": "", "style": ""}  # names of attention blocks; empty: the probed ones
PROJECTIONS = r"\..*attn[12]\.(to_q|to_k|to_v|to_out\.0)"


def b_lora(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, settings = opened(changes), own("b_lora", changes)
    if not (settings.content and settings.style):
        chosen = json.loads(BLOCKS.read_text(encoding="utf-8"))["chosen"]
        settings.content, settings.style = settings.content or chosen["content"], settings.style or chosen["style"]
    either = "|".join(re.escape(block) for block in (settings.content, settings.style))
    content, style = both(pipe, cell, seed, changes, f"({either}){PROJECTIONS}")
    return fused(pipe, cell, summed(within(content, settings.content), within(style, settings.style)))


def within(factors: Factors, block: str) -> Factors:
    """Those of the layers in a block."""
    return {name: pair for name, pair in factors.items() if name.startswith(f"{block}.")}
