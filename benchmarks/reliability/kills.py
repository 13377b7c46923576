"""Killed and out of disk, at every moment: python -m benchmarks.reliability.kills [--kills 200]

A customization of a tiny base, break, make, strips, checkpoints and export, in a few steps: it writes all that a run
of a large one writes. First once without harm. Then, each in a process of its own,

- it is killed with SIGKILL as it is about to open, rename or remove a file, once for each such operation of the run;
- each such operation, and all after it, fails as on a full disk, once for each;
- it is killed at a random instant, and started again and killed again, until it has been killed so often.

After each, it goes on to its end without harm. Counts how often the adapter's file then has the bytes of the first
run's, and how often a full disk was one sentence too. The operations come in an order of chance, so that what
results/summary.json says is fair at any time.
"""

import errno
import hashlib
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

from benchmarks.reliability.summary import keep
from pipelines.errors import UserError
from tests.tiny import tiny_pipeline
from training import Customization, customize
from training.config import HOUSE

OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
SENTENCE = 2  # exit code of a run that ended with words for a person
IN_A_ROW = 5  # kills of one run, before it goes to its end


def small(base: Path) -> Customization:
    """Everything that a run writes, in eight steps."""
    config = Customization.load(HOUSE / "samples/project.toml")
    config.base, config.adapter.rank, config.adapter.layers = str(base), 4, "cross-attention"
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
        customize(small(folder.parent / "base"), folder / "run")
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


def main(kills: int = 200, operations: int = 10**6) -> None:
    """Kill runs, and let disks be full.

    Args:
        kills: how often a run is killed, at operations and then at random instants.
        operations: at most so many operations are killed, and as many fail.
    """
    CONTEXT.set_forkserver_preload(["training", "torch", "diffusers", "benchmarks.reliability.kills"])
    place = Path(tempfile.mkdtemp(prefix="joinery-kills-"))
    tiny_pipeline().save_pretrained(place / "base")
    whole = place / "whole"
    assert run(whole, Nth(whole, 0, "count")) == 0
    right, began = adapter(whole), time.monotonic()
    assert run(place / "timed") == 0
    lasts = time.monotonic() - began
    count = int(Path(f"{whole}.count").read_text(encoding="utf-8"))
    found = {key: 0 for key in ("kills", "kills_bit_equal", "disk_full_points", "disk_full_safe")}

    def went_on(folder: Path) -> bool:
        equal = run(folder) == 0 and adapter(folder) == right
        shutil.rmtree(folder)
        return equal

    # At each operation.
    chance = random.Random(0)
    for n in chance.sample(range(count), min(operations, count)):
        folder = place / f"kill-{n}"
        if run(folder, Nth(folder, n, "kill")) == -signal.SIGKILL:
            found["kills"] += 1
            found["kills_bit_equal"] += went_on(folder)
        folder = place / f"full-{n}"
        sentence = run(folder, Nth(folder, n, "full")) == SENTENCE
        found["disk_full_points"] += 1
        safe = went_on(folder) and sentence
        found["disk_full_safe"] += safe
        if not safe:
            print(f"The disk full at operation {n} was not safe", flush=True)
        keep(operations=count, **found)

    # At random instants: a run is killed again and again, then goes to its end.
    while found["kills"] < kills:
        folder, killed = place / f"random-{found['kills']}", 0
        most = min(IN_A_ROW, kills - found["kills"])
        while killed < most and run(folder, seconds=chance.uniform(0, lasts)) == -signal.SIGKILL:
            killed += 1
        found["kills"] += killed
        found["kills_bit_equal"] += killed * went_on(folder)
        keep(**found)
    shutil.rmtree(place)


if __name__ == "__main__":
    tyro.cli(main)
