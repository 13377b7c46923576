"""A run's folder: where everything lies in it, what it is doing, and what has been measured."""

import functools
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines.errors import UserError
from training import checkpoint
from training.config import Customization
from training.formats import NO_JSON

PATIENCE = 2.0  # seconds: who only asks whether a run is written holds its lock for a moment
RESTS = 2.0  # seconds after which a state is taken to be written for good: longer than any disk's clock ticks
NUMBER = int | float
# Without these an entry is none of ours.
METRICS: dict[str, Any] = {"step": int, "loss": NUMBER, "seconds_per_step": NUMBER}
LARGEST = 10**12  # of a number that can be shown
MAYBE: dict[str, Any] = {"steps": int, "stage": str}


def runs_folder() -> Path:
    """Where runs live unless a person says otherwise: `runs` in the data folder, `JOINERY_DATA` or `data`."""
    return Path(os.environ.get("JOINERY_DATA") or "data") / "runs"


def make_temporary_place() -> None:
    """Make the folder that TMPDIR names: a container's lies in its volume, which may be empty.

    To be called before PyTorch and Gradio are imported, which look for it.

    Raises:
        UserError: neither it nor any other takes files.
    """
    if named := os.environ.get("TMPDIR"):
        with suppress(OSError):  # Python looks for another
            os.makedirs(named, exist_ok=True)
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise UserError(
            f"There is no temporary folder ({error.strerror or error})", "Name a place for it with TMPDIR"
        ) from None


@dataclass(frozen=True)
class Run:
    """Names the paths of a run, and keeps `state.json` and `metrics.jsonl`.

    `state.json` holds status (preparing, running, done, cancelled, failed), stage (content, style, make, export), step
    and steps over all stages, loss, time_left in seconds, device, matrices (how many the optimizer projects), message,
    the pid of the process that works on it, and the host that this is a pid of.
    """

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def sheet(self) -> Path:
        return self.samples / "sheet.png"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter.safetensors"

    def adapter_after(self, step: int = 0) -> Path:
        """The adapter as it was after a step, where `steps.keep_every` asked for it; 0: as it ended."""
        return checkpoint.place(self._kept, step).with_suffix(".safetensors") if step else self.adapter

    def kept_steps(self) -> list[int]:
        """After which there is an adapter beside the last one."""
        names = (path.stem.removeprefix("step-") for path in self._kept.glob("step-*.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def _kept(self) -> Path:
        return self.folder / "kept"

    @property
    def status(self) -> str:
        return self.read_state().get("status", "new")

    def customization(self) -> Customization:
        """What the run learns.

        Raises:
            UserError: it is no run's folder, another version wrote its configuration, or it was damaged.
        """
        if not os.path.exists(self.config):
            raise UserError(f"{self.folder} is no run folder: it has no {self.config.name}", "Name the folder of a run")
        try:
            return Customization.load(self.config, LATER)
        except UserError as error:
            what = f"The run {self.folder.name} cannot be read, since another version wrote it or it was damaged"
            raise UserError(f"{what}: {error.what}", error.remedy) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one that works on the run until the block or the process ends, on all machines that share its folder.

        Raises:
            UserError: another one does, it is no folder, or what is to hold it cannot be written.
        """
        try:
            if self.folder.is_file():
                raise UserError(f"The run folder {self.folder} is a file", "Name a folder")
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock, timeout=PATIENCE)
            lock.acquire()
        except Timeout:
            if not self._lock.exists():  # a place that takes no files
                raise UserError(f"The run {self.folder} cannot be written", "Choose another run folder") from None
            raise UserError(
                f"The run {self.folder} is being trained by another process",
                "Wait for it, cancel it, or choose another run folder",
            ) from None
        except OSError as error:
            raise UserError(
                f"The run {self.folder} cannot be written ({error.strerror or error})", "Choose another run folder"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def written(self) -> bool:
        """Whether a process works on the run, on any machine that shares its folder."""
        try:
            if self._lock.exists():
                with FileLock(self._lock, timeout=0):
                    pass
        except Timeout:
            return True
        except OSError:  # a disk that is read only here
            pass
        return False

    def forget_lock(self) -> None:
        """Remove the lock's file, of a run that nobody will start again."""
        self._lock.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        """Held by who works on the run; beside its folder, which may not be there yet. The file itself says nothing."""
        folder = self.folder.resolve()
        return folder.with_name(f".{folder.name}.lock")

    def begin(self, config: Customization) -> None:
        """Take a new folder, or one of an earlier start of the same customization; inside `writing`.

        Raises:
            UserError: the folder holds another customization, or cannot be written.
        """
        held = self._held()
        if held is not None and decisive(held) != decisive(config):
            raise UserError(
                f"The run folder {self.folder} holds another customization",
                "Choose another run folder, or remove this one to start anew",
            )
        for folder in (self.folder, self.samples, self.checkpoints):
            with checkpoint.in_words(folder, "what was there before is still there"):
                folder.mkdir(parents=True, exist_ok=True)
                checkpoint.clean(folder)
        if self.status != "preparing":  # else a studio has just started it, and may have been asked to stop it since
            self.forget_stop()
        config.save(self.config)
        first = "Reading the pictures"
        self.write_state(
            status="preparing", stage="", step=0, steps=0, loss=None, time_left=None, message="", doing=first
        )

    def _held(self) -> Customization | None:
        """The customization that the folder holds. A file without a word was cut off by a kill, and says nothing."""
        try:
            text = self.config.read_bytes()
        except FileNotFoundError:
            return None
        return Customization.load(self.config, LATER) if text.strip(b"\0 \n") else None

    def ask_to_stop(self) -> None:
        """Ask who works on the run, on whatever machine, to end it after the step it is in."""
        with checkpoint.in_words(self._stop, "the run goes on"):
            self._stop.touch()

    def forget_stop(self) -> None:
        if self.stop_asked:  # a full or read-only disk may refuse to remove even what is not there
            with checkpoint.in_words(self._stop, "the run stays asked to stop"):
                self._stop.unlink(missing_ok=True)

    @property
    def stop_asked(self) -> bool:
        return self._stop.exists()

    def ask_for_sample(self) -> None:
        """Ask who works on the run, on whatever machine, to draw a strip of samples after the step it is in."""
        with checkpoint.in_words(self._sample, "the run goes on"):
            self._sample.touch()

    def take_sample_asked(self) -> bool:
        """Whether a strip was asked for since this was looked at last."""
        if not self._sample.exists():
            return False
        with suppress(OSError):  # then it is drawn once more
            self._sample.unlink(missing_ok=True)
        return True

    @property
    def _sample(self) -> Path:
        return self.folder / "sample"

    @property
    def _stop(self) -> Path:
        return self.folder / "stop"

    def write_state(self, **changes: Any) -> None:
        """Change some entries of `state.json`; readers see the old file or the new, never a part."""
        state = self.read_state() | changes | {"pid": os.getpid(), "host": platform.node(), "time": time.time()}
        checkpoint.write_bytes(self.state, json.dumps(state).encode(), lasting=False)

    def read_state(self) -> dict[str, Any]:
        """What was written last. The file is opened again only where it has changed."""
        try:
            file = os.stat(self.state)
        except OSError:  # none yet
            return {}
        # Two states of one moment could look the same from outside.
        rests = time.time() - file.st_mtime > RESTS
        read = _read_state if rests else _read_state.__wrapped__
        return dict(read(self.state, (file.st_mtime_ns, file.st_ino, file.st_size)))

    def append_metrics(self, **values: Any) -> None:
        checkpoint.append_line(self.metrics, json.dumps(values))

    def read_metrics(self) -> list[dict[str, Any]]:
        """One entry per step. A last line that was cut off by a kill is left out."""
        try:
            lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        entries = []
        for line in lines:
            with suppress(*NO_JSON):
                entry = json.loads(line)
                if _is_ours(entry):
                    entries.append(entry)
        return entries

    def rewind_metrics(self, step: int) -> None:
        """Forget what was measured after `step`: those steps are about to be done again."""
        kept = [json.dumps(entry) + "\n" for entry in self.read_metrics() if entry["step"] <= step]
        checkpoint.write_bytes(self.metrics, "".join(kept).encode())


class Onlooker(Run):
    """A run as one of several processes sees it that computes and does not write."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        yield

    def begin(self, config: Customization) -> None:
        """The first process has."""

    def forget_stop(self) -> None:
        """The first process does."""

    def write_state(self, **changes: Any) -> None:
        """The first process does."""

    def append_metrics(self, **values: Any) -> None:
        """The first process does."""

    def rewind_metrics(self, step: int) -> None:
        """The first process does."""


@functools.lru_cache(maxsize=4096)
def _read_state(path: Path, seen: tuple[int, int, int]) -> dict[str, Any]:
    """`seen`: what tells one file under this path from the next."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *NO_JSON):  # damaged from outside: the run is still readable without
        return {}
    return state if isinstance(state, dict) else {}


def _is_ours(entry: Any) -> bool:
    """Whether a line of the metrics is an entry that this version reads."""
    if not isinstance(entry, dict) or not entry.keys() >= METRICS.keys():
        return False
    known = {key: (entry[key], kind) for key, kind in (METRICS | MAYBE).items() if key in entry}
    if not all(isinstance(value, kind) for value, kind in known.values()):
        return False
    return all(abs(value) < LARGEST for value, _ in known.values() if not isinstance(value, str))  # nor is NaN


def decisive(config: Customization) -> dict[str, Any]:
    """What decides the trained bits, less pictures and base: those count by their content, and folders may move.

    What is said of the base's prediction counts by the noise schedule that it leads to.

    Periods, sample settings and gradient checkpointing may change between two starts of a run.
    """
    data = config.model_dump(
        mode="json", exclude={"name", "preset", "memory", "base", "prediction", "zero_snr", "samples"}
    )
    del data["steps"]["checkpoint_every"], data["steps"]["keep_every"], data["steps"]["gradient_checkpointing"]
    for name in config.concepts:
        del data[name]["pictures"], data[name]["crops"], data[name]["others"], data[name]["run"]
    # Without effect where nothing is adapted that has gates.
    data["adapter"]["split_gates"] &= config.adapter.layers in ("attention+feedforward", "all")
    return _without_later(data, config)


# Keys that a project file got after the first runs, whose identity does not name them.
LATER = {
    "content": ("further", "rate", "steps", "prior_weight", "slack", "caption_dropout", "unmasked_weight", "variants"),
    "style": ("further", "rate", "steps", "prior_weight", "slack", "caption_dropout", "unmasked_weight", "reach"),
    "adapter": ("content_in", "style_in", "split_gates", "split"),
    "steps": ("schedule", "warm_up", "max_grad_norm"),
    "loss": ("min_snr", "noise_offset"),
}


def _without_later(data: dict[str, Any], config: Customization) -> dict[str, Any]:
    """Settings without the later keys that are at their defaults, and without tables of which nothing is left."""
    for table in LATER.keys() & {name for name, values in data.items() if values}:
        fields = type(getattr(config, table)).model_fields
        for key in LATER[table]:
            if data[table][key] == fields[key].default:
                del data[table][key]
    return {key: value for key, value in data.items() if value != {}}
