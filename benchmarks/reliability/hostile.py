"""Inputs that are meant to harm: python -m benchmarks.reliability.hostile [--only WORD]

Each goes, in a process of its own, to all that reads its like. It is clear if it is refused in one sentence of ours or
handled as it should be, and if the process ends, in time, within a bound of memory, and has changed no file outside its
own folder. A sample goes through the studio's HTTP too. Writes results/summary.json, and what was not clear to
results/hostile.jsonl.
"""

import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
import tyro
from diffusers import StableDiffusionPipeline
from PIL import Image

from app.library import Library
from app.recipe import Recipe
from benchmarks.reliability.inputs import http, pictures, places, projects, texts, weights
from benchmarks.reliability.inputs.case import Case, World
from benchmarks.reliability.summary import SUMMARY, keep
from pipelines import guided
from tests.tiny import tiny_pipeline, write_pictures
from training import Customization, customize

FAILURES = SUMMARY.with_name("hostile.jsonl")
SOURCES = (pictures, weights, projects, texts, places)
SECONDS = 30  # of a core, in which an input must be done with
WAIT = 900  # seconds, in which it must be done with beside other work
MOST = 2 * 2**30  # bytes by which memory may grow
STOP = 8 * 2**30  # bytes beyond which nothing is given
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.symlink", "os.link", "os.chmod")
LINKS = ("os.symlink", "os.link")  # of which the second path is written
TWO = (*LINKS, "os.rename")
ALONE = ("subprocess.Popen", "os.system", "os.exec", "socket.connect")  # what no input may lead to
PROJECT = """
base = "base"
resolution = 32
[content]
pictures = "content"
others = "other_contents"
[style]
pictures = "style"
others = "other_styles"
[adapter]
rank = 4
layers = "cross-attention"
[steps]
break = 2
make = 1
batch_size = 1
others_batch_size = 1
checkpoint_every = 1
[samples]
every = 0
inference_steps = 1
"""


def world(folder: Path) -> World:
    """A tiny base, a finished run on it, and a folder outside that must stay as it is."""
    base, outside = folder / "base", folder / "outside"
    tiny_pipeline().save_pretrained(base)
    write_pictures(folder)
    (folder / "project.toml").write_text(PROJECT)
    run = customize(Customization.load(folder / "project.toml"), folder / "runs/fox")
    for name in ("shot", "pictures", "run"):
        (outside / name).mkdir(parents=True)
    Recipe("a", 0, 1.0, 1.0, "CFG", {}, 5.0, 1, 64, "base").save(Image.new("RGB", (16, 16)), outside / "shot/a.png")
    shutil.copy(run.config, outside / "run")
    for name in ("a.txt", "a.png", "pictures/a.png"):
        (outside / name).write_text("stays")
    return World(Library(folder / "runs"), run, base, outside, tiny_pipeline(guided(StableDiffusionPipeline)))


class Watch:
    """Notes what is done to files outside a folder, and what no input may lead to."""

    def __init__(self, folder: Path):
        self.folder, self.seen = os.path.realpath(folder), []

    def __call__(self, event: str, args: tuple) -> None:
        if event in ALONE:
            self.seen.append(f"{event} {args[0]!r:.200}")
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        changed = args[event in LINKS : 2 if event in TWO else 1] if writes or event in CHANGES else ()
        for given in changed:
            if isinstance(given, str | bytes | os.PathLike) and given != os.devnull:
                self.note(event, os.fsdecode(given))

    def note(self, event: str, path: str) -> None:
        """A link is changed where it lies, not where it leads."""
        with suppress(ValueError):  # a name that none can have
            place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if not (place + os.sep).startswith(self.folder + os.sep):
                self.seen.append(f"{event} {path!r:.200}")


def attempt(case: Case, there: World, folder: Path) -> dict:
    """Give an input in a process of its own, and what came of it: what was wrong, if anything, and the memory."""
    reading, writing = os.pipe()
    before, began = _resident(), time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        wrong = _in_child(case, there, folder)
        os.write(writing, wrong.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        wrong = pipe.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(child, 0)
    grown = usage.ru_maxrss * 1024 - before
    if status:
        wrong = f"The process ended with {status}; {wrong}"
    if grown > MOST:
        wrong = f"Memory grew by {grown / 2**20:.0f} MiB; {wrong}"
    return {"what": case.what, "wrong": wrong, "MiB": round(grown / 2**20), "seconds": time.monotonic() - began}


def _in_child(case: Case, there: World, folder: Path) -> str:
    resource.setrlimit(resource.RLIMIT_AS, (STOP, STOP))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _late)
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    watch = Watch(folder)
    sys.addaudithook(watch)
    try:
        case.act(there, folder)
    except BaseException as error:
        place = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-4:]
        return f"{type(error).__name__}: {str(error)[:300]} at {', '.join(place)}; {watch.seen[:3]}"
    return f"It did {watch.seen[:3]}" if watch.seen else ""


class Late(BaseException):
    """It has taken too long. No handler of ours takes it for a fault of the input."""


def _late(number: int, frame: object) -> None:
    raise Late(f"{SECONDS} s of a core were not enough" if number == signal.SIGPROF else f"It waited for {WAIT} s")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def inputs(seed: int = 0) -> Iterator[Case]:
    """All that need no server, the same for the same seed."""
    for source in SOURCES:
        yield from source.cases(random.Random(seed))


def held(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main(only: str = "", seed: int = 0) -> None:
    """Give all inputs.

    Args:
        only: those whose name has this in it; then nothing is written.
        seed: of the generator.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    torch.set_num_threads(1)
    logging.disable()
    place = Path(tempfile.mkdtemp(prefix="joinery-hostile-"))
    there, results = world(place), []
    before = held(there.outside)
    for number, case in enumerate(inputs(seed)):
        if only in case.what:
            folder = place / str(number)
            folder.mkdir()
            results.append(attempt(case, there, folder))
            shutil.rmtree(folder)
            if results[-1]["wrong"] or only:
                print(results[-1], flush=True)
    for what, wrong in http.ask_all(place, only):
        results.append({"what": what, "wrong": wrong, "MiB": 0, "seconds": 0})
        if wrong:
            print(results[-1], flush=True)
    assert held(there.outside) == before, "What lies outside has changed"
    shutil.rmtree(place)
    failures = [result for result in results if result["wrong"]]
    print(f"{len(results) - len(failures)} of {len(results)} are clear", flush=True)
    if not only:
        lines = [json.dumps(failure).replace(str(place), "") + "\n" for failure in failures]
        SUMMARY.parent.mkdir(exist_ok=True)
        FAILURES.write_text("".join(lines), encoding="utf-8") if lines else FAILURES.unlink(missing_ok=True)
        most = max(results, key=lambda result: result["MiB"])
        keep(
            hostile_inputs=len(results),
            hostile_clear=len(results) - len(failures),
            hostile_seed=seed,
            hostile_most_memory_mib=most["MiB"],
        )


if __name__ == "__main__":
    tyro.cli(main)
