"""Runs that are made of finished ones: any content with any style of one base, and a run that learns on."""

from app import jobs
from app.given import pictures_of
from app.library import Library
from pipelines.errors import UserError
from training import Customization, Run


def having(library: Library, kind: str) -> list[str]:
    """The finished runs that have a content, or a style."""
    configs = {run.folder.name: library.customization(run) for run in library.finished()}
    return [name for name, config in configs.items() if config and kind in config.concepts]


def mix(library: Library, content: str | None, style: str | None, make: int) -> Run:
    """Start a run that joins the content of one run with the style of another.

    Args:
        make: steps of fine-tuning after that, on the pictures of both.
    Raises:
        UserError: a run is missing, or another one is being trained.
    """
    for kind, name in (("content", content), ("style", style)):
        if not name:
            raise UserError(f"No run is chosen for the {kind}", "Choose one from the list")
    from training.mix import mixed  # what trains takes longer to import than all else together

    assert content and style
    config = mixed(library.find(content).folder, library.find(style).folder, make)
    config.name = f"{content} in {style}"
    return _launch(library, config)


def go_further(library: Library, name: str | None, steps: int, make: int) -> Run:
    """Start a run that learns on from where a finished one has ended.

    Args:
        steps: more for each of content and style.
        make: steps of both together after that.
    Raises:
        UserError: it has not ended, or another run is being trained.
    """
    if not name:
        raise UserError("There is no run yet", "Start one under Project")
    if not steps and not make:
        raise UserError("There is nothing to do: both numbers of steps are 0", "Give one of them some steps")
    from training.mix import further

    return _launch(library, further(library.find(name).folder, steps, make))


def _launch(library: Library, config: Customization) -> Run:
    return jobs.launch(library, config, {kind: pictures_of(concept) for kind, concept in config.concepts.items()})
