"""Tables, curves, sheet and summary of the proof of guidance: python -m benchmarks.guidance.report

Reads results/proof.json and benchmarks/sampling/results/cost.json; writes results/summary.json, the tables of
docs/guidance.md, and docs/pictures/guidance-*.png.
"""

import json
from collections.abc import Callable

from PIL import Image
from safetensors.torch import load_file

from benchmarks.common.document import put, table
from benchmarks.common.plot import curves
from benchmarks.guidance.proof import RESULT, STEPS, place_of
from training import sheet
from training.base.npm import base_folder
from training.config import HOUSE

DOC, PICTURES = HOUSE / "docs/guidance.md", HOUSE / "docs/pictures"
SUMMARY, COST = RESULT.with_name("summary.json"), HOUSE / "benchmarks/sampling/results/cost.json"
HIGH = (7.0, 10.0, 15.0)
INTERVAL, TIMED = "APG, a quarter", "emoji, eager, batch 4, cpu"
SHOWN = ("CFG", "CFG, rescale 0.7", "APG", "CFG-Zero*, no zero steps", "TCFG", "FDG", "APG, middle half", INTERVAL)
PARTS = ("APG", "APG, no limit", "APG, no projection", "APG, eta 0.5", "APG, no momentum", "CFG")
SPACES = ("APG", "diffusers' APG, our settings", "diffusers' APG, its defaults", "CFG")
JUDGE, SECOND = "judge", "judge-2"


def points(found: dict, rule: str) -> list[dict]:
    """A rule's points in the order of their scales, without guidance first, where all rules are one."""
    chosen = [p for p in found["points"] if p["steps"] == STEPS and (p["rule"] == rule or p["w"] == 1)]
    return sorted(chosen, key=lambda p: p["w"])


def mean(found: dict, rule: str, key: str, judge: str = JUDGE) -> float:
    high = [p[judge][key] for p in points(found, rule) if p["w"] in HIGH]
    return sum(high) / len(high)


def best(found: dict, rule: str, judge: str = JUDGE) -> dict:
    return min((p for p in points(found, rule) if p["w"] > 1), key=lambda p: p[judge]["fd_32"])


def saturation_error(found: dict, rule: str) -> float:
    """The largest departure from the real pictures' saturation at the high scales, as a share of it."""
    real = found["real"]["saturation"]
    return max(abs(p["looks"]["saturation"] - real) / real for p in points(found, rule) if p["w"] in HIGH)


def summary(found: dict) -> dict:
    result = {}
    for judge, ending in ((JUDGE, ""), (SECOND, "_second_judge")):
        one, other = best(found, "APG", judge), best(found, "CFG", judge)
        result |= {
            f"fd_ratio_apg_cfg_high_w{ending}": mean(found, "APG", "fd_32", judge) / mean(found, "CFG", "fd_32", judge),
            f"fd_ratio_best_apg_best_cfg{ending}": one[judge]["fd_32"] / other[judge]["fd_32"],
            f"interval_fd_ratio{ending}": best(found, INTERVAL, judge)[judge]["fd_32"] / other[judge]["fd_32"],
        }
    result |= {f"saturation_error_{name.lower()}": saturation_error(found, name) for name in ("APG", "CFG")}
    times = json.loads(COST.read_text(encoding="utf-8"))[TIMED]["ratios"]
    result |= {"interval_time_ratio": times["APG, quarter"][0], "step_time_ratio_apg_cfg": times["APG"][0]}
    return {key: round(value, 4) for key, value in result.items()}


def quality(found: dict) -> str:
    """Every rule at its best scale, and over the high ones."""
    head = "rule|best w|kernel|95 %|fd_32|fd_32, judge-2|style|content|precision|recall|fd_32 at w 7 to 15|judge-2"
    rows = [head.split("|")]
    floor = found["autoencoder alone"]
    rows.append(["*autoencoder alone*", "", *cells(floor), "", ""])
    rows.append(["*no guidance*", "1", *cells(points(found, "CFG")[0]), "", ""])
    for rule in found["rules"]:
        point = best(found, rule)
        high = [f"{mean(found, rule, 'fd_32', judge):.2f}" for judge in (JUDGE, SECOND)]
        rows.append([rule, f"{point['w']:g}", *cells(point), *high])
    return table(rows)


def cells(point: dict) -> list[str]:
    one, two = point[JUDGE], point[SECOND]
    low, high = one["kernel, 95 %"]
    return [f"{one['kernel']:.3f}", f"{low:.3f} to {high:.3f}", f"{one['fd_32']:.2f}", f"{two['fd_32']:.2f}"] + [
        f"{one[key]:.2f}" for key in ("style", "content", "precision", "recall")
    ]


def colours(found: dict) -> str:
    real = found["real"]
    keys = ("saturation", "contrast", "clipped")
    rows = [["rule", *(f"{key} at w {w:g}" for key in keys for w in (4, 7, 15))]]
    rows.append(["*real pictures*", *(f"{real[key]:.3f}" for key in keys for _ in range(3))])
    for rule in found["rules"]:
        at = {p["w"]: p["looks"] for p in points(found, rule)}
        rows.append([rule, *(f"{at[w][key]:.3f}" for key in keys for w in (4.0, 7.0, 15.0))])
    return table(rows)


def plots(found: dict) -> dict[str, Image.Image]:
    def against_w(rules: tuple[str, ...], look: Callable[[dict], float]) -> dict[str, list]:
        return {rule: [(p["w"], look(p)) for p in points(found, rule)] for rule in rules}

    distance = lambda p: p[JUDGE]["fd_32"]  # noqa: E731
    parts = {
        "fd": curves(against_w(SHOWN, distance), "Frechet distance to the real pictures, fd_32", "guidance scale w"),
        "parts": curves(against_w(PARTS, distance), "APG without its parts: fd_32", "guidance scale w"),
        "spaces": curves(against_w(SPACES, distance), "APG in two spaces: fd_32", "guidance scale w"),
    }
    saturation = against_w(SHOWN, lambda p: p["looks"]["saturation"])
    real = found["real"]["saturation"]
    saturation["real pictures"] = [(1.0, real), (15.0, real)]
    parts["saturation"] = curves(saturation, "Saturation (HSV)", "guidance scale w", logarithmic=False)
    spent: dict[str, list] = {}
    for rule in sorted({p["rule"] for p in found["points"] if p["steps"] != STEPS}):
        chosen = [p for p in found["points"] if p["rule"] == rule and p["w"] > 1]
        least: dict[int, float] = {}
        for p in chosen:
            least[p["evaluations"]] = min(distance(p), least.get(p["evaluations"], 1e9))
        spent[rule] = sorted(least.items())
    parts["evaluations"] = curves(spent, "fd_32, each at its best scale", "network evaluations a picture")
    return parts


def sheets(found: dict) -> Image.Image:
    """Equal seeds: three pictures of each rule at a low and at the high scales."""
    folder = base_folder() / "guidance" / f"{found['model'][:12]}-{found['pictures']}"
    rows = {}
    for rule in ("CFG", "CFG, rescale 0.7", "APG", "diffusers' APG, its defaults", INTERVAL):
        place = folder / place_of(rule, STEPS)
        shown = []
        for w in (4, 7, 15):
            pixels = load_file(place / f"w{w}-0000.safetensors")["pixels"]
            shown += [Image.fromarray(pixels[i].numpy()) for i in (0, 3, 5, 8)]
        rows[rule.replace(", ", "\n").replace("' ", "'\n")] = shown
    return sheet.compose(rows, "Four prompts at guidance scale 4, at 7, at 15", cell=72)


TABLES = {"quality": quality, "colours": colours}


def filled(text: str, found: dict) -> str:
    return put(text, **{name: make(found) for name, make in TABLES.items()})


def main() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    SUMMARY.write_text(json.dumps(summary(found), indent=1) + "\n", encoding="utf-8")
    DOC.write_text(filled(DOC.read_text(encoding="utf-8"), found), encoding="utf-8")
    for name, picture in plots(found).items():
        sheet.save(picture, PICTURES / f"guidance-{name}.png")
    sheet.save(sheets(found), PICTURES / "guidance-sheet.png")
    print(SUMMARY.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
