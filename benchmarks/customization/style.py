"""How well a style half alone learns: python -m benchmarks.customization.style NAME [key=value ...]

Trains the style of samples/project.toml without its content, with some keys changed, and adds a line to
results/style.jsonl: the base's own loss on the pictures it was trained on and on four of the same style that it was
not, each at 32 fixed noises. data/runs/style/NAME.png shows known contents in the style.
"""

import json
import shutil
import sys
import time

from benchmarks.customization.trial import HERE, PICTURES, STYLE, changed, true_loss
from benchmarks.environment import environment
from training import customize, sheet
from training.run import runs_folder
from training.sampling import open_run

TRAINED = ("airplane", "bus", "cat-face", "envelope", "ghost")
UNSEEN = ("guitar", "koala", "pineapple", "umbrella")
SHOWN = ("airplane", "envelope", "fox", "house", "star", "red apple", "glasses", "skull", "pig face", "bear")


def main(name: str, *changes: str) -> None:
    config = changed(list(changes))
    config.content, config.others.count, config.samples.every = None, 0, 0
    folder = runs_folder() / "style" / name
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    run = customize(config, folder)
    row = {"name": name, "changes": changes, "seconds": round(time.monotonic() - began)}
    pipe, config = open_run(run.folder)
    words = f"{config.style.placeholder} {config.style.class_word}".strip()
    for key, contents in (("trained", TRAINED), ("unseen", UNSEEN)):
        losses = [
            true_loss(pipe, PICTURES / f"{content},{STYLE}.png", f"{content.replace('-', ' ')}, {words} style", 32)
            for content in contents
        ]
        row[key] = round(sum(losses) / len(losses), 4)
    with open(HERE / "results" / "style.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(environment() | row) + "\n")
    prompts = [f"{content}, {words} style" for content in SHOWN]
    settings = config.samples
    scale, steps = settings.guidance_scale, settings.inference_steps
    pictures = sheet.draw(pipe, prompts, tuple(range(len(prompts))), config.resolution, scale, steps)
    sheet.save(sheet.compose({name: pictures}, cell=96), folder.with_suffix(".png"))
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
