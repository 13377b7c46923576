"""What programs may ask of the studio: a few endpoints with names and types, which `gradio_client` shows and calls."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from pydantic import ValidationError, validate_call

from app import jobs
from app.album import Album
from app.drawing import RANGES, SQUARE, readable_prompt, sized, usual, whole_seed
from app.library import Library
from app.pages.project import ProjectPage
from app.painter import Model, Painter
from pipelines.errors import UserError
from training import Customization

KINDS = {str: "a text", int: "a whole number", float: "a number"}
TOLD = ("status", "stage", "step", "steps", "loss", "time_left", "message")  # of a run


def _typed(method: Callable) -> Callable:
    """A method that refuses in a sentence what is not of its parameters' types: a client may send anything."""
    checked, parameters = validate_call(method), inspect.signature(method).parameters

    @functools.wraps(method)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return checked(*given, **named)
        except ValidationError as error:
            fault = error.errors()[0]
            place = fault["loc"][0]
            name = [*parameters][place] if isinstance(place, int) else place
            raise UserError(f"{name} is {fault['input']!r}", f"Give {KINDS[parameters[name].annotation]}") from None

    return call


@dataclass(frozen=True)
class Api:
    """The endpoints, as methods: what they do needs no page."""

    library: Library
    album: Album
    painter: Painter
    sample: Customization
    projects: ProjectPage

    def offer(self) -> None:
        """Add them to the page that is being built. Only drawing waits for its turn."""
        for method in (self.projects_there, self.start, self.runs, self.status, self.cancel, self.resume):
            # Gradio puts named calls in its line whatever they are; a limit would let many of them fill it.
            gr.api(method, api_name=_name(method), queue=False, concurrency_limit=None)
        gr.api(self.draw, api_name="draw", concurrency_id="device", concurrency_limit=1)

    def projects_there(self) -> dict[str, str]:
        """The projects by their numbers, with their names."""
        return self.projects.names()

    @_typed
    def start(self, project: str) -> str:
        """Train a project, given by its number. Gives the name of the new run, which may have to wait for its turn."""
        return self.projects.start_kept(project).folder.name

    def runs(self) -> list[str]:
        """The names of all runs, the newest first."""
        return [run.folder.name for run in self.library.runs()]

    @_typed
    def status(self, run: str) -> dict[str, Any]:
        """What a run is doing: its status, stage, step of steps, loss, seconds left, and why it ended."""
        job = jobs.look(self.library.find(run))
        return {name: getattr(job, name) for name in TOLD}

    @_typed
    def cancel(self, run: str) -> str:
        """Let a run end after the step it is in; what it has learned is kept. Gives its status."""
        jobs.cancel(self.library.find(run))
        return self.status(run)["status"]

    @_typed
    def resume(self, run: str) -> str:
        """Go on with a run that was cancelled, has failed or was interrupted. Gives its status."""
        jobs.start(self.library.find(run))
        return self.status(run)["status"]

    @_typed
    def draw(
        self,
        prompt: str,
        run: str = "",
        content: float = 1.0,
        style: float = 1.0,
        seed: int = 0,
        count: int = 1,
        steps: int = 0,
        guidance_scale: float = 0.0,
        size: str = "",
        sampler: str = "",
    ) -> list[str]:
        """Draw with a run, or with the base alone. Gives the addresses of the pictures, which begin with "pictures/".

        Steps and guidance scale of 0 are those of the run's project, as is a size that is empty; others are a shape, or
        width x height in pixels. An empty sampler is the one that suits the base.
        """
        there = self.library.find(run) if run else None
        config = there.customization() if there else self.sample
        model = Model.of(config, there)
        asked: dict[str, Any] = {"content": content, "style": style, "count": count}
        asked["steps"] = steps or config.samples.inference_steps
        asked["guidance_scale"] = guidance_scale or config.samples.guidance_scale
        for name, value in asked.items():
            low, high = RANGES[name]
            if not low <= value <= high:
                raise UserError(f"{name} is {value:g}", f"Give a number from {low} to {high}")
        count = int(asked.pop("count"))
        asked |= sized(size or SQUARE, model.resolution) | {"sampler": sampler, "prompt": readable_prompt(prompt)}
        recipe = replace(usual(config, model, whole_seed(seed)), **asked)
        drawn = self.painter.draw(model, recipe, count)
        return [f"pictures/{self.album.add(picture, own).parent.name}.png" for picture, own in drawn]


def _name(method: Callable) -> str:
    return method.__name__.removesuffix("_there")
