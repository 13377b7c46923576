"""A training job: a child process in a session of its own, found again through its run's folder.

It outlives the page and the studio. What it does stands in the run's `state.json`, with the pid that works on it; so a
studio that was just started knows as much as the one that started the job.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.errors import UserError
from training import Run, checkpoint
from training.config import HOUSE

LIVE = ("preparing", "running")
RESUMABLE = ("cancelled", "failed", "interrupted")

_children: list[subprocess.Popen] = []  # ended ones must be waited for, or their pid stays taken


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
    for child in _children:
        child.poll()
    state = run.read_state()
    if state.get("status") in LIVE and _process(state) is None:
        state = run.read_state()  # its last word may have come between the two looks
        if state.get("status") in LIVE:
            state |= {"status": "interrupted", "message": _last_words(run)}
    known = {key: state[key] for key in Job.__dataclass_fields__ if state.get(key) is not None}
    return Job(**{"status": "new"} | known)


def start(run: Run) -> None:
    """Train the customization in the run's folder, or go on where it stopped.

    Raises:
        UserError: this or another run of the same library is being trained; the machine has room for one.
    """
    for config in run.folder.parent.glob(f"*/{run.config.name}"):
        if look(Run(config.parent)).live:
            raise UserError(f"The run {config.parent.name} is being trained", "Wait for its end, or cancel it")
    command = [sys.executable, "-m", "training", "customize", run.config.resolve(), "--run", run.folder.resolve()]
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        apart = {"start_new_session": True}
    with open(log_path(run), "ab") as log:
        child = subprocess.Popen(
            list(map(str, command)), cwd=HOUSE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **apart
        )
    _children.append(child)
    # The child needs seconds before it can speak for itself; a page opened meanwhile should see it all the same.
    state = run.read_state() | {"status": "preparing", "message": "", "time_left": None, "pid": child.pid}
    state |= {"pid_started": psutil.Process(child.pid).create_time(), "time": time.time()}
    checkpoint.write_bytes(run.state, json.dumps(state).encode())


def cancel(run: Run) -> None:
    """Ask a run to stop; it writes a checkpoint after the step it is in. A run that is not live stays as it is."""
    state = run.read_state()
    process = _process(state) if state.get("status") in LIVE else None
    if process is not None:
        process.terminate()


def log_path(run: Run) -> Path:
    return run.folder / "log.txt"


def _process(state: dict) -> psutil.Process | None:
    """The process that a state names, if it still lives. A pid alone may have been given to another one since."""
    try:
        process = psutil.Process(state["pid"])
        same = abs(process.create_time() - state["pid_started"]) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None


def _last_words(run: Run) -> str:
    """Why a process ended that could not write its state: the last line of its log, if it is one for people."""
    try:
        lines = log_path(run).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    words = [line.strip() for line in lines if line.strip()]
    return words[-1] if words and words[-1].endswith(".") else ""
