"""Trains what waits in line, without a page: python -m app.worker [--runs FOLDER] [--gpus 0 1]

As many machines work as share the folder of the runs. Its files are the line: who takes the lock of a start has the
next run, and the lock of a run says that somebody works on it, so that there is no server of jobs to keep.
"""

import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipelines.errors import UserError

INVALID = 2  # exit code
SECONDS = 1.0  # between two looks at the line


@dataclass
class Worker:
    """Train the runs that wait in line, until it is ended; what it trains then is saved, and waits first in line."""

    runs: Path | None = None
    """The folder that holds the runs; `runs` in the data folder if not given."""
    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them: each trains a run of its own. Without names the folder has one run at a
    time."""

    def __call__(self) -> None:
        from app import jobs
        from training.run import make_temporary_place, runs_folder

        make_temporary_place()
        folder, ended = self.runs or runs_folder(), threading.Event()
        if not folder.is_dir():
            raise UserError(f"The folder {folder} is not there", "Name that of a studio with --runs")
        jobs.room, jobs.said_aloud = jobs.Room(gpus=self.gpus), True
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda *_: ended.set())
        print(f"Waiting for runs in {folder}  (Ctrl-C ends it; what is being trained is saved)", flush=True)
        while not ended.wait(SECONDS):
            try:
                if run := jobs.start_next(folder):
                    print(f"{run.folder.name} begins", flush=True)
            except (UserError, OSError) as error:  # a full disk, say: the run keeps its place
                print(f"The next run could not be started: {error}", file=sys.stderr, flush=True)
        jobs.wait_in_line(jobs.pause_all(folder))


def main() -> int:
    try:
        tyro.cli(Worker, prog="python -m app.worker")()
    except UserError as error:
        print(error, file=sys.stderr)
        return INVALID
    return 0


if __name__ == "__main__":
    sys.exit(main())
