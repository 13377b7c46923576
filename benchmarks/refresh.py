"""Everything that follows from the base's weights, made anew: make refresh, or python -m benchmarks.refresh [--from N]

To be run when models/emoji has changed. Each step is a command that can be given alone and goes on where it was
stopped; all of them take some three hours of two cores. Rules and presets are chosen by people: look at
docs/guidance.md afterwards, and at every picture.
"""

import shutil
import subprocess
import sys
import time
from typing import Annotated

import tyro

from benchmarks.optimizers.contestants import VARIANTS
from pipelines.adapters import fingerprint
from training.config import HOUSE, Customization
from training.model import open_base
from training.run import runs_folder

SAMPLE = "samples/project.toml"
QUALITY = "benchmarks.optimizers.quality"
CLOSE = ["GradNormLoRP", "OwLore", "OwLore, uniform", "LoRA, rank 8", "LoRA, bytes of OwLore"]
CLOSE += ["LoRA, rank 4", "GradNormLoRP, shorter side", "OwLore, columns", "OwLore, columns, uniform"]
FEW = ["AdamW", "AdamW with compander", "PLP, AdamW", "PLP, AdamW with compander"]
PAGES = ("project", "train", "play", "library")
STEPS = [
    ["training", "customize", SAMPLE],
    *(["benchmarks.screenshot", page, *dark] for page in PAGES for dark in ([], ["--dark"])),
    ["benchmarks.base.measure"],
    ["benchmarks.base.tables"],
    ["benchmarks.guidance.sweep"],
    ["benchmarks.guidance.proof"],
    ["benchmarks.guidance.report"],
    ["benchmarks.sampling.cost"],
    ["benchmarks.sampling.tables"],
    ["benchmarks.sampling.momentum"],
    [QUALITY],
    [QUALITY, "--seeds", "4", "--only", *CLOSE],
    [QUALITY, "--seeds", "1", "--only", *VARIANTS],
    [QUALITY, "--pictures", "3", "--only", *FEW],
    [QUALITY, "--steps", "240", "--only", "GradNormLoRP", "OwLore", "LoRA, rank 8", "LoRA, bytes of OwLore"],
    ["benchmarks.optimizers.report"],
    ["benchmarks.customization.trial", "sample"],
]


def main(first: Annotated[int, tyro.conf.arg(name="from")] = 1) -> None:
    """Make anew what follows from the base's weights.

    Args:
        first: number of the step to begin with, from 1 on.
    """
    base = Customization.load(HOUSE / SAMPLE).base
    run = runs_folder() / f"neon-koala-{fingerprint(open_base(base).unet)[:12]}"
    for number, step in list(enumerate(STEPS, 1))[first - 1 :]:
        if step[0] == "training":
            step = [*step, "--run", str(run)]
        command = f"python -m {' '.join(step)}"
        print(f"{number}/{len(STEPS)}  {command}", flush=True)
        began = time.monotonic()
        if subprocess.run([sys.executable, "-m", *step], cwd=HOUSE, check=False).returncode:
            sys.exit(f"Step {number} failed: {command}\nMend it, then go on with --from {number}")
        if step[0] == "training":
            shutil.copy(run / "samples/sheet.png", HOUSE / "docs/pictures/demo.png")
        print(f"{number}/{len(STEPS)}  done in {(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
