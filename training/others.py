"""The other contents and styles that multi-correspondence needs: drawn by the base where a project names none."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from pipelines import CFG, UserError
from training import sheet
from training.config import Customization
from training.families import family_of
from training.model import encoders, sampler
from training.pictures import Picture, open_picture

STEPS = 15
AT_ONCE = 8
MOST = 4 * 512 * 512  # pixels that are drawn in one batch, unless one picture has more
ALTERING = ("safety_checker", "watermark")  # what a pipeline does to pictures after they are drawn

log = logging.getLogger("joinery")


def draw_others(
    pipe: DiffusionPipeline,
    config: Customization,
    cache: Path,
    say: Callable[[str], None] = lambda words: None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Picture]:
    """Pictures of contents in styles, both named in `others`, each pair at most once; drawn once, then kept as PNG.

    A function of all parts of the base, the words and the resolution, so that every run of a base finds them. No safety
    checker turns them black and no watermark lies in them: both would be learned.

    Args:
        pipe: the guided base, without an adapter.
        cache: the folder that keeps them.
        say: is told how many are drawn.
        should_stop: asked after every step of a drawing; what was drawn before is kept.
    Raises:
        Stopped: it said so.
        UserError: there are no contents or no styles to draw.
    """
    settings = config.others
    for name in ("contents", "styles"):
        if not getattr(settings, name):
            raise UserError(
                f"others.{name} is empty, and {settings.count} pictures are to be drawn of them",
                "Name some that the base knows, or set others.count = 0",
            )
    pairs = [(content, style) for content in settings.contents for style in settings.styles]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[: settings.count]
    captions = [settings.caption.format(content=c, style=s) for c, s in (pairs[i] for i in order)]
    scale = family_of(pipe).others_scale
    words = [*sampler(pipe), encoders(pipe), captions, config.resolution, scale, STEPS]
    words += [f"no {name}" for name in ALTERING if vars(pipe).get(name) is not None]
    identity = json.dumps(words, sort_keys=True, default=str)
    folder = cache / f"others-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    paths = [folder / f"{number:03d}.png" for number in range(len(captions))]
    whole = [_is_whole(path) for path in paths]
    if not all(whole):
        log.info("Drawing %d pictures of other contents in other styles", len(paths))
    for first in range(0, len(paths), AT_ONCE):  # always the same batches, so that the bits are the same
        chunk = range(first, min(first + AT_ONCE, len(paths)))
        if all(whole[number] for number in chunk):
            continue
        say(f"Drawing pictures of other things in other styles, {first} of {len(paths)}")
        drawn = draw(pipe, [captions[number] for number in chunk], tuple(chunk), config.resolution, should_stop)
        for number, picture in zip(chunk, drawn, strict=True):
            sheet.save(picture, paths[number])
    return [Picture(path, open_picture(path), caption) for path, caption in zip(paths, captions, strict=True)]


def draw(
    pipe: DiffusionPipeline,
    prompts: list[str],
    seeds: tuple[int, ...],
    resolution: int,
    should_stop: Callable[[], bool] | None = None,
) -> list[Image.Image]:
    """Pictures to learn from or to measure, a seed each: no checker turns them black, no watermark lies in them.

    Raises:
        Stopped: `should_stop`, which is asked after every step, said so.
    """
    scale, batch, found = family_of(pipe).others_scale, at_once(resolution), []
    with _unaltered(pipe):
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch], seeds[first : first + batch]
            found += sheet.draw(pipe, *some, resolution, scale, STEPS, CFG(), should_stop)
    return found


def at_once(resolution: int) -> int:
    """Square pictures of this side that are drawn in one batch at most."""
    return max(1, MOST // resolution**2)


def _is_whole(path: Path) -> bool:
    try:
        open_picture(path)
    except UserError:
        return False
    return True


@contextmanager
def _unaltered(pipe: DiffusionPipeline) -> Iterator[None]:
    """Pictures as the base draws them, inside the block."""
    own = {name: vars(pipe)[name] for name in ALTERING if vars(pipe).get(name) is not None}
    vars(pipe).update(dict.fromkeys(own))  # past the pipeline's bookkeeping, which would not take the checker back
    try:
        yield
    finally:
        vars(pipe).update(own)
