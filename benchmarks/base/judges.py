"""What the judges can and cannot tell: python -m benchmarks.base.judges [--check]

For each judge, what it says of real pictures that are moved and softened anew, and the styles that it takes for each
other. With --check also what it says of pictures that it was not shown: that trains each again without every eighth
picture, a quarter of an hour each, and goes on where it was stopped. Writes results/judges.json.
"""

import json
from collections import Counter
from pathlib import Path

import tyro

from benchmarks.common.environment import environment
from training import checkpoint
from training.base import data, judge, recipes
from training.draws import keyed

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models"
TIMES = 4  # each picture is shown


def confused(said: list, pairs: list, which: int, count: int) -> list:
    """The commonest mistakes as [true, said, share of the true one's pictures]."""
    mistakes = Counter((true[which], saw[which]) for true, saw in zip(pairs, said, strict=True))
    shown = Counter(true[which] for true in pairs)
    found = [[*pair, round(n / shown[pair[0]], 3)] for pair, n in mistakes.items() if pair[0] != pair[1]]
    return sorted(found, key=lambda row: -row[2])[:count]


def main(check: bool = False) -> None:
    pictures = data.load()
    known = data.known_pairs(pictures) + data.known_pairs(pictures, left_out=True)
    pixels = pictures.take(known).pixels
    results = environment()
    for name, recipe in recipes.JUDGES["small"].items():
        shipped, said = judge.Judge.load(MODELS / name), []
        for time in range(TIMES):
            moved = data.to_pixels(judge.augment(pixels, keyed("shown to the judges", time)))
            said += shipped.says(moved, data.SPLIT["styles"], data.SPLIT["contents"])
        results[name] = {
            "real": judge.accuracy(shipped.says(pixels, data.SPLIT["styles"], data.SPLIT["contents"]), known),
            "real, augmented": judge.accuracy(said, known * TIMES),
            "styles confused": confused(said, known * TIMES, 1, 8),
            "contents confused": confused(said, known * TIMES, 0, 8),
            "parameters": sum(p.numel() for p in shipped.parameters()),
        }
        if check:
            held_out = judge.make(name, recipe, pictures, check=True)
            left = [pair for pair in pictures.pairs if judge.left_out(pair) and pair[1] in data.SPLIT["styles"]]
            says = held_out.says(pictures.take(left).pixels, data.SPLIT["styles"], data.SPLIT["contents"])
            results[name]["not shown"] = judge.held_out_accuracy(held_out, pictures)
            results[name]["not shown, styles confused"] = confused(says, left, 1, 8)
        print(name, json.dumps(results[name], indent=1))
    checkpoint.write_bytes(HERE / "results/judges.json", (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
