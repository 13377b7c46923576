"""Base models beside each other: python -m benchmarks.base.compare [MODEL ...] [--count 160] [--scale 2]

Each draws the same prompts from the same seeds with CFG, four fifths of them trained pairs and the others left-out
ones; both judges look at them, and at the real pictures. What was drawn is kept in data/base/measured. Writes
results/compare.json.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.base.measure import shares
from benchmarks.common.drawing import both_judges, draw, prompts, rounded
from benchmarks.common.environment import environment
from pipelines.adapters import fingerprint
from training import checkpoint
from training.base import data
from training.base.data import SPLIT
from training.base.npm import base_folder
from training.config import HOUSE
from training.model import open_base
from training.sampling import guided_pipeline

MODELS = (Path("models/emoji"), Path("models/emoji-composing"))


def main(
    models: Annotated[tuple[Path, ...], tyro.conf.Positional] = MODELS, count: int = 160, scale: float = 2.0
) -> None:
    """Compare models.

    Args:
        models: their folders, from the project's.
        count: prompts.
        scale: of guidance.
    """
    torch.set_num_threads(1)
    pictures = data.load()
    trained, left_out = prompts(pictures, count)
    pairs, n = trained + left_out, len(trained)
    looked_at = {"real": pictures.take(pairs).pixels}
    results = environment() | {"prompts": {"trained": n, "left out": len(left_out)}, "scale": scale, "models": {}}
    for model in models:
        pipe = guided_pipeline(open_base(str(HOUSE / model)), "emoji")
        results["models"][str(model)] = digest = fingerprint(pipe.unet)
        looked_at[str(model)] = draw(pipe, pairs, scale, base_folder() / "measured" / f"compare-{digest[:12]}-{count}")
    for name, judge in both_judges().items():
        says = partial(judge.says, styles=SPLIT["styles"], contents=SPLIT["contents"])
        results[name] = {row: shares(says(pixels), pairs, n) for row, pixels in looked_at.items()}
        print(name, json.dumps(rounded(results[name]), indent=1))
    path = Path(__file__).parent / "results/compare.json"
    checkpoint.write_bytes(path, (json.dumps(rounded(results), indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
