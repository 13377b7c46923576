"""Which eta, threshold and momentum suit the embedded base: python -m benchmarks.guidance.sweep

Four contents in five styles, equal noises, under plain guidance and under APG over a grid, at guidance scales 3 and 8.
Saturation and clipped share stand beside those of real pictures in the same five styles (of four other contents, so the
comparison is of averages), and beside the model's own without guidance. Writes results/sweep.json and docs/pictures/
sweep.png, whose rows are the real pictures, no guidance, plain guidance at both scales, and at scale 8 the grid.
"""

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path

import tyro
from diffusers import DPMSolverMultistepScheduler

from benchmarks.common.drawing import looks
from benchmarks.common.environment import environment
from benchmarks.common.pictures import reference_pictures
from pipelines import APG, CFG, APGStableDiffusionPipeline, GuidanceRule
from training.pictures import open_picture
from training.sheet import compose, draw, save

HERE = Path(__file__).parent
CONTENTS = ("fox", "house", "bus", "red apple")
STYLES = ("noto", "twemoji", "fluent 3d", "fluent flat", "emojione")
PROMPTS = [f"{content}, {style} style" for content, style in product(CONTENTS, STYLES)]
SCALES = (3.0, 8.0)
GRID = {"eta": (0.0, 0.3, 0.6), "norm_threshold": (0.06, 0.12, 0.24, None), "momentum": (0.0, -0.25, -0.5)}


def settings() -> list[tuple[float, GuidanceRule]]:
    """What is compared: guidance scale and rule."""
    rules = [APG(**dict(zip(GRID, values, strict=True))) for values in product(*GRID.values())]
    return [(1.0, CFG()), *product(SCALES, [CFG(), *rules])]


def main(steps: int = 15) -> None:
    """Sweep the grid.

    Args:
        steps: of DPM++ 2M.
    """
    pipe = APGStableDiffusionPipeline.from_pretrained("models/emoji")
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    known = [style.replace(" ", "-") for style in STYLES]
    real = [open_picture(file) for (_, style), file in reference_pictures().items() if style in known]
    rows, shown = [{"rule": "real pictures", **looks(real)}], {"real": real}
    for w, rule in settings():
        pictures = draw(pipe, PROMPTS, tuple(range(len(PROMPTS))), 64, w, steps, rule)
        rows.append({"rule": type(rule).__name__, "guidance_scale": w, **asdict(rule), **looks(pictures)})
        print(json.dumps(rows[-1]), flush=True)
        if isinstance(rule, CFG):
            shown[f"CFG {w:g}"] = pictures
        elif w == max(SCALES):
            limit = "none" if rule.norm_threshold is None else f"{rule.norm_threshold:g}"
            shown[f"eta {rule.eta:g}\nlimit {limit}\nmom. {rule.momentum:g}"] = pictures
    (HERE / "results").mkdir(exist_ok=True)
    result = environment() | {"prompts": len(PROMPTS), "steps": steps, "scheduler": "DPM++ 2M", "rows": rows}
    (HERE / "results" / "sweep.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    cell = compose(
        {label: pictures[::4] for label, pictures in shown.items()}, "Guidance scale 8 where not said", cell=72
    )
    save(cell, HERE.parents[1] / "docs" / "pictures" / "sweep.png")


if __name__ == "__main__":
    tyro.cli(main)
