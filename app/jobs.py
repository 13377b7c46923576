"""A training job: a child process in a session of its own, found again through its run's folder.

It outlives the page and the studio. What it does stands in the run's `state.json`, and its lock tells whether it still
does it; so a studio that was just started, in another container too, knows as much as the one that started the job.
"""

import subprocess
import sys
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

if TYPE_CHECKING:
    from app.library import Library

LIVE = ("preparing", "running")
RESUMABLE = ("cancelled", "failed", "interrupted")

KINDS = {"step": int, "steps": int, "loss": float, "time_left": float | int} | dict.fromkeys(
    ("status", "stage", "device", "matrices", "message"), str
)  # of what a state says; anything else was written by another program
SPEAKS_WITHIN = 120  # seconds, in which a child opens its libraries and takes its run's lock

_children: dict[Path, subprocess.Popen] = {}  # by run folder; ended ones must be waited for


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
            state |= {"status": "interrupted", "message": _last_words(run)}
    known = {key: state[key] for key, kind in KINDS.items() if isinstance(state.get(key), kind)}
    return Job(**{"status": "new"} | known)


def launch(library: "Library", config: Customization, pictures: dict[str, list[tuple[Path, str | None]]]) -> Run:
    """Make a run of a customization and train it; of two that are asked for together, the second is refused.

    Args:
        pictures: as `Library.create` takes them.
    Raises:
        UserError: as `start`; then there is no new run.
    """
    with _alone(library.folder):
        run = library.create(config, pictures)
        _start(run)
    return run


def start(run: Run) -> None:
    """Train the customization in the run's folder, or go on where it stopped.

    Raises:
        UserError: this or another run of the same library is being trained; the machine has room for one.
    """
    with _alone(run.folder.parent):
        _start(run)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other start in a library meanwhile, and no run that is being trained."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".start.lock"):
        for config in folder.glob("*/config.toml"):
            if look(Run(config.parent)).live:
                raise UserError(f"The run {config.parent.name} is being trained", "Wait for its end, or cancel it")
        yield


def _start(run: Run) -> None:
    run.forget_stop()
    command = [sys.executable, "-m", "training", "customize", run.config.resolve(), "--run", run.folder.resolve()]
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        apart = {"start_new_session": True}
    with open(log_path(run), "ab") as log:
        child = subprocess.Popen(
            list(map(str, command)), cwd=HOUSE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **apart
        )
    _children[run.folder.resolve()] = child
    # The child needs seconds before it can speak for itself; a page opened meanwhile should see it all the same.
    run.write_state(status="preparing", message="", time_left=None)


def cancel(run: Run) -> None:
    """Ask a run to stop; it writes a checkpoint after the step it is in. A run that is not live stays as it is."""
    if look(run).live:
        run.ask_to_stop()


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
