"""A run's folder: where everything lies in it, what it is doing, and what has been measured."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipelines.errors import UserError
from training import checkpoint
from training.config import Customization


def runs_folder() -> Path:
    """Where runs live unless a person says otherwise: `runs` in the data folder, `JOINERY_DATA` or `data`."""
    return Path(os.environ.get("JOINERY_DATA") or "data") / "runs"


@dataclass(frozen=True)
class Run:
    """Names the paths of a run, and keeps `state.json` and `metrics.jsonl`.

    `state.json` holds status (preparing, running, done, cancelled, failed), stage (content, style, make, export), step
    and steps over all stages, loss, time_left in seconds, device, matrices (how many the optimizer projects), message,
    and the pid of the process that works on it.
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

    @property
    def status(self) -> str:
        return self.read_state().get("status", "new")

    def begin(self, config: Customization) -> None:
        """Take a new folder, or one of an earlier start of the same customization.

        Raises:
            UserError: the folder holds another customization, or another process works on it.
        """
        state = self.read_state()
        if state.get("status") in ("preparing", "running") and _lives(state.get("pid"), state.get("pid_started")):
            raise UserError(
                f"The run {self.folder} is being trained by process {state['pid']}",
                "Wait for it, cancel it, or choose another run folder",
            )
        if self.config.exists() and decisive(Customization.load(self.config)) != decisive(config):
            raise UserError(
                f"The run folder {self.folder} holds another customization",
                "Choose another run folder, or remove this one to start anew",
            )
        self.samples.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        config.save(self.config)
        self.write_state(status="preparing", stage="", step=0, steps=0, loss=None, time_left=None, message="")

    def write_state(self, **changes: Any) -> None:
        """Change some entries of `state.json`; readers see the old file or the new, never a part."""
        state = self.read_state() | changes
        state |= {"pid": os.getpid(), "pid_started": psutil.Process().create_time(), "time": time.time()}
        temporary = self.state.with_name(".state.json.tmp")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self.state)

    def read_state(self) -> dict[str, Any]:
        try:
            return json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or damaged from outside: the run is still readable without
            return {}

    def append_metrics(self, **values: Any) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """One entry per step. A last line that was cut off by a kill is left out."""
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

    def rewind_metrics(self, step: int) -> None:
        """Forget what was measured after `step`: those steps are about to be done again."""
        kept = [json.dumps(entry) + "\n" for entry in self.read_metrics() if entry["step"] <= step]
        checkpoint.write_bytes(self.metrics, "".join(kept).encode())


def decisive(config: Customization) -> dict[str, Any]:
    """What decides the trained bits, less pictures and base: those count by their content, and folders may move.

    Periods, sample settings and gradient checkpointing may change between two starts of a run.
    """
    data = config.model_dump(mode="json", exclude={"name", "preset", "memory", "base", "samples"})
    del data["steps"]["checkpoint_every"], data["steps"]["gradient_checkpointing"]
    for name in config.concepts:
        del data[name]["pictures"], data[name]["others"], data[name]["run"]
        if not data[name]["further"]:  # as in runs from before there was this key
            del data[name]["further"]
    return data


def _lives(pid: int | None, started: float | None) -> bool:
    """Whether a process still runs. A pid alone may have been given to another one since."""
    try:
        return pid != os.getpid() and abs(psutil.Process(pid).create_time() - started) < 1
    except (psutil.Error, TypeError):
        return False
