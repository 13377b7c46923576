"""Tables, plot and summary of what was measured: python -m benchmarks.optimizers.report

Reads results/state.json, quality.jsonl, speed.json and peak.json; writes results/summary.json, the tables of
docs/optimizers.md and docs/pictures/optimizers*.png. A ratio of what has not been measured is null in the summary.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.ticker import StrMethodFormatter
from PIL import Image

from benchmarks.common.document import put, table
from benchmarks.common.plot import curves, new_figure, picture
from benchmarks.optimizers import peak, state
from benchmarks.optimizers.contestants import CONTESTANTS, VARIANTS
from benchmarks.optimizers.quality import LENGTHS, LOOK
from training.config import HOUSE

HERE = Path(__file__).parent / "results"
SUMMARY = HERE / "summary.json"
DOC, PICTURES = HOUSE / "docs/optimizers.md", HOUSE / "docs/pictures"
CURVED = ("AdamW", "GradNormLoRP", "OwLore", "LoRA, rank 8", "LoRA, bytes of OwLore")
LONGER = 240  # steps of the runs that show what comes after
FEW = 3  # pictures that the compander is judged with
OURS = "GradNormLoRP"


def quality(pictures: int, steps: int, among: dict = CONTESTANTS) -> dict[str, dict]:
    """Contestant -> its seeds' held-out losses after so many steps at the chosen rate, and its other figures."""
    lines = [json.loads(line) for line in (HERE / "quality.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["model"] == lines[-1]["model"]]  # of the base that was measured last
    found: dict[str, dict] = {}
    for name in among:
        runs = [x for x in lines if x["name"] == name and x["steps"] == steps and x["pictures"] == pictures]
        if runs:
            best = min((x for x in runs if x["seed"] == 0), key=lambda x: x["held_out"])
            runs = [x for x in runs if x["lr"] == best["lr"]]  # the others were tried and not gone on with
            losses = [x["held_out"] for x in sorted(runs, key=lambda x: x["seed"])]
            found[name] = runs[0] | {
                "losses": losses,
                "mean": float(np.mean(losses)),
                "half": float(np.ptp(losses)) / 2,
                "curve": np.mean([x["curve"] for x in runs], axis=0).tolist(),
            }
    return found


def better(pictures: int, among: dict = CONTESTANTS) -> dict[str, dict]:
    """Contestant -> `quality` after the number of steps that suits it better; both are under "after"."""
    after = {steps: quality(pictures, steps, among) for steps in LENGTHS}
    found = {}
    for name in among:
        rows = {steps: rows[name] for steps, rows in after.items() if name in rows}
        if rows:
            most = max(row["state"] for row in rows.values())
            found[name] = min(rows.values(), key=lambda row: row["mean"]) | {"after": rows, "state": most}
    return found


def ratio(rows: dict[str, dict], one: str, other: str) -> float | None:
    """Of mean held-out losses over the seeds that both have."""
    if one not in rows or other not in rows:
        return None
    pairs = list(zip(rows[one]["losses"], rows[other]["losses"], strict=False))
    return round(float(np.mean([a for a, _ in pairs]) / np.mean([b for _, b in pairs])), 4)


def summary() -> dict:
    rows, few = better(5), better(FEW)
    sizes, speed = _read("state.json")["SDXL"], _read("speed.json")["rows"]
    eight = "GradNormLoRP, 8-bit"
    below = "linear layers of the transformer blocks"
    return {
        "state_saving_vs_bf16_adam_sdxl": sizes[below]["below_bf16_adamw"]["GradNormLoRP, 8-bit, rank 128"],
        "gradnorm_lorp_loss_ratio_adamw": ratio(rows, OURS, "AdamW"),
        "gradnorm_lorp_loss_ratio_galore": ratio(
            rows, f"linear layers: {OURS}", "linear layers: GaLore (galore-torch)"
        ),
        "gradnorm_lorp_loss_ratio_lora8": ratio(rows, OURS, "LoRA, rank 8"),
        "owlore_loss_ratio_uniform": ratio(rows, "OwLore", "OwLore, uniform"),
        "owlore_loss_ratio_lora_equal_bytes": ratio(rows, "OwLore", "LoRA, bytes of OwLore"),
        "compander_heldout_ratio": ratio(few, "AdamW with compander", "AdamW"),
        "compander_heldout_ratio_plp": ratio(few, "PLP, AdamW with compander", "PLP, AdamW"),
        "step_time_ratio_galore": speed[eight]["mean_over_galore"],
        "step_time_ratio_adam8bit": speed[eight]["median_over_adamw_8bit"],
        "p99_over_p50": speed[eight]["p99_over_median"],
        "sdxl_fullweight_peak_gb": _read("peak.json")["sdxl_fullweight_peak_gb"],
    }


def quality_table(rows: dict[str, dict], adamw: float) -> str:
    head = ["learns", "optimizer", "rate", "state, MB", "seeds"]
    lines = [head + [f"after {steps} steps" for steps in LENGTHS] + ["the better, of AdamW's"]]
    for name, row in rows.items():
        who = {"full": "weights", "lora": "LoRA", "plp": "half of a PLP"}[(CONTESTANTS | VARIANTS)[name].learns]
        cells = [who, name, f"{row['lr']:g}", f"{row['state'] / 1e6:.1f}", f"{len(row['losses'])}"]
        lines.append(cells + [_loss(row["after"].get(steps)) for steps in LENGTHS] + [f"{row['mean'] / adamw:.3f}"])
    return table(lines)


def _loss(row: dict | None) -> str:
    """Mean and half range."""
    if row is None:
        return ""
    return f"{row['mean']:.3f}" + (f" ± {row['half']:.3f}" if len(row["losses"]) > 1 else "")


def few_table(rows: dict[str, dict], what: str) -> str:
    lines = [[what, *(f"after {steps} steps" for steps in LENGTHS)]]
    return table(lines + [[name, *(_loss(row["after"].get(steps)) for steps in LENGTHS)] for name, row in rows.items()])


def longer_table() -> str:
    after = {steps: quality(5, steps) for steps in (*LENGTHS, LONGER)}
    lines = [["learns from 5 pictures", *(f"after {steps} steps" for steps in after)]]
    return table(lines + [[name, *(_loss(rows.get(name)) for rows in after.values())] for name in after[LONGER]])


def speed_table(rows: dict[str, dict]) -> str:
    lines = ["| optimizer | median, ms | mean, ms | p99 / median | mean of galore-torch's |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {1e3 * row['median']:.1f} | {1e3 * row['mean']:.1f} | {row['p99_over_median']:.2f} "
            f"| {row['mean_over_galore']:.2f} |"
        )
    return "\n".join(lines)


def ways(rows: dict[str, dict]) -> Image.Image:
    """Held-out loss on the way, a mean over the seeds."""
    chosen = {f"{name}, {rows[name]['lr']:g}": rows[name] for name in CURVED if name in rows}
    way = {
        name: [(LOOK * (k + 1), loss) for k, loss in enumerate(row["curve"])]
        for name, row in chosen.items()
        if row["curve"]
    }
    return curves(way, "Held-out loss on the way", "steps", logarithmic=False)


def plot(rows: dict[str, dict]) -> Image.Image:
    """Held-out loss against bytes of state, on a logarithmic axis; a line spans the seeds."""
    figure, axes = new_figure((9, 5.6))
    colours = {"full": "#1f5fa8", "lora": "#c0562b", "plp": "#3b8a4a"}
    for name, row in rows.items():
        colour, megabytes = colours[CONTESTANTS[name].learns], max(row["state"], 1) / 1e6
        axes.plot([megabytes] * len(row["losses"]), row["losses"], color=colour)
        axes.plot(megabytes, row["mean"], "o", color=colour)
        axes.annotate(name, (megabytes, row["mean"]), (8, -4), textcoords="offset points", color=colour, fontsize=8)
    axes.set(xscale="log", ylabel="held-out loss")
    axes.set_xlabel("MB of the optimizer's state; blue: weights, orange: LoRA, green: half of a PLP")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.margins(x=0.15)
    return picture(figure)


def _read(name: str) -> dict:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def filled(text: str) -> str:
    """The document with its tables made anew from the results."""
    rows, peaks = better(5), _read("peak.json")
    adamw = rows["AdamW"]["mean"]
    return put(
        text,
        quality=quality_table(rows, adamw),
        variants=quality_table(better(5, VARIANTS), adamw),
        longer=longer_table(),
        few=few_table(better(FEW), f"learns from {FEW} pictures"),
        speed=speed_table(_read("speed.json")["rows"]),
        state=state.table(_read("state.json")),
        peak=peak.table(peaks),
        presets=peak.preset_table(peaks),
        checks=peak.check_table(peaks),
    )


def main() -> None:
    SUMMARY.write_text(json.dumps(summary(), indent=1) + "\n")
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
    plot(better(5)).save(PICTURES / "optimizers.png", optimize=True)
    ways(quality(5, LENGTHS[-1])).save(PICTURES / "optimizers-on-the-way.png", optimize=True)
    print(SUMMARY.read_text())


if __name__ == "__main__":
    main()
