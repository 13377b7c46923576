"""The tables of costs in docs/pipelines.md, from the result file: python -m benchmarks.sampling.tables"""

from benchmarks.common.document import put, table
from benchmarks.sampling.cost import OTHERS, ROWS, Row, read
from training.config import HOUSE

DOC = HOUSE / "docs/pipelines.md"


def cost() -> str:
    """Median ratios to the stock class, with the middle 95 % of what other rounds would have given."""
    found = read()
    rows = [
        [
            "denoiser",
            "",
            "batch",
            "stock, ms a step",
            "`CFG()`",
            "APG",
            "APG, half of the steps",
            "a quarter",
            "no guidance",
            "APG's own ms",
            "latents above stock",
        ]
    ]
    planned = [row for row in ROWS if row.kind != "other rules"]
    rows += [[*beginning(row, found), *figures(found[row.title])] for row in planned if row.title in found]
    for device, model in dict.fromkeys((row.device, row.model) for row in planned if row.title not in found):
        left = [row for row in planned if (row.device, row.model) == (device, model) and row.title not in found]
        pairs = [(row.kind, str(row.batch)) for row in left]
        kinds, batches = (list(dict.fromkeys(values)) for values in zip(*pairs, strict=True))
        rows.append([f"{model}, {device.upper()}", ", ".join(kinds), ", ".join(batches), "open", *[""] * 7])
    return table(rows)


def figures(found: dict) -> list[str]:
    names = ("CFG", "APG", "APG, interval", "APG, quarter", "unguided")
    ratios = [said(found["ratios"][who]) if who in found["ratios"] else "" for who in names]
    own = f"{1e3 * found['hook']['APG']:.2f}" if "hook" in found else ""
    memory = found.get("memory")
    above = f"{memory['above stock']['APG'] / memory['latent']:.2f}" if memory else ""
    return [f"{1e3 * found['seconds']:.1f}", *ratios, own, above]


def other_rules() -> str:
    found, names = read(), [type(rule).__name__ for rule in OTHERS]
    rows = [["denoiser", "", "batch", *(f"`{name}`" for name in names)]]
    for row in ROWS:
        if row.kind == "other rules":
            ratios = found[row.title]["ratios"] if row.title in found else {}
            start = beginning(row, found)
            rows.append([start[0], "eager", start[2], *(said(ratios[n]) if ratios else "open" for n in names)])
    return table(rows)


def beginning(row: Row, found: dict) -> list[str]:
    where = found[row.title]["device"] if row.title in found else row.device.upper()
    return [f"{row.model}, {where}", row.kind, str(row.batch)]


def said(ratio: list[float]) -> str:
    median, low, high = ratio
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


TABLES = {"cost": cost, "cost of other rules": other_rules}


def filled(text: str) -> str:
    """The document with every table between its two comments made anew."""
    return put(text, **{name: make() for name, make in TABLES.items()})


if __name__ == "__main__":
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
