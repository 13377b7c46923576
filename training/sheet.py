"""Labelled sheets of sample pictures, side by side: equal seeds for the base, each concept alone, and both joined."""

import io
from collections.abc import Sequence, Set
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from pipelines import CFG, GuidanceRule
from training import checkpoint
from training.config import Customization
from training.plan import SCALES
from training.plp import PartlyLearnable
from training.run import Run

SEEDS = (0, 1, 2, 3)
CELL = 160  # pixels of a picture on a sheet
LABEL = 84
LINE = 24  # of text above the pictures
GUIDANCE_SCALES = (2.0, 4.0, 8.0, 12.0)  # at which the final sheet shows CFG above APG


def draw(
    pipe: DiffusionPipeline,
    prompt: str | list[str],
    seeds: tuple[int, ...],
    resolution: int,
    guidance_scale: float,
    steps: int,
    guidance: GuidanceRule | None = None,
) -> list[Image.Image]:
    """One picture per seed, whichever other seeds are drawn with it; of one prompt, or of one each.

    Args:
        pipe: a guided one; `guidance` is its own rule if not given.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        return pipe(
            [prompt] * len(seeds) if isinstance(prompt, str) else prompt,
            height=resolution,
            width=resolution,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            guidance=guidance,
            generator=generators,
        ).images


def compose(
    rows: dict[str, list[Image.Image]], title: str = "", columns: Sequence[str] = (), cell: int = CELL
) -> Image.Image:
    """Rows of pictures, `cell` pixels each, with their labels at the left, and a title and the columns' names above."""
    count = max(len(pictures) for pictures in rows.values())
    heads = [head for head in (title, columns) if head]
    top = LINE * len(heads)
    sheet = Image.new("RGB", (LABEL + count * cell, top + len(rows) * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((6, 4), title, fill="black", font=font)
    for column, name in enumerate(columns):
        pen.text((LABEL + (column + 0.5) * cell, top - 6), name, fill="black", font=font, anchor="ms")
    for row, (label, pictures) in enumerate(rows.items()):
        pen.text((6, top + row * cell + cell // 2 - 8), label, fill="black", font=font)
        for column, picture in enumerate(pictures):
            # Small pictures are enlarged without smoothing, so that a person sees what the model drew.
            how = Image.Resampling.NEAREST if picture.width < cell else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((cell - 4, cell - 4), how), (LABEL + column * cell, top + row * cell + 2))
    return sheet


def stack(sheets: list[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    whole = Image.new("RGB", (max(one.width for one in sheets), sum(one.height for one in sheets)), "white")
    top = 0
    for one in sheets:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or not there: the studio shows the folder while it grows."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    checkpoint.write_bytes(path, buffer.getvalue())


def _needs(column: str) -> set[str]:
    """The concepts that a column shows."""
    return {concept for concept, scale in zip(("content", "style"), SCALES[column], strict=True) if scale}


class Strips:
    """The sample sheets of one training run."""

    def __init__(self, pipe: DiffusionPipeline, adapter: PartlyLearnable, config: Customization, run: Run):
        self.pipe, self.adapter, self.config, self.run = pipe, adapter, config, run
        self.columns: dict[str, list[Image.Image]] = {}  # the newest pictures of each column

    def draw(self, stage: str, step: int, done: dict[str, dict]) -> None:
        """Write `samples/step-000100.png` with every column that exists by now.

        Args:
            done: the halves with which earlier stages ended; the adapter itself is left as it was.
        """
        now = {concept: self.adapter.half(concept) for concept in ("content", "style")}
        halves = dict(done) if stage != "make" else {}
        halves |= {concept: half for concept, half in now.items() if stage in (concept, "make")}
        changed = {"content": {"content"}, "style": {"style", "joined"}, "make": set(SCALES) - {"base"}}[stage]
        for column in SCALES:
            if _needs(column) <= halves.keys() and (column in changed or column not in self.columns):
                for concept in now:
                    self.adapter.load_half(concept, halves.get(concept))
                self.columns[column] = self._pictures(column)
        for concept, half in now.items():
            self.adapter.load_half(concept, half)
        title = f"{stage}, step {step}: {self.config.sample_prompt}"
        save(self._compose(title), self.run.samples / f"step-{step:06d}.png")

    def finish(self, learned: Set[str]) -> None:
        """Write `samples/sheet.png` of what was learned: each column's seeds, then one of them with CFG above APG."""
        self.columns = {column: self._pictures(column) for column in SCALES if _needs(column) <= learned}
        rules = {}
        for rule in (CFG(), self.pipe.guidance):
            pictures = [self._draw(SEEDS[:1], scale, rule)[0] for scale in GUIDANCE_SCALES]
            rules[type(rule).__name__] = pictures
        below = compose(rules, "", [f"guidance scale {scale:g}" for scale in GUIDANCE_SCALES])
        save(stack([self._compose(self.config.sample_prompt), below]), self.run.sheet)

    def _pictures(self, column: str) -> list[Image.Image]:
        content, style = SCALES[column]
        self.adapter.set_scales(content, style)
        pictures = self._draw(SEEDS, self.config.samples.guidance_scale)
        self.adapter.set_scales()
        return pictures

    def _draw(self, seeds: tuple[int, ...], scale: float, rule: GuidanceRule | None = None) -> list[Image.Image]:
        config = self.config
        return draw(
            self.pipe, config.sample_prompt, seeds, config.resolution, scale, config.samples.inference_steps, rule
        )

    def _compose(self, title: str) -> Image.Image:
        columns = [column for column in SCALES if column in self.columns]
        rows = zip(*(self.columns[column] for column in columns), strict=True)
        return compose({f"seed {seed}": row for seed, row in zip(SEEDS, rows, strict=True)}, title, columns)
