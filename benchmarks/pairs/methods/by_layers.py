"""Two LoRAs that share no layer: the style in the convolutions at fine positions, the content everywhere else.

Convolutions hear no word, and those at fine positions see little of a picture at once. What they learn cannot be a
picture of the contents that they were shown.
"""

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import fused, summed
from benchmarks.pairs.methods.lora import alone
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own

FINE = (  # the two finest of the embedded base's three resolutions
    r"conv_in|conv_out|(down_blocks\.[01]|up_blocks\.[12])\.resnets\.\d+\.conv[12]"
    r"|down_blocks\.0\.downsamplers\.0\.conv|up_blocks\.1\.upsamplers\.0\.conv"
)
COARSE = (
    r".*\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
    r"|(down_blocks\.2|mid_block|up_blocks\.0)\.resnets\.\d+\.conv[12]"
)
OWN["by_layers"] = {"style": FINE, "content": COARSE, "style_rate": 2e-3, "style_steps": 400}
OWN["by_layers"] |= {"style_prior": None, "style_weight": None}  # of others beside the style; as LoRA's own where None


def by_layers(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, settings = opened(changes), own("by_layers", changes)
    theirs = {"optimizer": {"lr": settings.style_rate}, "steps": {"break": settings.style_steps}}
    prior = {"prior": settings.style_prior, "prior_weight": settings.style_weight}
    theirs["lora"] = {key: value for key, value in prior.items() if value is not None}
    for_style = changes | {table: changes.get(table, {}) | values for table, values in theirs.items()}
    content = alone(pipe, "content", cell, seed, changes, settings.content)
    style = alone(pipe, "style", cell, seed, for_style, settings.style)
    return fused(pipe, cell, summed(content, style))
