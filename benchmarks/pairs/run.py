"""Methods on cells: python -m benchmarks.pairs.run METHOD [--part development] [--cell CONTENT,STYLE] [key=value ...]

Learns, joins and scores what is not in results/cells.jsonl yet, a line for each cell; the same command goes on where
the last one ended. Changes are keys of the project file, for example steps.break=400.
"""

import json
import time
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image

from benchmarks.common.drawing import both_judges, rounded
from benchmarks.common.environment import environment
from benchmarks.pairs.cells import Cell, cells, pictures, shown
from benchmarks.pairs.methods import METHODS, folder
from benchmarks.pairs.score import SEEDS, drawer, score
from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import sheet

LINES = Path(__file__).parent / "results/cells.jsonl"


def main(
    method: Annotated[str, tyro.conf.Positional],
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    part: Literal["development", "test"] = "development",
    cell: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Learn, join and score a method on cells.

    Args:
        method: one of the methods of benchmarks/pairs/methods.py.
        changes: keys of the project file, for example steps.break=400.
        part: which cells.
        cell: only these, each CONTENT,STYLE.
        seed: of the training.
    """
    torch.set_num_threads(1)
    judges, tables = both_judges(), parsed(changes)
    for one in [Cell(*name.split(",")) for name in cell] or cells(part):
        key = {"method": method, "changes": list(changes), "content": one.content, "style": one.style, "seed": seed}
        if any(key.items() <= line.items() for line in lines()):
            continue
        began = time.monotonic()
        ready = METHODS[method](one, seed, tables)
        row = key | {"model": fingerprint(ready.pipe.unet)[:12], "learned in": round(time.monotonic() - began)}
        draw = drawer(ready.pipe)
        row |= rounded(score(one, draw, ready.set_scales, judges, ready.prompt))
        row["seconds"] = round(time.monotonic() - began)
        look(one, [Image.fromarray(x.numpy()) for x in draw([ready.prompt] * 8, SEEDS[:8])], method, changes)
        LINES.parent.mkdir(exist_ok=True)
        with open(LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(environment() | row) + "\n")
        told = {name: [row[name][which] for which in ("content", "style", "harmonic")] for name in judges}
        print(f"{one.content} in {one.style}: {told}, {row['seconds']} s", flush=True)


def lines() -> list[dict]:
    text = LINES.read_text(encoding="utf-8") if LINES.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def parsed(changes: tuple[str, ...]) -> dict:
    """Each "table.key=value" with the value as in TOML, as tables of a project file."""
    tables: dict = {}
    for change in changes:
        path, found, value = change.partition("=")
        if not found:
            raise UserError(f"{change!r} is no change", "Write key=value, for example optimizer.lr=5e-3")
        *parents, key = path.split(".")
        place = tables
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            place[key] = value
    return tables


def look(cell: Cell, drawn: list[Image.Image], method: str, changes: tuple[str, ...]) -> None:
    """A sheet of what was seen, of the true picture, and of what was drawn."""
    real = pictures()
    rows = {
        "content": [real.image(pair) for pair in shown("content", cell.content)],
        "style": [real.image(pair) for pair in shown("style", cell.style)],
        "true": [real.image((cell.content, cell.style))],
        "drawn": drawn,
    }
    name = "-".join([cell.content, cell.style, method, *changes]).replace(" ", "_").replace("/", "_")
    sheet.save(
        sheet.compose(rows, f"{cell.content} in {cell.style}: {method}", cell=100), folder() / f"sheets/{name}.png"
    )


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(str(error)) from None
