"""Killed and out of disk, at every moment: python -m benchmarks.reliability.kills [--random 200]

A customization of the embedded base, break, make, strips, checkpoints and export, in a few steps. First once without
harm. Then, each in a process of its own,

- it is killed with SIGKILL at a random instant, and started again and killed again, until it has been killed so often;
- it is killed as it is about to open, rename or remove a file, once for each such operation of the whole run;
- each such operation fails as on a full disk, once for each.

After each, it goes on to its end without harm. Counts how often the adapter's file then has the bytes of the first
run's, and how often a full disk was one sentence. Writes results/summary.json.
"""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

from benchmarks.common.environment import environment
from pipelines.errors import UserError
from training import Customization, customize
from training.config import HOUSE

SUMMARY = Path(__file__).parent / "results/summary.json"
OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
SENTENCE = 2  # exit code of a run that ended with words for a person


def small() -> Customization:
    """Everything that a run writes, in eleven steps."""
    config = Customization.load(HOUSE / "samples/project.toml")
    config.steps.break_, config.steps.make, config.steps.checkpoint_every = 3, 2, 2
    config.steps.batch_size, config.steps.others_batch_size, config.resolution = 1, 1, 32
    config.samples.every, config.samples.inference_steps = 3, 1
    config.content.others = config.style.others = HOUSE / "samples/content"  # not drawn anew for each run
    return config


def train(folder: Path, harm: Callable[[], None] | None = None) -> None:
    """In a process of its own: train to the end, or as far as the harm lets it."""
    torch.set_num_threads(1)
    logging.disable()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if harm:
        harm()
    try:
        customize(small(), folder / "run")
    except UserError:
        os._exit(SENTENCE)


class Nth:
    """At the n-th operation that writes under a folder, counted from 0, kill or fail as on a full disk."""

    def __init__(self, folder: Path, n: int, what: str):
        self.folder, self.n, self.what = str(folder), n, what

    def __call__(self) -> None:
        count = 0

        def hook(event: str, args: tuple) -> None:
            nonlocal count
            if not writes(event, args, self.folder):
                return
            count += 1
            if self.what == "count":
                Path(f"{self.folder}.count").write_text(str(count), encoding="utf-8")
            elif count > self.n and self.what == "full":
                raise OSError(errno.ENOSPC, "No space left on device", str(args[0]))
            elif count == self.n + 1 and self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


def writes(event: str, args: tuple, folder: str) -> bool:
    """Whether an audited event is an operation that changes a folder's files."""
    if event not in OPERATIONS or not isinstance(args[0], str | os.PathLike):
        return False
    if not os.fspath(args[0]).startswith(folder + os.sep):
        return False
    return event != "open" or bool(args[2] & (os.O_WRONLY | os.O_RDWR))


def run(folder: Path, harm: Callable[[], None] | None = None, seconds: float | None = None) -> int:
    """Train in a process of its own, killed after some seconds if any are given; its exit code, -9 if it was killed."""
    process = CONTEXT.Process(target=train, args=(folder, harm))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def adapter(folder: Path) -> str:
    """SHA-256 of the adapter's file; empty where there is none."""
    file = folder / "run/adapter.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


CONTEXT = multiprocessing.get_context("forkserver")


def main(random_kills: int = 200, operations: int = 10**6) -> None:
    """Do all that is not in the summary yet.

    Args:
        random_kills: how often it is killed at a random instant.
        operations: at most so many operations are killed, and as many fail.
    """
    CONTEXT.set_forkserver_preload(["training", "torch", "diffusers", "benchmarks.reliability.kills"])
    place = Path(tempfile.mkdtemp(prefix="joinery-kills-"))
    whole = place / "whole"
    assert run(whole, Nth(whole, 0, "count")) == 0
    right, began = adapter(whole), time.monotonic()
    assert run(place / "timed") == 0
    lasts = time.monotonic() - began
    count = min(operations, int(Path(f"{whole}.count").read_text(encoding="utf-8")))
    found = environment() | {"operations": count}
    found |= {key: 0 for key in ("kills", "kills_bit_equal", "disk_full_points", "disk_full_safe")}

    def went_on(folder: Path) -> bool:
        equal = run(folder) == 0 and adapter(folder) == right
        shutil.rmtree(folder)
        return equal

    def report() -> None:
        SUMMARY.parent.mkdir(exist_ok=True)
        SUMMARY.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print({key: found[key] for key in found if key not in ("machine", "versions")}, flush=True)

    # At random instants: a run is killed again and again, then goes to its end.
    chance = random.Random(0)
    while found["kills"] < random_kills:
        folder, killed = place / f"random-{found['kills']}", 0
        while killed < 5 and run(folder, seconds=chance.uniform(0, lasts)) == -signal.SIGKILL:
            killed += 1
        found["kills"] += killed
        found["kills_bit_equal"] += killed * went_on(folder)
        report()

    # At each operation.
    for n in range(count):
        folder = place / f"kill-{n}"
        if run(folder, Nth(folder, n, "kill")) == -signal.SIGKILL:
            found["kills"] += 1
            found["kills_bit_equal"] += went_on(folder)
        folder = place / f"full-{n}"
        sentence = run(folder, Nth(folder, n, "full")) == SENTENCE
        found["disk_full_points"] += 1
        found["disk_full_safe"] += sentence and went_on(folder)
        report()
    shutil.rmtree(place)


if __name__ == "__main__":
    tyro.cli(main)
