"""Draws pictures from recipes, with one pipeline kept warm between them."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.preview import EVERY, decode, guesses
from app.quota import Quota
from app.recipe import RULES, Recipe, file_hash
from app.starts import Starts
from pipelines import APG, GuidanceRule
from pipelines.errors import UserError
from training import Customization, Run

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

TOOLS = "training.sampling"  # imports all that draws
LARGEST_SEED = 2**32 - 1
COLOURS = 3  # bytes of a pixel: a PNG takes no more, but for a little
AT_ONCE = 512 * 512  # pixels that are drawn in one batch: many small pictures, or one large one

log = logging.getLogger("joinery")

_one_at_a_time, _importing = threading.Lock(), threading.Lock()


def import_tools() -> None:
    """Import what drawing needs and the page does not: PyTorch and diffusers take longer than all else together.

    What needs them meanwhile waits: two threads that import diffusers at once may see half a module.
    """
    with _importing:
        importlib.import_module(TOOLS)


class Stopped(Exception):
    """The person asked for it: not an error. What was drawn before comes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[Image.Image, Recipe]] = []


@dataclass(frozen=True)
class Model:
    """What is drawn with: a base, and maybe the adapter of a run."""

    name: str  # as recipes name the base
    base: str
    precision: str
    resolution: int
    preset: str
    run: Run | None = None
    prediction: str | None = None  # where the base's own files are not believed
    zero_snr: bool | None = None
    checkpoint: int = 0  # step of the run after which its adapter was kept; 0: as it ended

    @classmethod
    def of(cls, config: Customization, run: Run | None = None, checkpoint: int = 0) -> Model:
        base = config.resolved_base()
        name = Path(base).name if os.path.exists(base) else base
        said = config.prediction, config.zero_snr
        return cls(name, base, config.precision, config.resolution, config.preset, run, *said, checkpoint)

    @property
    def adapter(self) -> Path | None:
        return self.run.adapter_after(self.checkpoint) if self.run else None

    @property
    def opening(self) -> tuple[str, str, str | None, bool | None]:
        """What decides the base as it is opened."""
        return self.base, self.precision, self.prediction, self.zero_snr


class Painter:
    """Keeps the last pipeline. Only one thread draws at a time; any thread may stop it.

    Args:
        starts: where the pictures are that recipes start from; not needed for recipes that start from none.
        quota: what drawings count towards.
    """

    def __init__(self, starts: Starts | None = None, quota: Quota | None = None) -> None:
        self._starts = starts
        self._quota = quota or Quota()
        self._base: tuple[str, str, str | None, bool | None] | None = None
        self._adapter: str | None = None  # the hash of the file that is loaded
        self._sampler = ""  # as recipes name it
        self._usual: Any = None  # sampler of the base
        self.record: list[dict[str, float]] = []  # of the last guidance that was no plain CFG, as pipelines keep it
        self._base_hash = ""
        self._pipe: Any = None  # guided

    def draw(
        self,
        model: Model,
        recipe: Recipe,
        count: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        stop: threading.Event | None = None,
        say: Callable[[str], None] = lambda words: None,
        preview: Callable[[list[Image.Image]], None] | None = None,
    ) -> list[tuple[Image.Image, Recipe]]:
        """Draw `count` pictures with seeds from the recipe's on; each comes with the recipe that is its own.

        Args:
            say: is told what takes long before the first step.
            preview: is given small pictures of a batch every few steps.
        Raises:
            UserError: the base or the adapter cannot be opened, the memory does not suffice, or the picture to start
                from is gone, or the base can start from none, or the pictures would pass the quota.
            Stopped: `stop` was set.
        """
        stop = stop or threading.Event()
        starts: Any = self._starts
        start = starts.get(recipe.image) if recipe.image else None
        mask = starts.get(recipe.mask).convert("L") if recipe.mask else None
        if TOOLS not in sys.modules:
            say("Loading PyTorch and diffusers, which only the first drawing waits for")
        import_tools()
        with _one_at_a_time, self._quota.room(count * math.prod(recipe.size) * COLOURS):
            if stop.is_set():  # while it waited
                raise Stopped
            pipe, recipe = self._open(model, recipe, say)
            if recipe.adapter:
                pipe.set_scales(content=recipe.content, style=recipe.style)
            seeds = [(recipe.seed + i) % (LARGEST_SEED + 1) for i in range(count)]
            # A part that changes is drawn alone: in a batch its last digits depend on the others, and so some pixels.
            batch = 1 if mask else max(1, AT_ONCE // math.prod(recipe.size))
            pictures: list[tuple[Image.Image, Recipe]] = []
            for first in range(0, count, batch):
                chunk = seeds[first : first + batch]

                def after_step(
                    pipe: DiffusionPipeline,
                    step: int,
                    timestep: Tensor,
                    tensors: dict[str, Tensor],
                    first: int = first,
                    chunk: list[int] = chunk,
                ) -> dict[str, Tensor]:
                    if stop.is_set():
                        raise Stopped
                    steps = pipe.num_timesteps if start else recipe.steps  # from a picture it takes the last ones alone
                    progress(first * steps + (step + 1) * len(chunk), count * steps)
                    if preview and (step + 1) % EVERY == 0 and step + 1 < steps and (now := guess()) is not None:
                        preview(decode(pipe, now, recipe.size))
                    return tensors

                try:
                    with guesses(pipe.scheduler) as guess:
                        drawn = self._draw_batch(pipe, recipe, start, mask, chunk, after_step)
                except Stopped as stopped:
                    stopped.drawn = pictures
                    raise
                pictures += [(one, replace(recipe, seed=seed)) for one, seed in zip(drawn, chunk, strict=True)]
            return pictures

    def base_hash(self, model: Model) -> str:
        """The hash of a model's base, if it is the one that is open; else empty."""
        return self._base_hash if self._base == model.opening else ""

    def _draw_batch(
        self,
        pipe: DiffusionPipeline,
        recipe: Recipe,
        start: Image.Image | None,
        mask: Image.Image | None,
        seeds: list[int],
        after_step: Callable,
    ) -> list[Image.Image]:
        import torch

        from training.sampling import changed_inside, starting_from
        from training.sheet import guided_by

        given = guided_by(pipe, recipe.guidance_scale, len(seeds), recipe.negative_prompt)
        if start:
            given |= starting_from(pipe, start, recipe.strength, len(seeds), mask)
        else:
            given |= dict(zip(("width", "height"), recipe.size, strict=True))
        rule = RULES[recipe.guidance](**recipe.guidance_settings)
        try:
            drawn = pipe(
                [recipe.prompt] * len(seeds),
                **given,
                guidance=rule if rule.is_stock else replace(rule, record=True),
                num_inference_steps=recipe.steps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                callback_on_step_end=after_step,
            ).images
        except (torch.OutOfMemoryError, MemoryError):
            raise UserError(
                "The memory does not suffice for these pictures", "Draw fewer, or close other programs"
            ) from None
        self.record = pipe.guidance_record or self.record
        if not mask:
            return drawn
        assert start is not None  # of which it is a part
        return [changed_inside(start, picture, mask) for picture in drawn]

    def _open(self, model: Model, recipe: Recipe, say: Callable[[str], None]) -> tuple[DiffusionPipeline, Recipe]:
        """The pipeline for a model, and the recipe with what only the opened files can tell."""
        from pipelines.adapters import fingerprint
        from training.families import denoiser_of, family_of
        from training.model import open_base
        from training.sampling import from_picture, guided_pipeline, load_adapter_of

        if self._base != model.opening:
            say(f"Opening the base {model.name}")
            self._base = self._pipe = None  # two large bases at once may not fit
            self._pipe = guided_pipeline(open_base(*model.opening), model.preset)
            self._base, self._adapter, self._sampler = model.opening, None, ""
            self._usual = self._pipe.scheduler
            self._base_hash = fingerprint(denoiser_of(self._pipe))
        wanted = None
        if model.run:
            adapter = model.run.adapter_after(model.checkpoint)
            if not adapter.exists():
                of = f" of step {model.checkpoint}" if model.checkpoint else " yet"
                raise UserError(f"The run {model.run.folder.name} has no adapter{of}", "Let its training end first")
            wanted = file_hash(adapter)
        if self._adapter != wanted:
            self._adapter = None
            self._pipe.unload_adapter()
            if wanted and model.run:
                say(f"Loading the adapter of {model.run.folder.name}")
                load_adapter_of(model.run, self._pipe, model.checkpoint)
            self._adapter = wanted
        settings = recipe.guidance_settings or settings_of(default_rule(recipe.guidance, model.preset))
        family = family_of(self._pipe)
        if recipe.sampler != self._sampler:
            self._pipe.scheduler = family.sampler(self._usual, recipe.sampler) if recipe.sampler else self._usual
            self._sampler = recipe.sampler
        if any(side % family.multiple for side in recipe.size):
            size = "{} x {}".format(*recipe.size)
            raise UserError(f"size is {size}", f"Set both sides to multiples of {family.multiple}")
        known: dict[str, Any] = {"base": model.name, "base_hash": self._base_hash, "adapter_hash": wanted or ""}
        known |= {"checkpoint": model.checkpoint}
        pipe = from_picture(self._pipe, masked=bool(recipe.mask)) if recipe.image else self._pipe
        name = model.run.folder.name if model.run else ""
        return pipe, replace(recipe, **known, adapter=name, guidance_settings=settings)


def default_rule(name: str, preset: str) -> GuidanceRule:
    """The rule of this name that suits a base."""
    return APG.preset(preset) if name == "APG" else RULES[name]()


def settings_of(rule: GuidanceRule) -> dict:
    """A rule's settings as JSON gives them back, so that a recipe equals the one read from its picture."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(rule).items()}
