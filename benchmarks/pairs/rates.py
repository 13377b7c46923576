"""The better of three learning rates for each rival: python -m benchmarks.pairs.rates [METHOD ...]

Scores each rate on a few development cells, at full scales alone, and writes the one whose mean of the first judge's
harmonic means is highest to results/rates.json. Test cells are then scored with it.
"""

import json
import sys

from benchmarks.common.drawing import rounded
from benchmarks.pairs import run
from benchmarks.pairs.cells import cells
from benchmarks.pairs.methods import LEARNING
from pipelines.errors import UserError

RATES = (3e-4, 1e-3, 3e-3)
EVERY = 9  # of the development cells one: three, of different contents and all styles
CHOOSES = "judge"


def main(*methods: str) -> None:
    """Choose for these methods, or for all that learn.

    Raises:
        UserError: one is no rival that learns.
    """
    if unknown := {*methods} - {*LEARNING}:
        raise UserError(f"{', '.join(unknown)} has no rate to choose", f"Name some of {', '.join(LEARNING)}")
    some = cells("development")[::EVERY]
    for method in methods or LEARNING:
        for rate in RATES:
            run.main(method, (change(rate),), cell=tuple(f"{one.content},{one.style}" for one in some), frontier=False)
        found = run.chosen() | {method: best(run.lines(), method, {(one.content, one.style) for one in some})}
        run.CHOSEN.write_text(json.dumps(rounded(found), indent=1) + "\n", encoding="utf-8")


def change(rate: float) -> str:
    return f"optimizer.lr={rate:g}"


def best(lines: list[dict], method: str, some: set[tuple[str, str]]) -> dict:
    """The mean of each rate over the cells, and the rate with the highest; of equals the lowest.

    Raises:
        UserError: a rate lacks a cell.
    """
    means = {}
    for rate in RATES:
        mine = [line for line in lines if line["method"] == method and line["changes"] == [change(rate)]]
        scores = {(line["content"], line["style"]): line[CHOOSES]["harmonic"] for line in mine if line["seed"] == 0}
        if missing := some - scores.keys():
            raise UserError(f"{method} at {rate:g} lacks {len(missing)} of {len(some)} cells", "Score them first")
        means[f"{rate:g}"] = sum(scores[cell] for cell in some) / len(some)
    return {"means": means, "rate": float(max(means, key=means.get))}


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        raise SystemExit(str(error)) from None
