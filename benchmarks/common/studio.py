"""A studio in a process of its own, as a person starts it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.config import HOUSE


@contextmanager
def studio_process(runs: Path | str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Its address and its process, for a folder of runs; it ends with the context."""
    command = [sys.executable, "-m", "app", "--runs", str(runs), "--port", "0"]
    process = subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True)
    try:
        address = next(word for line in process.stdout for word in line.split() if word.startswith("http"))
        yield address.rstrip("."), process
    finally:
        process.terminate()
        process.wait()
