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

import numpy as np
import tyro
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from benchmarks.environment import environment
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


def looks(pictures: list[Image.Image]) -> dict[str, float]:
    """What too much guidance changes first. Means over pictures.

    Returns:
        saturation: of HSV, (max - min) / max over the channels; clipped: share of channel values at either end of
        0..255, white grounds left out; contrast: standard deviation of the luminance (Rec. 601) within a picture.
    """
    pixels = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float64)
    high, low = pixels.max(-1), pixels.min(-1)
    drawn = low < 250  # not the white ground
    ends = ((pixels == 0) | (pixels == 255)).mean(-1)
    luminance = pixels / 255 @ np.array([0.299, 0.587, 0.114])
    figures = {
        "saturation": ((high - low) / np.maximum(high, 1))[drawn].mean(),
        "clipped": ends[drawn].mean(),
        "contrast": luminance.std((1, 2)).mean(),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def main(steps: int = 15) -> None:
    """Sweep the grid.

    Args:
        steps: of DPM++ 2M.
    """
    pipe = APGStableDiffusionPipeline.from_pretrained("models/emoji")
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    known = [style.replace(" ", "-") for style in STYLES]
    files = sorted(f for f in (HERE.parent / "pictures").glob("*.png") if f.stem.split(",")[1] in known)
    real = [open_picture(file) for file in files]
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
