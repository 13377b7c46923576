"""The fusion of CRAFT-LoRA (arXiv 2602.18936): adapters in ranges of timesteps, none in the unconditional half.

    Delta(t) = c [t in T_c] Delta_c + s [t in T_s] Delta_s        eps = (1 + w) eps_cond(Delta) - w eps_uncond(0)

The second is guidance as ever, at a scale of 1 + w, with the base alone in its unconditional half. The authors give
neither range, nor does their code. Our reading is that the content comes with the noise and the style after it, the
two together in the middle. Their fine-tuned backbone and their choice of layers by words of the prompt are left out:
every rival learns on the same base.
"""

from torch import Tensor

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import Delta, Now, fused
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.prompted import without_prompt
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own
from training.base.data import SIZE

# Shares of the schedule, 1 the noisiest.
OWN["craft_lora"] = {"content": [0.2, 1.0], "style": [0.0, 0.8]}


def craft_lora(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, ranges, now = opened(changes), own("craft_lora", changes), Now()
    content, style = both(pipe, cell, seed, changes)
    deltas = {name: ranged(content[name], style[name], ranges.content, ranges.style) for name in content}
    ready = fused(pipe, cell, deltas, now)
    without_prompt(pipe, changes.get("resolution", SIZE), lambda on: setattr(now, "on", on))
    return ready


def ranged(
    content: tuple[Tensor, Tensor],
    style: tuple[Tensor, Tensor],
    content_range: tuple[float, float],
    style_range: tuple[float, float],
) -> Delta:
    """A layer's delta, each half of the sum inside its range, ends included."""
    ours, theirs = (up @ down for up, down in (content, style))

    def inside(now: Now, stretch: tuple[float, float]) -> bool:
        return stretch[0] <= 1 - now.progress <= stretch[1]

    def delta(now: Now) -> Tensor:
        c, s = now.content * inside(now, content_range), now.style * inside(now, style_range)
        return c * ours + s * theirs

    return delta
