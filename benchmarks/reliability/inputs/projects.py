"""Project files: values of another kind, without measure, unknown keys, depth, and what a run holds of itself."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

from app import figures, jobs
from app.bases import about
from benchmarks.reliability.inputs.case import VALUES, Case, Unclear, World, ask, cut, flipped
from training import Customization, Run
from training.concepts import read_all_pictures
from training.mix import further, mixed
from training.plan import plan

TEXTS = {
    "no byte": b"",
    "zeros": bytes(1000),
    "UTF-16": "base = 'x'".encode("utf-16"),
    "a mark and no more": b"\xef\xbb\xbf",
    "one key twice": b"seed = 1\nseed = 2",
    "deep lists": b"a = " + b"[" * 50_000,
    "deep tables": b"a = " + b"{a = " * 50_000,
    "deep keys": b"a" + b".a" * 50_000 + b" = 1",
    "a deep heading": b"[" + b"a." * 20_000 + b"a]",
    "many headings": b"".join(b"[a%d]\n" % i for i in range(50_000)),
    "a number of many digits": b"seed = " + b"9" * 100_000,
    "five megabytes": b"name = '" + b"x" * 5 * 2**20 + b"'",
    "a text that does not end": b'name = """' + b"\n" * 100_000,
    "a date": b"seed = 1979-05-27T07:32:00Z",
    "a list of tables": b"[[content]]\npictures = 'a'\n[[content]]\npictures = 'a'",
    "Python": b"import os; os.system('touch /tmp/x')",
    "JSON": b'{"content": {}}',
}
STATES = [
    "status",
    "stage",
    "step",
    "steps",
    "loss",
    "time_left",
    "device",
    "matrices",
    "message",
    "time",
    "pid",
    "place",
]


def cases(chance: Random) -> Iterator[Case]:
    for what, text in TEXTS.items():
        yield Case(f"a project of {what}", lambda world, folder, text=text: project(world, folder, text))
    for number in range(12):
        for how in (cut, flipped):
            seed = chance.randrange(2**32)
            yield Case(
                f"a project {how.__name__}, {number}",
                lambda world, folder, how=how, seed=seed: project(world, folder, how(whole(world), Random(seed))),
            )
    keys = [*flat(Customization(content={"pictures": ["a"]}, style={"pictures": ["a"]}).model_dump(by_alias=True))]
    keys += [
        "content.run",
        "style.others",
        "memory",
        "prediction",
        "nothing",
        "content.nothing",
        "optimizer.nothing",
        "a.b",
    ]
    for key in keys:
        for value in chance.sample(VALUES, 2):
            yield Case(
                f"a project whose {key} is {value!r:.40}",
                lambda world, folder, k=key, v=value: project(world, folder, changed(world, k, v)),
            )
    yield Case("a run that learns on from itself", circle)
    for key in STATES:
        for value in chance.sample([*VALUES, 10**400, -1e308, None], 2):
            yield Case(
                f"a run whose {key} is {value!r:.40}", lambda world, folder, k=key, v=value: state(world, folder, k, v)
            )
    for what, line in (
        ("deep", "[" * 100_000),
        ("a list", "[]"),
        ("huge", '{"step": 1e999, "loss": 1e999, "seconds_per_step": 1}'),
    ):
        yield Case(f"measurements that are {what}", lambda world, folder, line=line: measured(world, folder, line))
    for key in ("step", "steps", "loss", "seconds_per_step", "stage", "losses"):
        for value in chance.sample([*VALUES, 10**400], 2):
            entry = {"step": 1, "loss": 0.5, "seconds_per_step": 0.1, "stage": "content", "steps": 9} | {key: value}
            yield Case(
                f"measurements whose {key} is {value!r:.40}",
                lambda world, folder, entry=entry: measured(world, folder, json.dumps(entry)),
            )


def whole(world: World) -> bytes:
    return world.run.config.read_bytes()


def flat(table: dict, above: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        yield f"{above}{key}"


def changed(world: World, key: str, value: object) -> bytes:
    """The run's own project with another value at a key."""
    data = Customization.load(world.run.config).model_dump(mode="json", by_alias=True, exclude_none=True)
    table, *path = data, *key.split(".")
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = value
    return tomli_w.dumps(data).encode("utf-8", "surrogatepass")


def project(world: World, folder: Path, text: bytes) -> None:
    """All that reads a project."""
    path = folder / "config.toml"
    path.write_bytes(text)
    config = ask(Customization.load, path)
    ask(Run(folder).customization)
    if config is None:
        return
    ask(config.recognised_base)
    ask(about, config.base)
    ask(plan, config)
    if config.resolution <= 256:
        ask(read_all_pictures, config)
    again = folder / "again"
    again.mkdir()
    if ask(lambda: config.save(again / "config.toml") or True):
        if meaning(Customization.load(again / "config.toml")) != meaning(config):
            raise Unclear("What is written is not what is read")
        if not (again / "config.toml").is_relative_to(folder):
            raise Unclear("It was written elsewhere")


def meaning(config: Customization) -> dict:
    """All but the base, wherever the file lies that says it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(held) for key, held in value.items()}
        if isinstance(value, list):
            return [plain(held) for held in value]
        return os.path.normpath(value) if isinstance(value, Path) else value

    return plain(config.model_dump(exclude={"base"}))


def circle(world: World, folder: Path) -> None:
    run = folder / "run"
    shutil.copytree(world.run.folder, run)
    text = run.joinpath("config.toml").read_text(encoding="utf-8")
    run.joinpath("config.toml").write_text(text.replace("[content]", '[content]\nrun = "."'), encoding="utf-8")
    ask(mixed, run, run)
    ask(further, run, 1, 1)
    ask(Run(run).customization)


def state(world: World, folder: Path, key: str, value: object) -> None:
    run = copied(world, folder)
    run.state.write_text(json.dumps(run.read_state() | {"status": "running", key: value}), encoding="utf-8")
    job = ask(jobs.look, run)
    figures.progress(run.folder.name, job)
    ask(jobs.ahead, run)
    ask(run.write_state, status="done")


def measured(world: World, folder: Path, line: str) -> None:
    run = copied(world, folder)
    run.metrics.write_text(run.metrics.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    figures.loss_curve(run.read_metrics())
    ask(run.rewind_metrics, 1)


def copied(world: World, folder: Path) -> Run:
    run = Run(folder / "runs/copy")
    shutil.copytree(world.run.folder, run.folder)
    return run
