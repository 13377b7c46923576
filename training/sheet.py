"""Sample pictures, and labelled sheets of them."""

import inspect
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from pipelines import GuidanceRule
from pipelines.families import family_of
from pipelines.guided_pipeline import stock_class
from training import checkpoint


class Stopped(Exception):
    """A drawing was stopped before its end."""


CELL = 160  # pixels of a picture on a sheet
LABEL = 84
LINE = 24  # of text above the pictures
BINNING = "use_resolution_binning"  # draws at the nearest of some sizes, and resizes what was drawn

log = logging.getLogger("joinery")


def draw(
    pipe: DiffusionPipeline,
    prompt: str | list[str],
    seeds: tuple[int, ...],
    resolution: int,
    guidance_scale: float,
    steps: int,
    guidance: GuidanceRule | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Image.Image]:
    """One picture per seed, whichever other seeds are drawn with it; of one prompt, or of one each.

    Args:
        pipe: a guided one; `guidance` is its own rule if not given.
        should_stop: asked after every step.
    Raises:
        Stopped: it said so.
    """

    def look_up(pipe: DiffusionPipeline, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if should_stop():
            raise Stopped
        return {}

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        drawn = pipe(
            prompt=[prompt] * len(seeds) if isinstance(prompt, str) else prompt,
            height=resolution,
            width=resolution,
            **guided_by(pipe, guidance_scale, len(seeds)),
            num_inference_steps=steps,
            guidance=guidance,
            generator=generators,
            callback_on_step_end=look_up if should_stop else None,
        )
    if black := sum(getattr(drawn, "nsfw_content_detected", None) or ()):
        log.warning("The base's safety checker turned %d of %d pictures black", black, len(seeds))
    return drawn.images


def guided_by(pipe: DiffusionPipeline, scale: float, count: int) -> dict[str, Any]:
    """The arguments of a call that mean the paper's guidance scale, 1 for no guidance, at just the size asked for."""
    family = family_of(stock_class(type(pipe)))
    given: dict[str, Any] = {family.scale: scale + (family.scale_of_none - 1)}
    if family.needs_negative_prompt:
        given["negative_prompt"] = [" "] * count
    if BINNING in inspect.signature(pipe.__call__).parameters:
        given[BINNING] = False
    return given


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
