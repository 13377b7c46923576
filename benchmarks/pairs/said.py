"""What a style's own pictures say of it: python -m benchmarks.pairs.said STYLE [key=value ...]

Which of the base's style words is nearest to them, and how much of the style is kept at less strength: the share of
what was gained in the loss on them, learned as `joined` learns it and as strong as it was then. Adds to
results/said.json.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.common.changes import parsed
from benchmarks.common.environment import environment
from benchmarks.pairs.cells import STYLES, customization
from benchmarks.pairs.methods.joined import learned, of_one
from benchmarks.pairs.methods.ready import over
from training.base.data import SPLIT
from training.concepts import prepare, read_all_pictures
from training.draws import keyed
from training.nearest import nearest
from training.sampling import open_run
from training.strength import denoising_error

SAID = Path(__file__).parent / "results/said.json"
SCALES = (0.0, 0.25, 0.5, 0.625, 0.75, 0.875, 1.0)
BATCH = 8


def main(name: Annotated[str, tyro.conf.Positional], changes: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    """Ask the base.

    Args:
        name: one of the styles of cells.json.
        changes: keys of the project file, for example style.steps=600.
    """
    torch.set_num_threads(1)
    words = nearest(customization({"style": name}), "style", SPLIT["styles"])
    run = learned(of_one("style", name, 0, over({"style": {"reach": 0.0}}, parsed(changes))))
    pipe, config = open_run(run.folder)
    encoded = prepare(pipe, read_all_pictures(config)["style"], run.cache, config.style)
    errors = {}
    for scale in SCALES:
        pipe.set_scales(style=scale)
        errors[scale] = denoising_error(pipe, encoded, BATCH, keyed("said", name))
    gained = errors[0.0] - errors[1.0]
    said = json.loads(SAID.read_text(encoding="utf-8")) if SAID.exists() else {}
    said |= environment()
    said[name] = {
        "own word": STYLES[name],
        "words": [[word, round(error, 4)] for word, error in words],
        "changes": list(changes),
        "kept at": {f"{scale:g}": round((errors[0.0] - error) / gained, 3) for scale, error in errors.items()},
    }
    SAID.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    print(name, said[name], flush=True)


if __name__ == "__main__":
    tyro.cli(main)
