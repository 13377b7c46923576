"""Two LoRAs that share no layer: the style where the denoiser sees single positions, the content everywhere else.

The embedded base's outermost blocks are convolutions alone. They hear neither a word nor what lies further away, so
that what they learn cannot be a picture of the contents that they were shown.
"""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import fused, summed
from benchmarks.pairs.methods.lora import alone
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own

OUTER = r"(down_blocks\.0|up_blocks\.2)\.(resnets\.\d+\.conv[12]|downsamplers\.0\.conv)|conv_in|conv_out"
INNER = (
    r"(down_blocks\.[12]|mid_block|up_blocks\.[01])\..*(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)"
    r"|resnets\.\d+\.conv[12])"
)
OWN["by_layers"] = {"style": OUTER, "content": INNER, "style_rate": 2e-3, "style_steps": 400}


def by_layers(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, settings = opened(changes), own("by_layers", changes)
    theirs = {"optimizer": {"lr": settings.style_rate}, "steps": {"break": settings.style_steps}}
    for_style = changes | {table: changes.get(table, {}) | values for table, values in theirs.items()}
    content = alone(pipe, "content", cell, seed, changes, settings.content)
    style = alone(pipe, "style", cell, seed, for_style, settings.style)
    return fused(pipe, cell, summed(content, style))
