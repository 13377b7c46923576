"""What goes wrong and how it looks, for docs/break-for-make.md: python -m benchmarks.pairs.failures

Cells whose scores say that they fail so (results/cells.jsonl), and one that does not, six seeds each: learned by the
product, split by rank, drawn at the scales that are named. Writes docs/pictures/failures.png.
"""

from dataclasses import dataclass

import torch
from PIL import Image

from benchmarks.common.changes import parsed
from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.joined import joined
from benchmarks.pairs.score import GUIDANCE, STEPS
from pipelines import CFG
from training import sheet
from training.base.data import SIZE
from training.config import HOUSE

PICTURE = HOUSE / "docs/pictures/failures.png"
SEEDS = tuple(range(6))
LEARNED = (
    "adapter.split=rank",
    "adapter.rank=64",
    "adapter.content_in=everywhere",
    "adapter.style_in=everywhere",
    "optimizer.name=adamw",
    "optimizer.lr=3e-3",
    "optimizer.weak=0",
    "content.prior_weight=0.1",
    "content.rate=1",
    "style.reach=0.67",
)
CALM = (*LEARNED, "content.rate=0.33")


@dataclass(frozen=True)
class Failure:
    cell: Cell
    changes: tuple[str, ...] = CALM
    content: float = 1.0  # scales
    style: float = 1.0
    guidance_scale: float = GUIDANCE
    plain: bool = False  # classifier-free guidance


FAILURES = {
    "right": Failure(Cell("guitar", "neon")),
    "no style": Failure(Cell("elephant", "streamline")),
    "no content": Failure(Cell("guitar", "streamline"), style=2.0),
    "burnt": Failure(Cell("guitar", "neon"), guidance_scale=12.0, plain=True),
    "leak": Failure(Cell("guitar", "streamline"), LEARNED),
}


def draw(failure: Failure) -> list[Image.Image]:
    changes = parsed(failure.changes)
    ready = joined(failure.cell, 0, changes)
    ready.set_scales(failure.content, failure.style)
    rule = CFG() if failure.plain else None
    prompts = [ready.prompt] * len(SEEDS)
    return sheet.draw(ready.pipe, prompts, SEEDS, SIZE, failure.guidance_scale, STEPS, rule)


def main() -> None:
    torch.set_num_threads(1)
    rows = {name: draw(failure) for name, failure in FAILURES.items()}
    sheet.save(sheet.compose(rows, "A content in a style, and how it goes wrong", cell=112), PICTURE)


if __name__ == "__main__":
    main()
