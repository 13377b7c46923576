"""Labelled sheets of sample pictures: the same seeds for the base, each concept alone, and both joined."""

import io
from collections.abc import Set
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from pipelines import GuidanceRule
from training import checkpoint
from training.config import Customization
from training.plp import PartlyLearnable
from training.run import Run

SEEDS = (0, 1, 2, 3)
CELL = 160  # pixels of a picture on a sheet
LABEL = 84

# Content and style scale of each row.
SCALES = {"base": (0.0, 0.0), "content": (1.0, 0.0), "style": (0.0, 1.0), "joined": (1.0, 1.0)}


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


def compose(rows: dict[str, list[Image.Image]], title: str = "", cell: int = CELL) -> Image.Image:
    """Rows of pictures, `cell` pixels each, with their labels at the left and a title above."""
    count = max(len(pictures) for pictures in rows.values())
    top = 24 if title else 0
    sheet = Image.new("RGB", (LABEL + count * cell, top + len(rows) * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((6, 4), title, fill="black", font=font)
    for row, (label, pictures) in enumerate(rows.items()):
        pen.text((6, top + row * cell + cell // 2 - 8), label, fill="black", font=font)
        for column, picture in enumerate(pictures):
            # Small pictures are enlarged without smoothing, so that a person sees what the model drew.
            how = Image.Resampling.NEAREST if picture.width < cell else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((cell - 4, cell - 4), how), (LABEL + column * cell, top + row * cell + 2))
    return sheet


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG that is whole or not there: the studio shows the folder while it grows."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    checkpoint.write_bytes(path, buffer.getvalue())


def _needs(row: str) -> set[str]:
    """The concepts that a row shows."""
    return {concept for concept, scale in zip(("content", "style"), SCALES[row], strict=True) if scale}


class Strips:
    """The sample sheets of one training run."""

    def __init__(self, pipe: DiffusionPipeline, adapter: PartlyLearnable, config: Customization, run: Run):
        self.pipe, self.adapter, self.config, self.run = pipe, adapter, config, run
        self.rows: dict[str, list[Image.Image]] = {}  # the newest pictures of each row

    def draw(self, stage: str, step: int, done: dict[str, dict]) -> None:
        """Write `samples/step-000100.png` with every row that exists by now.

        Args:
            done: the halves with which earlier stages ended; the adapter itself is left as it was.
        """
        now = {concept: self.adapter.half(concept) for concept in ("content", "style")}
        halves = dict(done) if stage != "make" else {}
        halves |= {concept: half for concept, half in now.items() if stage in (concept, "make")}
        changed = {"content": {"content"}, "style": {"style", "joined"}, "make": set(SCALES) - {"base"}}[stage]
        for row in SCALES:
            if _needs(row) <= halves.keys() and (row in changed or row not in self.rows):
                for concept in now:
                    self.adapter.load_half(concept, halves.get(concept))
                self.rows[row] = self._pictures(row)
        for concept, half in now.items():
            self.adapter.load_half(concept, half)
        self._save(self.run.samples / f"step-{step:06d}.png", f"{stage}, step {step}: {self.config.sample_prompt}")

    def finish(self, learned: Set[str]) -> None:
        """Write `samples/sheet.png` of the adapter as it now is, with what was learned."""
        self.rows = {row: self._pictures(row) for row in SCALES if _needs(row) <= learned}
        self._save(self.run.sheet, self.config.sample_prompt)

    def _pictures(self, row: str) -> list[Image.Image]:
        settings = self.config.samples
        content, style = SCALES[row]
        self.adapter.set_scales(content, style)
        pictures = draw(
            self.pipe,
            self.config.sample_prompt,
            SEEDS,
            self.config.resolution,
            settings.guidance_scale,
            settings.inference_steps,
        )
        self.adapter.set_scales()
        return pictures

    def _save(self, path: Path, title: str) -> None:
        ordered = {row: self.rows[row] for row in SCALES if row in self.rows}
        save(compose(ordered, title), path)
