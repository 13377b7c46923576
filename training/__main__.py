"""The command line: customize, join, further, estimate, sample, export."""

import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipelines.errors import UserError

if TYPE_CHECKING:
    from training.config import Customization

INVALID, INTERRUPTED = 2, 130  # exit codes


@dataclass
class Customize:
    """Break, make, export. The same command again goes on where the last one ended."""

    project: tyro.conf.Positional[Path]
    """The project file."""
    run: Path | None = None
    """The run's folder; <data folder>/runs/<name> if not given."""
    seed: int | None = None
    """In place of the project's."""

    def __call__(self) -> int:
        _quiet()
        from training.config import Customization

        config = Customization.load(self.project)
        if self.seed is not None:
            config = Customization(**{**config.model_dump(by_alias=True), "seed": self.seed})
        return _customize(config, self.run)


@dataclass
class Estimate:
    """Say what a customization will take in memory, disk and time, from its first steps."""

    project: tyro.conf.Positional[Path]
    """The project file."""

    def __call__(self) -> int:
        _quiet()
        from training.config import Customization
        from training.estimate import estimate

        logging.getLogger("joinery").setLevel(logging.WARNING)
        print(estimate(Customization.load(self.project)))
        return 0


@dataclass
class Join:
    """Put a content and a style that two finished runs have learned into one adapter."""

    content: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONTENT_RUN")]
    """The folder of the run with the content."""
    style: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STYLE_RUN")]
    """The folder of the run with the style."""
    make: int = 0
    """Steps of fine-tuning after joining, on the pictures of both; 0 takes seconds."""
    run: Path | None = None
    """The folder of the new run; named after both if not given."""

    def __call__(self) -> int:
        _quiet()
        from training.mix import mixed

        return _customize(mixed(self.content, self.style, self.make), self.run)


@dataclass
class Further:
    """Learn on from where a finished run has ended, in a run of its own."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of the finished run."""
    steps: int = 100
    """More of content and of style apart; 0 goes to make at once."""
    make: int = 300
    """Steps of make after that."""
    run: Path | None = None
    """The folder of the new run; named after the other if not given."""

    def __call__(self) -> int:
        _quiet()
        from training.mix import further

        return _customize(further(self.folder, self.steps, self.make), self.run)


@dataclass
class Sample:
    """Draw pictures with a run's adapter."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    prompt: str | None = None
    """By default the run's own."""
    content: float = 1.0
    """How strongly the content shows, 0 to about 1.5."""
    style: float = 1.0
    """How strongly the style shows, 0 to about 1.5."""
    seed: int = 0
    """Of the first picture; the next ones count up."""
    count: int = 4
    """How many pictures."""
    out: Path = Path("sheet.png")
    """The PNG to write."""

    def __call__(self) -> int:
        _quiet()
        from training import sheet
        from training.sampling import open_run

        pipe, config = open_run(self.folder)
        pipe.set_scales(content=self.content, style=self.style)
        prompt = self.prompt or config.sample_prompt
        seeds = tuple(range(self.seed, self.seed + self.count))
        settings = config.samples
        pictures = sheet.draw(pipe, prompt, seeds, config.resolution, settings.guidance_scale, settings.inference_steps)
        label = f"content {self.content:g}\nstyle {self.style:g}"
        sheet.save(sheet.compose({label: pictures}, prompt), self.out)
        print(self.out)
        return 0


@dataclass
class Export:
    """Write a run's adapter in the format that another program wants."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    format: Literal["kohya", "peft", "model"] = "kohya"
    """kohya: web UIs and diffusers. peft: PEFT and diffusers. model: the base with what was learned in its weights."""
    out: Path | None = None
    """The file to write, adapter.safetensors if not given; for a model the folder."""

    def __call__(self) -> int:
        from training import export
        from training.run import Run

        if self.format == "model":
            _quiet()
            from training.sampling import write_model

            out = self.out or Path("model")
            write_model(self.folder, out)
        else:
            out = self.out or Path("adapter.safetensors")
            export.convert(Run(self.folder).adapter, out, self.format)
        print(out)
        return 0


def _customize(config: "Customization", folder: Path | None) -> int:
    from training.loop import customize

    stop = _StopOnSignal()
    run = customize(config, folder, progress=_print_status, should_stop=lambda: stop.asked)
    if run.status == "cancelled":
        print("\nCancelled. The same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{run.adapter}\n{run.sheet}")
    return 0


def _quiet() -> None:
    """Leave the terminal to our own status line."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


class _StopOnSignal:
    """Ctrl-C and SIGTERM ask the run to stop after the step it is in; a second Ctrl-C stops it at once."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _print_status(entry: dict) -> None:
    minutes, seconds = divmod(round(entry["time_left"]), 60)
    line = (
        f"{entry['stage']:<8} step {entry['step']}/{entry['steps']}  {entry['seconds_per_step']:.2f} s/step  "
        f"loss {entry['loss']:.4f}  {minutes}:{seconds:02d} left"
    )
    # One line that renews itself where a person watches, a line now and then in a log file.
    if sys.stdout.isatty():
        print(f"\r{line:<78}", end="", flush=True)
    elif entry["step"] % 25 == 0 or entry["step"] == entry["steps"]:
        print(line, flush=True)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("joinery").setLevel(logging.INFO)
    command = tyro.cli(
        Customize | Join | Further | Estimate | Sample | Export, prog="python -m training", description=__doc__
    )
    try:
        return command()
    except UserError as error:
        print(error, file=sys.stderr)
        return INVALID
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
