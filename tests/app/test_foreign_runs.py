"""Runs that another version wrote, that were damaged, or that are not ours: no page breaks, and the others work."""

import json
import sys

import gradio as gr
import pytest

from app import bases, jobs
from app.copies import Copies
from app.library import Library
from app.studio import build
from tests.app.conftest import pictures_of
from training import Run


def write(name: str, data: str | bytes):
    return lambda run: (run.folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def base(value: str):
    """Another base, in TOML's own spelling."""

    def edit(run: Run) -> None:
        lines = run.config.read_text().splitlines()
        run.config.write_text("\n".join(f'base = "{value}"' if line.startswith("base = ") else line for line in lines))

    return edit


def folder(name: str):
    def edit(run: Run) -> None:
        (run.folder / name).unlink(missing_ok=True)
        (run.folder / name).mkdir(parents=True)

    return edit


def metrics(**values):
    entry = {"step": 1, "steps": 2, "loss": 0.5, "seconds_per_step": 1.0, "stage": "content"}
    return write("metrics.jsonl", 3 * (json.dumps(entry | values) + "\n"))


def state(**values):
    return write("state.json", json.dumps({"status": "running", "time": 0.0} | values))


UNREADABLE = {
    "no bytes": write("config.toml", ""),
    "an unknown key": lambda run: run.config.write_text("future = 1\n" + run.config.read_text()),
    "not UTF-8": write("config.toml", b"\xff"),
    "a folder": folder("config.toml"),
    "a list too deep": write("config.toml", "a = " + "[" * 5000),
    "too many digits": write("config.toml", f"a = {'9' * 5000}"),
    "NUL in a path": base("/a\\u0000b"),
}
READABLE = {
    "a base too long": base("n" * 300),
    "a place in line that is no number": state(status="queued", place="first"),
    "no place in line": state(status="queued"),
    "numbers without end": state(status="failed", step=10**400, steps=10**401, loss=float("inf")),
    "a base that is gone": base("/gone/base"),
    "a base of nobody": base("~nobody-of-this-name/base"),
    "an adapter of no bytes": write("adapter.safetensors", ""),
    "an adapter that is a folder": folder("adapter.safetensors"),
    "a step in words": metrics(step="one"),
    "a stage in a list": metrics(stage=["content"]),
    "an unknown stage": metrics(stage="orbit"),
    "a loss that is no number": metrics(loss=float("nan"), seconds_per_step=float("inf")),
    "metrics without steps": write("metrics.jsonl", 3 * '{"step": 1, "loss": 1.0, "seconds_per_step": 1.0}\n'),
    "metrics that are none": write("metrics.jsonl", "[]\n3\n\0\n" + "[" * 100_000),
    "metrics in a folder": folder("metrics.jsonl"),
    "a state too deep": write("state.json", "[" * 100_000),
    "an unknown status": state(status="flying", stage="orbit", step=7, steps=0),
    "a status in a list": state(status=["running"], message=3),
    "a time that is none": state(status="preparing", time=float("nan"), time_left=float("inf")),
    "a log that is a folder": lambda run: (state()(run), folder("log.txt")(run)),
    "a stop that is a folder": folder("stop"),
    "a strip of no step": write("samples/step-x.png", "x"),
    "a strip of no bytes": write("samples/step-000001.png", ""),
    "a sheet that is a folder": folder("samples/sheet.png"),
}


@pytest.fixture
def here(library, config) -> Library:
    """A library with a good run and all of these, each in a folder of its name."""
    library.create(config.model_copy(update={"name": "good"}), pictures_of(config))
    for name, edit in (UNREADABLE | READABLE).items():
        run = library.create(config.model_copy(update={"name": name}), pictures_of(config))
        for part in (run.samples, run.checkpoints):
            part.mkdir()
        run.adapter.touch()
        edit(run)
    (library.folder / "to nowhere").symlink_to(library.folder / "nowhere")
    if sys.platform == "linux":
        (library.folder / "good").rename(library.folder / "\udcff")
        library.create(config.model_copy(update={"name": "good"}), pictures_of(config))
    return library


def test_no_page_breaks_on_runs_of_others(here, config, tmp_path):
    names = [run.folder.name for run in here.runs()]
    assert len(names) == 1 + len(UNREADABLE) + len(READABLE) and "good" in names
    page = build(here, config, Copies(tmp_path))
    handlers = {event.fn.__name__: event.fn for event in page.fns.values() if event.fn}
    look = next(event.fn for event in page.fns.values() if event.targets and event.targets[0][1] == "tick")
    handlers["open_page"]()
    broken, marked = [], []
    for name in names:
        asked = {
            "look": (name, None, ""),
            "look_at_strips": (name, None),
            "ask_to_cancel": (name,),
            "play_with": (name,),
            "choose": (name,),
            "add_new": (name, []),
        }
        for handler, values in asked.items():
            try:
                shown = (look if handler == "look" else handlers[handler])(*values)
            except gr.Error as error:
                broken.append((name, handler, str(error)))
                continue
            if handler == "look" and any(
                "another version wrote it or it was damaged" in str(v) for v in shown.values()
            ):
                marked.append(name)
    assert broken == [] and sorted(marked) == sorted(name.lower().replace(" ", "-") for name in UNREADABLE)
    assert jobs.look(here.find("good")).status == "new"
    here.estimate(config)
    assert bases.offered(here, config)
