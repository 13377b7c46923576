"""A content or a style alone, before anything is joined: python -m benchmarks.pairs.alone KIND NAME [key=value ...]

Learned as `joined` learns it, so that its run serves both. Then drawn where its pictures have shown it ("seen": the
styles of a content's pictures, the contents of a style's), and where they have not ("new"), as the base knows those.
Changes are keys of the project file. Adds a line to results/alone.jsonl and leaves a sheet.
"""

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
from benchmarks.pairs.cells import PLACEHOLDERS, shown
from benchmarks.pairs.judges import judges_of, shipped
from benchmarks.pairs.methods.joined import learned, loaded, of_one
from benchmarks.pairs.methods.ready import folder
from benchmarks.pairs.run import file_name
from benchmarks.pairs.score import GUIDANCE, both_right, drawer, kept_pairs
from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import sheet
from training.base.data import Pair
from training.base.judge import accuracy

LINES = Path(__file__).parent / "results/alone.jsonl"
SEEDS = 4  # a pair
NEW = {
    "content": ("blob", "fxemoji", "high contrast", "blueprint", "sepia"),
    "style": ("bear", "red apple", "star", "fish", "bell"),
}


def main(
    kind: Annotated[Literal["content", "style"], tyro.conf.Positional],
    name: Annotated[str, tyro.conf.Positional],
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    scale: float = 1.0,
    seed: int = 0,
) -> None:
    """Learn a content or a style alone, and say what of it comes out.

    Args:
        kind: "content" or "style".
        name: one of those in cells.json.
        changes: keys of the project file, for example steps.break=400.
        scale: of what was learned.
        seed: of the training.
    """
    torch.set_num_threads(1)
    tables, began = parsed(changes), time.monotonic()
    guidance_scale = tables.pop("samples", {}).get("guidance_scale", GUIDANCE)
    run = learned(of_one(kind, name, seed, tables))
    taken = round(time.monotonic() - began)
    pipe, set_scales = loaded(run, tables)
    set_scales(**{kind: scale})
    draw, judges = drawer(pipe, guidance_scale), judges_of(name) if kind == "style" else shipped()
    row = {"kind": kind, "name": name, "changes": list(changes), "scale": scale, "seed": seed}
    row |= {"model": fingerprint(pipe.unet)[:12], "learned in": taken}
    seen, word = shown(kind, name), run.customization().concepts[kind].class_word
    new = [(name, style) if kind == "content" else (style, name) for style in NEW[kind]]
    rows = {}
    for which, pairs in (("seen", seen), ("new", new)):
        drawn = draw(
            [prompt(kind, pair, word) for pair in pairs for _ in range(SEEDS)], tuple(range(len(pairs) * SEEDS))
        )
        rows[which] = [Image.fromarray(picture.numpy()) for picture in drawn[::2]]
        asked = [pair for pair in pairs for _ in range(SEEDS)]
        for judge_name, judge in judges.items():
            said = judge.says(drawn, judge.config["styles"], judge.config["contents"])
            row.setdefault(judge_name, {})[which] = accuracy(said, asked)
    known = kept_pairs()
    kept = draw([f"{content}, {style} style" for content, style in known], tuple(range(len(known))))
    for judge_name, judge in judges.items():
        row[judge_name] = rounded(row[judge_name] | {"kept": both_right(judge, kept, known)})
    path = folder() / f"alone/{file_name(name, *changes, f'scale={scale:g}', f'seed={seed}')}.png"
    sheet.save(sheet.compose(rows, f"{name} alone", cell=100), path)
    LINES.parent.mkdir(exist_ok=True)
    with open(LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps(environment() | row) + "\n")
    print(json.dumps({judge_name: row[judge_name] for judge_name in judges}), flush=True)


def prompt(kind: str, pair: Pair, word: str) -> str:
    """What asks for a pair whose content or style was learned, and whose other half the base knows.

    Args:
        word: the class word that it was learned with.
    """
    content, style = pair
    if kind == "content":
        return f"{PLACEHOLDERS[kind]} {word}, {style} style"
    return f"{content}, {PLACEHOLDERS[kind]} {word} style"


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        raise SystemExit(str(error)) from None
