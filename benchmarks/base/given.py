"""Whether the data set's pictures are those that the given weights came with: python -m benchmarks.base.given

Compares every reference picture with the one that training/base renders. Writes results/given.json.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.environment import environment
from benchmarks.common.pictures import reference_pictures
from training import checkpoint
from training.base import data

HERE = Path(__file__).parent


def main() -> None:
    pictures, found = data.load(), defaultdict(lambda: {"pictures": 0, "equal": 0, "mean difference": 0.0})
    for pair, file in reference_pictures().items():
        content, style = (name.replace("-", " ") for name in pair)
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
