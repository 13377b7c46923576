"""Whether the data set's pictures are those that the given weights came with: python -m benchmarks.base.given

Compares every picture of benchmarks/pictures with the one that training/base renders. Writes results/given.json.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.environment import environment
from training import checkpoint
from training.base import data

HERE = Path(__file__).parent


def main() -> None:
    pictures, found = data.load(), defaultdict(lambda: {"pictures": 0, "equal": 0, "mean difference": 0.0})
    for file in sorted((HERE.parent / "pictures").glob("*.png")):
        content, style = file.stem.replace("-", " ").split(",")
        given = np.asarray(Image.open(file).convert("RGB")).astype(int)
        difference = np.abs(given - pictures.pixels[pictures.where[content, style]].numpy()).mean()
        row = found[style]
        row["pictures"] += 1
        row["equal"] += int(difference == 0)
        row["mean difference"] += float(difference)
    for row in found.values():
        row["mean difference"] = round(row["mean difference"] / row["pictures"], 2)
    results = environment() | {"of 255": found}
    print(json.dumps(results, indent=1))
    checkpoint.write_bytes(HERE / "results/given.json", (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
