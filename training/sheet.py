"""Sample pictures, and labelled sheets of them."""

import inspect
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipelines import GuidanceRule, UserError
from pipelines.families import family_of
from pipelines.guided_pipeline import stock_class
from training import checkpoint
from training.families import family_of as trained_family


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
    size: int | tuple[int, int],
    guidance_scale: float,
    steps: int,
    guidance: GuidanceRule | None = None,
    should_stop: Callable[[], bool] | None = None,
    negative_prompt: str = "",
) -> list[Image.Image]:
    """One picture per seed, whichever other seeds are drawn with it; of one prompt, or of one each.

    Args:
        pipe: a guided one; `guidance` is its own rule if not given.
        size: of a square's side, or width and height, in pixels.
        should_stop: asked after every step.
    Raises:
        Stopped: it said so.
        UserError: the base takes no negative prompt, or no pictures of this size.
    """
    width, height = (size, size) if isinstance(size, int) else size
    multiple = trained_family(pipe).multiple
    if width % multiple or height % multiple:
        raise UserError(f"The size is {width} x {height}", f"Set both to multiples of {multiple}")

    def look_up(pipe: DiffusionPipeline, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if should_stop and should_stop():
            raise Stopped
        return {}

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        drawn = pipe(
            prompt=[prompt] * len(seeds) if isinstance(prompt, str) else prompt,
            height=height,
            width=width,
            **guided_by(pipe, guidance_scale, len(seeds), negative_prompt),
            num_inference_steps=steps,
            guidance=guidance,
            generator=generators,
            callback_on_step_end=look_up if should_stop else None,
        )
    if black := sum(getattr(drawn, "nsfw_content_detected", None) or ()):
        log.warning("The base's safety checker turned %d of %d pictures black", black, len(seeds))
    return drawn.images


def guided_by(pipe: DiffusionPipeline, scale: float, count: int, negative_prompt: str = "") -> dict[str, Any]:
    """The arguments of a call for so many pictures, of just the size asked for, that mean the paper's guidance scale.

    Args:
        scale: 1 for no guidance.
    Raises:
        UserError: the base takes no negative prompt.
    """
    stock = stock_class(type(pipe))
    family = family_of(stock)
    given: dict[str, Any] = {family.scale: scale + (family.scale_of_none - 1)}
    taken = inspect.signature(stock.__call__).parameters
    if negative_prompt and "negative_prompt" not in taken:
        raise UserError("This base takes no negative prompt", "Leave it out")
    if away_from := negative_prompt or (" " if family.needs_negative_prompt else ""):
        given["negative_prompt"] = [away_from] * count
    if BINNING in taken:
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
            small = ImageOps.contain(picture, (cell - 4, cell - 4), how)
            left, above = (cell - 4 - small.width) // 2, (cell - small.height) // 2
            sheet.paste(small, (LABEL + column * cell + left, top + row * cell + above))
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
