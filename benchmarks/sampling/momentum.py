"""Samplers of two evaluations a step, and where APG's momentum advances: python -m benchmarks.sampling.momentum

The product moves a rule's running direction on once a step. Here it is held against moving it on at every evaluation,
with Heun and KDPM2 on the embedded base: equal prompts of trained pairs, equal noises. Scores are the judge's
(shares of pictures whose content and style it recognises; distance to the real pictures of the same pairs) and the
looks that too much guidance changes. Writes results/momentum.json and docs/pictures/momentum.png.
"""

import json
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import HeunDiscreteScheduler, KDPM2DiscreteScheduler
from PIL import Image
from torch import Tensor

from benchmarks.common.distances import kernel_distance, kernel_interval
from benchmarks.common.drawing import CAPTION, looks, prompts, rounded, tensor
from benchmarks.common.environment import environment
from pipelines import APG, CFG, APGStableDiffusionPipeline
from pipelines.guidance import GuidanceState
from training import checkpoint, sheet
from training.base import data
from training.base.data import SPLIT
from training.base.judge import Judge, accuracy
from training.config import HOUSE

RESULT = Path(__file__).parent / "results/momentum.json"
SAMPLERS = {"Heun": HeunDiscreteScheduler, "KDPM2": KDPM2DiscreteScheduler}
# From pure noise, sigma 20 000, Heun's second evaluation upsets the first: with CFG too it then draws no thing at all.
SPACING = {"timestep_spacing": "leading", "use_karras_sigmas": True}
SCALES = (4.0, 8.0)
BATCH = 16
SHOWN = 12


class EachEvaluation(APG):
    """The running direction moves on at the second evaluation of a step, too."""

    def direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        state.running_direction = getattr(state, "latest", None)
        direction = super().direction(conditional, unconditional, state)
        state.latest = state.running_direction
        return direction


RULES = {
    "CFG": CFG(),
    "APG, each evaluation": EachEvaluation.preset("emoji"),
    "APG, each step": APG.preset("emoji"),
}


def main(count: int = 48, steps: int = 8) -> None:
    """Draw and score.

    Args:
        count: pictures of each setting.
        steps: of the sampler, each but the last of two evaluations.
    """
    torch.set_num_threads(1)
    pictures = data.load()
    pairs = prompts(pictures, 2 * count)[0][:count]
    judge, real = Judge.load(HOUSE / "models/judge"), pictures.take(pairs).pixels
    features = judge.features(real).numpy()
    pipe = APGStableDiffusionPipeline.from_pretrained(HOUSE / "models/emoji")
    pipe.set_progress_bar_config(disable=True)
    base = pipe.scheduler.config

    def scores(pixels: Tensor) -> dict:
        own = judge.features(pixels).numpy()
        return {
            "accuracy": accuracy(judge.says(pixels, SPLIT["styles"], SPLIT["contents"]), pairs),
            "distance": kernel_distance(features, own),
            "distance, 95 %": kernel_interval(features, own),
            **looks([Image.fromarray(x.numpy()) for x in pixels]),
        }

    rows = {
        "real pictures": {"accuracy": scores(real)["accuracy"], **looks([Image.fromarray(x.numpy()) for x in real])}
    }
    sheets = []
    for name, scheduler in SAMPLERS.items():
        pipe.scheduler = scheduler.from_config(base, **SPACING)
        for w in SCALES:
            drawn = {}
            for label, rule in RULES.items():
                images = []
                for first in range(0, count, BATCH):
                    some = range(first, min(first + BATCH, count))
                    texts = [CAPTION.format(*pairs[i]) for i in some]
                    images += sheet.draw(pipe, texts, tuple(some), data.SIZE, w, steps, rule)
                drawn[label] = images
                rows[f"{name}, w {w:g}, {label}"] = row = scores(tensor(images))
                print(name, w, label, json.dumps(rounded(row)), flush=True)
            one, other = (np.stack([np.asarray(i, float) for i in drawn[label]]) for label in list(RULES)[1:])
            rows[f"{name}, w {w:g}, {label}"]["pixels from each evaluation"] = float(
                np.sqrt(((one - other) ** 2).mean())
            )
            shown = {label.replace(", each ", "\n"): images[:SHOWN] for label, images in drawn.items()}
            sheets.append(sheet.compose(shown, f"{name}, guidance scale {w:g}", cell=72))
    result = environment() | {"pictures": count, "steps": steps, "seeds": f"0 to {count - 1}", "rows": rows}
    checkpoint.write_bytes(RESULT, (json.dumps(rounded(result), indent=1) + "\n").encode())
    sheet.save(sheet.stack(sheets), HOUSE / "docs/pictures/momentum.png")


if __name__ == "__main__":
    tyro.cli(main)
