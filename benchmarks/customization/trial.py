"""One trial of break and make, scored: python -m benchmarks.customization.trial NAME [key=value ...]

Trains samples/project.toml with some keys changed (optimizer.lr=5e-3), then scores it and adds a line to
results/trials.jsonl. Both judges say of each picture which of the 93 contents and 14 styles that they know it has.
`truth` is the base's own loss on the one true picture of the content in the style, which no training saw, at 64 fixed
noises. (Lines without "model" are of an older score: the nearest of 38 real pictures in colours.)
"""

import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from benchmarks.common.changes import parsed
from benchmarks.common.drawing import both_judges, tensor
from benchmarks.common.environment import environment
from benchmarks.common.pictures import CONTENT, STYLE, reference_pictures
from training import Customization, customize, export, sheet
from training.base.judge import accuracy
from training.config import HOUSE
from training.draws import keyed, stratified_timesteps
from training.model import denoising_loss, encode_pictures, encode_prompts, timestep_count
from training.pictures import open_picture
from training.plan import SCALES
from training.run import runs_folder
from training.sampling import open_run

HERE = Path(__file__).parent
PROJECT = HOUSE / "samples/project.toml"
SEEDS = tuple(range(16))
NOISES = 64


def score(folder: Path) -> dict[str, dict]:
    """Row -> figures, for the base alone, content only, style only and both."""
    pipe, config = open_run(folder)
    judges = both_judges()
    prompt, settings = config.sample_prompt, config.samples
    rows = {}
    for row, (content, style) in SCALES.items():
        pipe.set_scales(content=content, style=style)
        drawn = sheet.draw(pipe, prompt, SEEDS, config.resolution, settings.guidance_scale, settings.inference_steps)
        pixels, loss = tensor(drawn), true_loss(pipe, reference_pictures()[CONTENT, STYLE], prompt, NOISES)
        rows[row] = {"truth": round(loss, 4)}
        for name, judge in judges.items():
            said = judge.says(pixels, judge.config["styles"], judge.config["contents"])
            rows[row][name] = accuracy(said, [(CONTENT, STYLE)] * len(drawn))
    return rows


@torch.no_grad()
def true_loss(pipe: DiffusionPipeline, picture: Path, prompt: str, noises: int) -> float:
    """The base's own loss on a picture under a prompt, a mean over so many fixed noises."""
    pixels = torch.from_numpy(np.array(open_picture(picture))).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = encode_pictures(pipe, pixels).expand(noises, -1, -1, -1)
    condition = encode_prompts(pipe, [prompt] * noises, pixels.shape[-1])
    noise = torch.randn(latents.shape, generator=keyed("noise of the score"))
    timesteps = stratified_timesteps(noises, timestep_count(pipe), keyed("timesteps of the score"))
    return denoising_loss(pipe, latents, condition, noise, timesteps).item()


def changed(changes: Iterable[str]) -> Customization:
    """The sample project with keys changed, each "table.key=value" with the value as in TOML."""
    config, tables = Customization.load(PROJECT).model_dump(by_alias=True), parsed(changes)
    if "name" in tables.get("optimizer", {}):
        config["optimizer"] = {}  # another's settings are its own
    for name, one in tables.items():
        config[name] = config[name] | one if isinstance(one, dict) else one
    return Customization(**config)


def main(name: str, *changes: str) -> None:
    folder = runs_folder() / "trials" / name
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    run = customize(changed(changes), folder)
    row = {"name": name, "changes": changes, "model": export.read(run.adapter)[1].base_hash[:12]}
    row |= {"seconds": round(time.monotonic() - began), "rows": score(run.folder)}
    losses: dict[str, list[float]] = {}
    for entry in run.read_metrics():
        losses.setdefault(entry["stage"], []).append(entry["loss"])
    row["losses"] = {stage: round(float(np.mean(found[-20:])), 4) for stage, found in losses.items()}
    results = HERE / "results" / "trials.jsonl"
    results.parent.mkdir(exist_ok=True)
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(environment() | row) + "\n")
    print(json.dumps(row, indent=1), run.sheet)


if __name__ == "__main__":
    main(*sys.argv[1:])
