"""Methods on cells: python -m benchmarks.pairs.run METHOD [--part development] [--cell CONTENT,STYLE] [key=value ...]

Learns, joins and scores what is not in results/cells.jsonl yet, a line for each cell; the same command goes on where
the last one ended. Changes are keys of the project file, for example steps.break=400, or of a table that a method has
for itself, for example np_lora.mu=inf. A rival that learns is scored on test cells with the rate that was chosen for it
(`benchmarks.pairs.rates`), unless the changes name one.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image

from benchmarks.common.changes import parsed
from benchmarks.common.drawing import rounded
from benchmarks.common.environment import environment
from benchmarks.pairs.cells import Cell, cells, pictures, shown
from benchmarks.pairs.judges import judges_of
from benchmarks.pairs.methods import LEARNING, METHODS, folder
from benchmarks.pairs.methods.ready import opened
from benchmarks.pairs.score import GUIDANCE, STYLE_SCALES, drawer, score
from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import sheet

LINES = Path(__file__).parent / "results/cells.jsonl"
CHOSEN = LINES.with_name("rates.json")
LONGEST = 200  # letters of a sheet's name


def main(
    method: Annotated[str, tyro.conf.Positional],
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    part: Literal["development", "test"] = "development",
    cell: tuple[str, ...] = (),
    seed: int = 0,
    frontier: bool = True,
) -> None:
    """Learn, join and score a method on cells.

    Args:
        method: one of the methods of benchmarks/pairs/methods.
        changes: keys of the project file, for example steps.break=400.
        part: which cells.
        cell: only these, each CONTENT,STYLE.
        seed: of the training.
        frontier: draw at all scales of the style; without it the frontier is that of full scales alone.
    """
    torch.set_num_threads(1)
    scales = STYLE_SCALES if frontier else (1.0,)
    changes = with_rate(method, changes) if part == "test" else changes
    tables = parsed(changes)
    scale = tables.pop("samples", {}).get("guidance_scale", GUIDANCE)  # learning does not depend on it
    model = fingerprint(opened(tables).unet)[:12]
    for one in [Cell(*name.split(",")) for name in cell] or cells(part):
        key = {"method": method, "changes": list(changes), "content": one.content, "style": one.style, "seed": seed}
        key |= {"model": model}
        if any(key.items() <= line.items() and scales_of(line) >= len(scales) for line in lines()):
            continue
        began = time.monotonic()
        ready = METHODS[method](one, seed, tables)
        row = key | {"scales": len(scales), "learned in": round(time.monotonic() - began)}
        judges = judges_of(one.style)
        figures, drawn = score(one, drawer(ready.pipe, scale), ready.set_scales, judges, ready.prompt, scales)
        row |= rounded(figures) | {"seconds": round(time.monotonic() - began)}
        look(one, [Image.fromarray(picture.numpy()) for picture in drawn[:8]], method, changes)
        LINES.parent.mkdir(exist_ok=True)
        with open(LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(environment() | row) + "\n")
        told = {name: [row[name][which] for which in ("content", "style", "harmonic")] for name in judges}
        print(f"{one.content} in {one.style}: {told}, {row['seconds']} s", flush=True)


def with_rate(method: str, changes: tuple[str, ...]) -> tuple[str, ...]:
    """The changes with the rate that was chosen for a rival that learns, unless they name one.

    Raises:
        UserError: none has been chosen.
    """
    if method not in LEARNING or any(change.startswith("optimizer.lr=") for change in changes):
        return changes
    if method not in (found := chosen()):
        raise UserError(f"No rate has been chosen for {method}", f"python -m benchmarks.pairs.rates {method}")
    return (*changes, f"optimizer.lr={found[method]['rate']:g}")


def chosen() -> dict:
    """Method -> the mean of each rate, and the rate that is best."""
    return json.loads(CHOSEN.read_text(encoding="utf-8")) if CHOSEN.exists() else {}


def lines() -> list[dict]:
    text = LINES.read_text(encoding="utf-8") if LINES.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def scales_of(line: dict) -> int:
    """At how many scales of the style a cell was drawn; a method without scales was drawn once whatever was asked."""
    return line["scales"] if "scales" in line else len(line["judge"]["points"])


def look(cell: Cell, drawn: list[Image.Image], method: str, changes: tuple[str, ...]) -> None:
    """A sheet of what was seen, of the true picture, and of what was drawn."""
    real = pictures()
    rows = {
        "content": [real.image(pair) for pair in shown("content", cell.content)],
        "style": [real.image(pair) for pair in shown("style", cell.style)],
        "true": [real.image((cell.content, cell.style))],
        "drawn": drawn,
    }
    path = folder() / f"sheets/{file_name(cell.content, cell.style, method, *changes)}.png"
    sheet.save(sheet.compose(rows, f"{cell.content} in {cell.style}: {method}", cell=100), path)


def file_name(*parts: str) -> str:
    """One for each list of parts, which a person can read as far as its length allows."""
    name = "-".join(parts).replace(" ", "_").replace("/", "_")
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(str(error)) from None
