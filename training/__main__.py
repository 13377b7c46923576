"""The command line: new, customize, join, further, estimate, words, sample, caption, export."""

import _thread
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated, Literal, Self

import tyro

from pipelines.errors import UserError
from training.config import PRESETS
from training.formats import shown
from training.run import make_temporary_place

if TYPE_CHECKING:
    from training.config import Customization
    from training.run import Run

INVALID, INTERRUPTED = 2, 130  # exit codes
MOST = 64  # pictures of one command
SMALLEST, LARGEST = 32, 4096  # pixels of a side
FARTHEST = 10.0  # scale, beyond which nothing is left of a picture
POLL = 0.3  # seconds between two looks for a request to stop


@dataclass
class New:
    """Write a project file with every key in it, each in a comment that says what it means and allows."""

    project: tyro.conf.Positional[Path] = Path("project.toml")
    """The file to write. The pictures go into the folders `content` and `style` beside it, or where you say there."""
    preset: Literal[tuple(PRESETS)] = "emoji"  # type: ignore[valid-type]
    """The base to start from: the embedded one, or the model that others of a family descend from."""

    def __call__(self) -> int:
        from training.project_file import new

        new(self.project, self.preset)
        print(self.project)
        return 0


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
    json: bool = False
    """On one line, for a program: bytes and seconds."""

    def __call__(self) -> int:
        _quiet()
        from training.config import Customization
        from training.estimate import estimate

        logging.getLogger("joinery").setLevel(logging.WARNING)
        found = estimate(Customization.load(self.project))
        say(found.as_json() if self.json else found)
        return 0


@dataclass
class Words:
    """Say which of the words that the base knows are nearest to a project's pictures: a class word for it."""

    project: tyro.conf.Positional[Path]
    """The project file."""
    kind: Annotated[tyro.conf.Positional[Literal["content", "style"]], tyro.conf.arg(metavar="CONTENT|STYLE")]
    """Whose pictures."""
    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The words to compare; those of the table [others] if not given."""
    json: bool = False
    """On one line, for a program: pairs of a word and its error."""

    def __call__(self) -> int:
        import json

        _quiet()
        from training.config import Customization
        from training.nearest import nearest

        found = nearest(Customization.load(self.project), self.kind, self.words)
        say(json.dumps(found) if self.json else "\n".join(f"{error:8.4f}  {word}" for word, error in found))
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
    size: tuple[int, int] | None = None
    """Width and height in pixels; the run's resolution if not given."""
    steps: int | None = None
    """Of the sampler; the run's own if not given."""
    sampler: str = ""
    """By its name in web UIs, for example "Euler a"; the one that suits the base if not given."""
    guidance_scale: float | None = None
    """1: no guidance; the run's own if not given."""
    negative_prompt: str = ""
    """What the pictures are led away from."""
    base: str = ""
    """A relative of the run's base to draw on in its place, with the same layers: its Turbo, for example."""
    out: Path = Path("sheet.png")
    """The PNG to write, all pictures side by side. The pictures themselves go into a folder of its name beside it."""

    def __call__(self) -> int:
        for name, low, high in (("count", 1, MOST), ("steps", 1, 1000), ("guidance_scale", 1, 30)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"--{name.replace('_', '-')} is {value:g}", f"Set it to {low} to {high}")
        if self.size and not all(SMALLEST <= side <= LARGEST for side in self.size):
            raise UserError(f"--size is {self.size[0]} {self.size[1]}", f"Set each to {SMALLEST} to {LARGEST}")
        for name in ("content", "style"):
            if not abs(getattr(self, name)) <= FARTHEST:  # nor is it if it is no number
                raise UserError(f"--{name} is {getattr(self, name)}", "Set it to a number, 0 to about 1.5")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}", "Set it to a whole number, at least 0, less than 2^63")
        for option, text in (("--prompt", self.prompt), ("--negative-prompt", self.negative_prompt)):
            if text and shown(text) != text:
                raise UserError(f'{option} is "{shown(text)}", which is not readable text', "Write it in UTF-8")
        _check_out(self.out, ".png")
        pictures_at = self.out.with_suffix("")
        if pictures_at.is_file():
            raise UserError(f"The pictures go into {pictures_at}, which is a file", "Choose another --out")
        _quiet()
        from training import findings, sheet
        from training.model import tokenizers
        from training.sampling import open_run

        pipe, config = open_run(self.folder, self.base, self.sampler)
        pipe.set_scales(content=self.content, style=self.style)
        prompt = self.prompt or config.sample_prompt
        words = [c.placeholder for name, c in config.concepts.items() if getattr(self, name)]
        for finding in findings.of_prompt(prompt, words, tokenizers(pipe)):
            print(finding, file=sys.stderr)
        seeds = tuple(range(self.seed, self.seed + self.count))
        pictures = sheet.draw(
            pipe,
            prompt,
            seeds,
            self.size or config.resolution,
            self.guidance_scale or config.samples.guidance_scale,
            self.steps or config.samples.inference_steps,
            negative_prompt=self.negative_prompt,
        )
        label = f"content {self.content:g}\nstyle {self.style:g}"
        for seed, picture in zip(seeds, pictures, strict=True):
            sheet.save(picture, pictures_at / f"seed-{seed}.png")
        sheet.save(sheet.compose({label: pictures}, prompt), self.out)
        say(f"{self.out}\n{pictures_at}")
        return 0


@dataclass
class Caption:
    """Describe pictures by a captioning model: a .txt beside each picture that has none."""

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """Folders and files."""
    model: Path
    """The model's folder, as transformers writes it, with safetensors: BLIP, GIT, or one that chats about pictures."""
    caption: str = "{placeholder} {class_word}"
    """What the description joins: before it if it ends in "style", else after it."""
    say: bool = False
    """Print a line of JSON for each picture and write nothing."""

    def __call__(self) -> int:
        import json

        from training import captions, checkpoint
        from training.formats import find_pictures
        from training.pictures import look_at

        files = [path for path in find_pictures(list(self.pictures)) if self.say or not captions.beside(path)]
        frames = {path: look_at(path).image for path in files}
        if not frames:
            say("Every picture has a caption already")
            return 0
        _quiet()
        from training.captioner import Captioner

        describe = Captioner(self.model)
        for path, picture in frames.items():
            text = captions.with_words(describe(picture), self.caption)
            if not self.say:
                checkpoint.write_bytes(path.with_suffix(".txt"), text.encode())
            say(json.dumps({"picture": str(path), "caption": text}) if self.say else f"{path}: {text}")
        return 0


@dataclass
class Export:
    """Write a run's adapter in the format that another program wants."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    format: Literal["kohya", "peft", "model"] | None = None
    """kohya: web UIs and diffusers. peft: PEFT and diffusers. model: the base with what was learned in its weights. If
    not given, kohya of a base with a UNet, else peft."""
    out: Path | None = None
    """The file to write, adapter.safetensors if not given; for a model the folder."""
    precision: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of the weights of an adapter; float32 keeps every bit, in twice the space."""

    def __call__(self) -> int:
        from training import export
        from training.run import Run

        if self.format == "model":
            _quiet()
            from training.sampling import write_model

            out = self.out or Path("model")
            _check_parent(out)
            write_model(self.folder, out)
        else:
            out = self.out or Path("adapter.safetensors")
            _check_out(out, ".safetensors")
            export.convert(Run(self.folder).adapter, out, self.format, self.precision)
        say(out)
        return 0


def _check_out(path: Path, suffix: str) -> None:
    """Before the work: a folder cannot be written as a file, nor a file into what is none, nor under another's name."""
    if path.is_dir():
        raise UserError(f"--out {path} is a folder", f"Name a file, for example {path / f'new{suffix}'}")
    if path.suffix.lower() != suffix:
        raise UserError(f"--out {path} does not end in {suffix}", f"Name it {path.with_suffix(suffix)}")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"--out {path} lies in {path.parent}, which is a file", "Name a file in a folder")


def _customize(config: "Customization", folder: Path | None) -> int:
    from training import processes
    from training.loop import customize
    from training.run import Run, runs_folder

    folder = folder or runs_folder() / config.name
    if not processes.leads():
        customize(config, folder)
        return 0
    with _Stop(Run(folder)) as stop:
        run = customize(config, folder, progress=_print_status, should_stop=stop)
    if run.status == "cancelled":
        say("\nCancelled. The same command goes on from here.", to=sys.stderr)
        return INTERRUPTED
    say(f"\n{run.adapter}\n{run.sheet}")
    return 0


def _quiet() -> None:
    """Leave the terminal to our own status line."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


class _Stop:
    """Ctrl-C, SIGTERM, or a request in the run's folder: each ends a run at once while it prepares.

    Once there are steps to lose, it ends after the step or the drawing's step it is in, or at once if asked again.
    """

    def __init__(self, run: "Run"):
        self.run, self.asked, self.begun, self.ended = run, False, False, threading.Event()

    def __enter__(self) -> Self:
        self.handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether to stop; asked for the first time before the first step."""
        self.begun = True
        return self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.begun:
            raise KeyboardInterrupt
        self.asked = True
        say("\nStopping after this step; once more stops at once", to=sys.stderr)

    def _watch(self) -> None:
        """Requests come as a file, since the process that asks may be on another machine."""
        while not self.begun and not self.ended.wait(POLL):
            if self.run.stop_asked and self.run.status == "preparing" and self.run.written:
                interrupt()
                return


def interrupt() -> None:
    """Ctrl-C for this process, from another thread; it ends what the main one waits for, too."""
    if os.name == "posix":
        main = threading.main_thread().ident
        assert main is not None  # it runs
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _print_status(entry: dict) -> None:
    minutes, seconds = divmod(round(entry["time_left"]), 60)
    line = (
        f"{entry['stage']:<8} step {entry['step']}/{entry['steps']}  {entry['seconds_per_step']:.2f} s/step  "
        f"loss {entry['loss']:.4f}  {minutes}:{seconds:02d} left"
    )
    # One line that renews itself where a person watches, a line now and then in a log file.
    if sys.stdout.isatty():
        say(f"\r{line:<78}", end="")
    elif entry["step"] % 25 == 0 or entry["step"] == entry["steps"]:
        say(line)


def say(text: object, end: str = "\n", to: IO | None = None) -> None:
    """Print, and go on where nobody reads it any more."""
    stream = to or sys.stdout
    try:
        print(text, end=end, file=stream, flush=True)
    except (OSError, ValueError):  # a closed pipe, a terminal that is gone
        # Python would try again at its end, and give that as the exit code.
        null = open(os.devnull, "w")  # noqa: SIM115
        sys.stdout, sys.stderr = (null if one is stream else one for one in (sys.stdout, sys.stderr))


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    logging.raiseExceptions = False  # nor does a message that cannot be written stop what it is about
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("joinery").setLevel(logging.INFO)
    for option, value in itertools.pairwise(sys.argv):
        if option.startswith("--") and value == "" and option != "--prompt":
            say(f"{option} is empty. Name something, or leave it out.", to=sys.stderr)
            return INVALID
    command = tyro.cli(
        New | Customize | Join | Further | Estimate | Words | Sample | Caption | Export,
        prog="python -m training",
        description=__doc__,
    )
    return in_words(command)


def in_words(command: Callable[[], int]) -> int:
    """A command's exit code; what it raises that a person can mend is a sentence."""
    try:
        make_temporary_place()
        return command()
    except UserError as error:
        say(error, to=sys.stderr)
        return INVALID
    except OSError as error:  # what no part of the work has a better word for: a name too long, a folder for a file
        name = f"{error.filename} cannot be used" if error.filename else "A file cannot be used"
        say(f"{name} ({error.strerror or error}). Name another one, or mend it.", to=sys.stderr)
        return INVALID
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
