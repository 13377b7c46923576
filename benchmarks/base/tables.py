"""The tables of docs/base-model.md, from the result files: python -m benchmarks.base.tables"""

import json
from pathlib import Path

from benchmarks.common.document import put, table

HERE = Path(__file__).parent / "results"
DOC = Path(__file__).parents[2] / "docs/base-model.md"
JUDGES = ("judge", "judge-2")
COLUMNS = [(pairs, which) for pairs in ("trained", "left out") for which in ("style", "content")]


def result(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def judges() -> str:
    found = result("judges")
    rows = [["real pictures", "judge", "judge-2"]]
    for label, *path in (
        ("style, as drawn", "real", "style"),
        ("content, as drawn", "real", "content"),
        ("style, moved and softened anew", "real, augmented", "style"),
        ("content, moved and softened anew", "real, augmented", "content"),
        ("style, not shown", "not shown", "style"),
        ("style, not shown, the base's contents", "not shown", "style_of_contents"),
        ("content, not shown", "not shown", "content"),
    ):
        told = [found[judge].get(path[0], {}).get(path[1]) for judge in JUDGES]
        rows.append([label, *("" if share is None else f"{share:.2f}" for share in told)])
    return table(rows)


def confusions() -> str:
    found = result("judges")
    rows = [["judge", "takes", "for", "of ten"]]
    for judge in JUDGES:
        for true, said, share in found[judge]["styles confused"][:5]:
            rows.append([judge, true, said, f"{10 * share:.1f}"])
    return table(rows)


def drawn() -> str:
    found = result("emoji")
    trained, left_out = found["prompts"]["trained"], found["prompts"]["left out"]
    seconds = found["seconds for 16 pictures"]
    return (
        f"{trained + left_out} prompts at each guidance scale w, {trained} of trained pairs and {left_out} of left-out "
        f"ones; {found['steps']} steps of DPM++ 2M, plain CFG, seeds {found['seeds']}.\n"
        f"Sixteen pictures took {seconds['w 1']:.1f} s unguided and {seconds['w 2']:.1f} s guided "
        f"({found['machine']}, beside other work)."
    )


def accuracies() -> str:
    """Shares of what the real pictures of the same pairs are given."""
    found = result("emoji")
    rows = [["w", "judge", "style, trained", "content, trained", "style, left out", "content, left out"]]
    for judge in JUDGES:
        for key, row in found[judge].items():
            if key.startswith("w "):
                rows.append([key[2:], judge, *cells(row["share of real"])])
    for judge in JUDGES:
        for name, own in (
            ("autoencoder alone", found[judge]["autoencoder alone"]["accuracy"]),
            ("real pictures", found[judge]["real"]),
        ):
            rows.append([f"{name}, accuracy itself", judge, *cells(own)])
    return table(rows)


def cells(shares: dict[str, dict[str, float]]) -> list[str]:
    return [f"{shares[pairs][which]:.2f}" for pairs, which in COLUMNS]


def before() -> str:
    """The weights that came with the project beside those that ship."""
    given, now = result("given-weights"), result("emoji")
    titles = [f"{which}, {pairs}: {side}" for pairs, which in COLUMNS for side in ("given", "now")]
    rows = [["w", "judge", *titles]]
    for judge in JUDGES:
        for key in (key for key in now[judge] if key.startswith("w ")):
            sides = [cells(found[judge][key]["share of real"]) for found in (given, now)]
            rows.append([key[2:], judge, *(cell for both in zip(*sides, strict=True) for cell in both)])
    return table(rows)


def styles() -> str:
    found = {judge: result("emoji")[judge]["w 3"]["trained, by style"] for judge in JUDGES}
    rows = [["style, w = 3", "its style, judge", "judge-2", "the content, judge", "judge-2"]]
    for style in found["judge"]:
        rows.append([style, *(f"{found[j][style][which]:.2f}" for which in ("style", "content") for j in JUDGES)])
    return table(rows)


def distances() -> str:
    found = result("emoji")
    rows = [["", "kernel, judge", "95 %", "fd_32, judge", "kernel, judge-2", "fd_32, judge-2"]]
    for key, row in found["judge"].items():
        if "distance" in row:
            one, two = row["distance"], found["judge-2"][key]["distance"]
            low, high = one["kernel, 95 %"]
            cells = [f"{one['kernel']:.3f}", f"{low:.3f} to {high:.3f}", f"{one['fd_32']:.2f}"]
            rows.append([key, *cells, f"{two['kernel']:.3f}", f"{two['fd_32']:.2f}"])
    return table(rows)


def autoencoder() -> str:
    found = result("emoji")["autoencoder, dB"]
    return table([["pictures", "dB"], *([name, f"{value:.1f}"] for name, value in found.items())])


TABLES = {f.__name__: f for f in (judges, confusions, drawn, accuracies, before, styles, distances, autoencoder)}


def filled(text: str) -> str:
    """The document with every table between its two comments made anew."""
    return put(text, **{name: make() for name, make in TABLES.items()})


if __name__ == "__main__":
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
