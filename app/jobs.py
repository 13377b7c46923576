"""A training job: a child process in a session of its own, found again through its run's folder.

It outlives the page and the studio. A machine has room for one, or for one on each GPU that it names. The others wait
in line, and whoever looks after the folder, a studio or `app.worker` on any machine, starts the next one. What a job
does stands in its run's `state.json`, and the run's lock tells whether it still does it. So a studio that was just
started, in another container too, knows as much as the one that started the job.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipelines.errors import UserError
from training import Customization, Run
from training.config import HOUSE
from training.run import LARGEST

if TYPE_CHECKING:
    from app.given import Given
    from app.library import Library

LIVE = ("preparing", "running")
QUEUED = "queued"
TAKEN_UP = "taken_up"  # in `state.json`: the checkpoint that a killed run last went on from by itself
RESUMABLE = ("cancelled", "failed", "interrupted")

KINDS = {"step": int, "steps": int, "loss": float, "time_left": float | int} | dict.fromkeys(
    ("status", "stage", "device", "matrices", "message", "doing"), str
)  # of what a state says; anything else was written by another program
SAVES_WITHIN = 6  # seconds, of the ten after which a container's processes are killed
SPEAKS_WITHIN = 120  # seconds, in which a child opens its libraries and takes its run's lock


@dataclass(frozen=True)
class Room:
    """What this machine trains runs with."""

    trains: bool = True  # else others do that share the folder
    # Each trains a run of its own, by the names of CUDA_VISIBLE_DEVICES. Without names the folder has one at a time.
    gpus: tuple[str, ...] = ()


room = Room()
_children: dict[Path, subprocess.Popen] = {}  # by run folder; ended ones must be waited for
said_aloud = False  # whether the studio prints what its children write into their logs


@dataclass(frozen=True)
class Job:
    """What a run is doing. `status` is that of `state.json`, or "new", or "interrupted": gone without a last word."""

    status: str
    stage: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    time_left: float | None = None
    device: str = ""
    matrices: str = ""
    message: str = ""
    doing: str = ""  # beside its steps

    @property
    def live(self) -> bool:
        return self.status in LIVE


def look(run: Run) -> Job:
    """What a run is doing now."""
    for child in _children.values():
        child.poll()
    state = run.read_state()
    if state.get("status") in LIVE and not _lives(run, state):
        state = run.read_state()  # its last word may have come between the two looks
        if state.get("status") in LIVE:
            twice = " It went on by itself once, and ended again at the same place." if _given_up(run) else ""
            state |= {"status": "interrupted", "message": (_last_words(run) + twice).strip()}
    known = {key: state[key] for key, kind in KINDS.items() if isinstance(state.get(key), kind)}
    shown = {key: value for key, value in known.items() if isinstance(value, str) or abs(value) < LARGEST}
    return Job(**{"status": "new"} | shown)


def launch(library: "Library", config: Customization, pictures: dict[str, list["Given"]]) -> Run:
    """Make a run of a customization, and train it when its turn comes.

    Args:
        pictures: as `Library.create` takes them.
    Raises:
        UserError: the same is being trained already, or waits; then there is no new run.
    """
    with alone(library.folder):
        run = library.create(config, pictures)
        for other in _runs(library.folder):
            if other != run and _undecided(other) and _same(run, other):
                shutil.rmtree(run.folder)
                what = "is being trained already" if look(other).live else "waits for its turn already"
                raise UserError(f"The same project {what}, as {other.folder.name}", "Change something in it")
        _start_in_turn(run)
    return run


def start(run: Run) -> None:
    """Train the customization in the run's folder, or go on where it stopped, when its turn comes.

    Raises:
        UserError: it is being trained, or waits.
    """
    with alone(run.folder.parent):
        if _undecided(run):
            raise UserError(f"The run {run.folder.name} is being trained or waits", "Wait for its end, or cancel it")
        _start_in_turn(run)


def start_next(folder: Path) -> Run | None:
    """Start the first run in the line of a library's folder, if this machine has room for it."""
    _take_up(folder)
    if not waiting(folder):  # asked every second
        return None
    with alone(folder):
        line, gpu = waiting(folder), _free_gpu(folder)
        if not line or gpu is None:
            return None
        _start_on(line[0], gpu)
        return line[0]


def _take_up(folder: Path) -> None:
    """Runs whose process was killed go first in line: once, and again only if they have saved more since."""
    for run in _runs(folder):
        if look(run).status == "interrupted" and not _given_up(run):
            with alone(folder):
                if look(run).status == "interrupted":
                    run.write_state(status=QUEUED, place=0, **{TAKEN_UP: _saved(run)})


def _given_up(run: Run) -> bool:
    """Whether a run that was killed had been taken up where it still is: it would be killed there again."""
    return run.read_state().get(TAKEN_UP) == _saved(run)


def _saved(run: Run) -> str:
    """The newest checkpoint."""
    return max((path.name for path in run.checkpoints.glob("step-*")), default="")


def pause_all(folder: Path) -> list[Run]:
    """Ask every run that this machine trains to end after its step; `wait_in_line` keeps them for the next start."""
    paused = [run for run in _runs(folder) if look(run).live and _is_here(run)]
    for run in paused:
        run.ask_to_stop()
    return paused


def wait_in_line(paused: list[Run], seconds: float = SAVES_WITHIN) -> None:
    """Put runs that were asked to end first in line. One that does not end in time is taken up as killed."""
    deadline = time.monotonic() + seconds
    while any(look(run).live for run in paused) and time.monotonic() < deadline:
        time.sleep(0.05)
    for run in paused:
        if look(run).status == "cancelled":
            run.write_state(status=QUEUED, place=0, message="")


def waiting(folder: Path) -> list[Run]:
    """The runs in line, the next one first."""
    line = [run for run in _runs(folder) if run.read_state().get("status") == QUEUED]
    return sorted(line, key=lambda run: (_place(run), run.folder.name))


def ahead(run: Run) -> int:
    """How many runs come before one that waits: those in line, and the one that is being trained."""
    line = waiting(run.folder.parent)
    return line.index(run) + _busy(run.folder.parent) if run in line else 0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other start in a library meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".start.lock"):
        yield


def _runs(folder: Path) -> list[Run]:
    return [Run(config.parent) for config in folder.glob("*/config.toml")]


def _busy(folder: Path) -> bool:
    """Whether a run is being trained, on any machine."""
    return any(look(run).live for run in _runs(folder))


def _free_gpu(folder: Path) -> str | None:
    """The GPU that this machine has for another run, empty where none has a name; None if there is no room."""
    if not room.trains:
        return None
    if not room.gpus:
        return None if _busy(folder) else ""
    taken = {run.read_state().get("gpu") for run in _runs(folder) if look(run).live and _is_here(run)}
    return next((gpu for gpu in room.gpus if gpu not in taken), None)


def _is_here(run: Run) -> bool:
    """Whether it is this machine that trains a run."""
    return run.read_state().get("host") == platform.node()


def _place(run: Run) -> int:
    """In line; another program may have written none."""
    place = run.read_state().get("place")
    return place if isinstance(place, int) else 0


def _undecided(run: Run) -> bool:
    job = look(run)
    return job.live or job.status == QUEUED


def _same(run: Run, other: Run) -> bool:
    """Whether two runs are one project with the same pictures: then someone has asked twice."""

    def pictures(run: Run) -> dict[str, str]:
        files = [path for path in (run.folder / "pictures").rglob("*") if path.is_file()]
        return {str(path.relative_to(run.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return run.config.read_bytes() == other.config.read_bytes() and pictures(run) == pictures(other)


def _start_in_turn(run: Run) -> None:
    line, gpu = waiting(run.folder.parent), _free_gpu(run.folder.parent)
    if line or gpu is None:
        run.write_state(status=QUEUED, place=_place(line[-1]) + 1 if line else 1, message="", time_left=None)
    else:
        _start_on(run, gpu)


def _start_on(run: Run, gpu: str) -> None:
    run.write_state(gpu=gpu)
    _start(run)


def _start(run: Run) -> None:
    run.forget_stop()
    gpu = run.read_state().get("gpu")
    seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    command = [sys.executable, "-m", "training", "customize", run.config.resolve(), "--run", run.folder.resolve()]
    apart: dict[str, Any]
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        apart = {"start_new_session": True}
    with open(log_path(run), "ab") as log:
        begins = log.tell()
        child = subprocess.Popen(
            list(map(str, command)),
            cwd=HOUSE,
            env=os.environ | seen,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **apart,
        )
    _children[run.folder.resolve()] = child
    if said_aloud:
        threading.Thread(target=say_aloud, args=(run, child, begins), daemon=True).start()
    # The child needs seconds before it can speak for itself; a page opened meanwhile should see it all the same.
    run.write_state(status="preparing", message="", time_left=None, doing="Loading PyTorch and diffusers")


def cancel(run: Run) -> None:
    """Ask a run to stop; it writes a checkpoint after the step it is in. One that waits leaves the line."""
    with alone(run.folder.parent):
        job = look(run)
        if job.live:
            run.ask_to_stop()
        elif job.status == QUEUED:
            run.write_state(status="cancelled")


def say_aloud(run: Run, child: subprocess.Popen, begins: int) -> None:
    """Print what a child writes into its run's log, line by line, until it has ended.

    Args:
        begins: bytes of the log before it.
    """
    with open(log_path(run), "rb") as log:
        log.seek(begins)
        line, ended = b"", False
        while not ended:
            ended = child.poll() is not None  # asked first: what it wrote at last is still to be read
            while part := log.readline():
                line += part
                if line.endswith(b"\n"):
                    print(f"{run.folder.name}: {line.decode(errors='replace')}", end="", flush=True)
                    line = b""
            if not ended:
                time.sleep(0.5)


def log_path(run: Run) -> Path:
    return run.folder / "log.txt"


def _lives(run: Run, state: dict[str, Any]) -> bool:
    """Whether somebody works on a run that says so: our own child, or who holds its lock.

    Another studio's child that cannot have taken the lock yet counts too.
    """
    child = _children.get(run.folder.resolve())
    if child is not None and child.poll() is None:
        return True
    if run.written:
        return True
    since = time.time() - state["time"] if isinstance(state.get("time"), float) else SPEAKS_WITHIN
    return child is None and state["status"] == "preparing" and 0 <= since < SPEAKS_WITHIN


def _last_words(run: Run) -> str:
    """Why a process ended that could not write its state: the last line of its log, if it is one for people."""
    try:
        lines = log_path(run).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:  # none, or another's
        lines = []
    words = [line.strip() for line in lines if line.strip()]
    return words[-1] if words and words[-1].endswith(".") else ""
