"""What a style costs and gives alone: python -m benchmarks.pairs.probe STYLE KIND [key=value ...]

A style is learned from five pictures of contents that the base knows, and drawn on these ("seen") and on five other
contents that it knows ("new"), each from four seeds. The error is the mean difference from the true pictures, in grey
levels of 255; where a judge knows the style, also the shares of pictures whose content and style it tells.
Keys of learning: base, rank, layers (a name or a pattern), lr, steps, batch, low and high (of the noise schedule),
mirror, shift (pixels by which each picture is moved to eight sides as well), turn (by quarters), bare (how often a
picture is learned under the style's words alone), word (the placeholder), seed. Keys of drawing: upto (the share of
the schedule up to which what was learned acts, 1 the noisiest), scale and rule of guidance, draws (sampling steps).
What was learned is kept, so that other keys of drawing cost no learning.
Adds a line to results/probe.jsonl.
"""

import hashlib
import json
import re
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from benchmarks.common.drawing import HOUSE, both_judges, tensor
from benchmarks.common.environment import environment
from benchmarks.pairs.learners import learning, only_below
from pipelines import APG, CFG
from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import checkpoint, sheet
from training.base import data
from training.base.computed import COMPUTED, HELD_OUT
from training.base.judge import accuracy
from training.concepts import EncodedConcept, prepare
from training.draws import choose, keyed, stratified_timesteps
from training.loop import learning_rate_factor
from training.model import denoising_loss, open_base, timestep_count
from training.pictures import Picture
from training.run import runs_folder
from training.sampling import guided_pipeline

HERE = Path(__file__).parent
SEEN = ("airplane", "bus", "cat face", "envelope", "ghost")
NEW = ("bear", "red apple", "star", "house", "fish")
INSTEAD = {"streamline": {"envelope": "pizza", "star": "bell", "house": "bomb", "fish": "frog"}}  # of what it lacks
CLASS = {"pixel art": "fluent flat", "neon": "blueprint", "streamline": "monotone"}
SEEDS = 4  # a content
DEFAULTS = {
    "base": str(HOUSE / "models/emoji"),
    "rank": 32,
    "layers": "all",
    "lr": 1e-3,
    "steps": 200,
    "batch": 8,
    "low": 0.0,
    "high": 1.0,
    "seed": 0,
    "mirror": True,
    "shift": 0,
    "turn": False,
    "bare": 0.0,
    "word": "zwx",
}
DRAWING = {"upto": 1.0, "scale": 3.0, "rule": "preset", "draws": 15}
RULES = {"preset": None, "cfg": CFG(), "apg": APG()}


def pictures_of(style: str) -> tuple[data.Pictures, str]:
    """All pictures with the style, and the word of a known style that it is near to.

    Raises:
        UserError: nobody knows the style, or it has no picture of one of the ten contents.
    """
    if style not in CLASS and style not in COMPUTED:
        raise UserError(f"{style!r} is no style to probe", f"Name one of {', '.join([*CLASS, *HELD_OUT])}")
    shown, near = (data.load(), CLASS[style]) if style in CLASS else (data.load("computed"), COMPUTED[style][0])
    missing = [content for part in contents(style).values() for content in part if (content, style) not in shown.where]
    if missing:
        raise UserError(f"{style} has no picture of {', '.join(missing)}", "Probe another style")
    return shown, near


def contents(style: str) -> dict[str, list[str]]:
    """Which -> five contents."""
    instead = INSTEAD.get(style, {})
    return {
        which: [instead.get(content, content) for content in part] for which, part in (("seen", SEEN), ("new", NEW))
    }


def main(style: str, kind: str, *changes: str) -> None:
    torch.set_num_threads(1)
    settings = DEFAULTS | DRAWING
    for change in changes:
        key, _, value = change.partition("=")
        settings[key] = type(settings[key])(value) if not isinstance(settings[key], bool) else value == "True"
    shown, near = pictures_of(style)
    words = f"{settings['word']} {near} style".strip()
    caption = f"{{}}, {words}"
    began = time.monotonic()
    pipe = guided_pipeline(open_base(settings["base"]), "emoji")
    pipe.unet.to(memory_format=torch.channels_last)
    found = []
    for content in contents(style)["seen"]:
        for image in varied(shown.image((content, style)), settings):
            found.append(Picture(Path(content), image, caption.format(content)))
    if settings["bare"]:
        found += [replace(picture, caption=words) for picture in found]
    concept = prepare(pipe, found, runs_folder().parent / "probe-cache")
    with (
        learning(pipe.unet, kind, settings["rank"], settings["layers"])
        if kind != "none"
        else nullcontext([]) as learned
    ):
        identity = json.dumps([style, kind, {key: settings[key] for key in DEFAULTS}])
        kept = runs_folder().parent / f"probe/{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
        if kept.exists():
            tensors, losses = load_file(kept), [0.0]
            for i, parameter in enumerate(learned):
                parameter.data.copy_(tensors[str(i)])
        else:
            losses = learn(pipe, concept, learned, settings) if learned else [0.0]
            checkpoint.write_tensors(kept, {str(i): parameter for i, parameter in enumerate(learned)})
        taken = time.monotonic() - began
        with only_below(pipe.unet, settings["upto"]):
            drawn = draw(pipe, style, caption, settings)
    row = {"style": style, "kind": kind, "changes": changes, "model": fingerprint(pipe.unet)[:12]}
    row |= {
        "learned": sum(p.numel() for p in learned),
        "seconds": round(taken),
        "loss": round(float(np.mean(losses[-20:])), 4),
    }
    row |= score(drawn, shown, style)
    (HERE / "results").mkdir(exist_ok=True)
    with open(HERE / "results/probe.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(environment() | row) + "\n")
    name = re.sub(r"[^\w=.-]+", "_", "-".join([style, kind, *changes]))[:200]
    look(drawn, shown, style, runs_folder().parent / f"probe/{name}.png")
    print(json.dumps(row), flush=True)


def varied(image: Image.Image, settings: dict) -> list[Image.Image]:
    """A picture, mirrored, and each of them moved: its edges are drawn out to what was outside."""
    sides = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] if settings["mirror"] else [image]
    if settings["turn"]:
        sides = [side.rotate(angle) for side in sides for angle in (0, 90, 180, 270)]
    by = settings["shift"]
    if not by:
        return sides
    padded = [np.pad(np.asarray(side), ((by, by), (by, by), (0, 0)), mode="edge") for side in sides]
    places = [(top, left) for top in (by, 0, 2 * by) for left in (by, 0, 2 * by)]
    size = image.width
    return [Image.fromarray(one[top : top + size, left : left + size]) for top, left in places for one in padded]


def learn(
    pipe: DiffusionPipeline, concept: EncodedConcept, learned: list[torch.nn.Parameter], settings: dict
) -> list[float]:
    """The product's loss, by AdamW, on all pictures in turn."""
    optimizer = torch.optim.AdamW(learned, lr=settings["lr"], betas=(0.9, 0.99), weight_decay=0.0)
    count, losses = settings["batch"], []
    for step in range(settings["steps"]):
        generator = keyed(settings["seed"], "style", "style", step)
        own = len(concept) // 2 if settings["bare"] else len(concept)
        index = choose(settings["seed"], "style", "style", step, count, own)
        if settings["bare"]:
            index = index + own * (torch.rand(count, generator=generator) < settings["bare"])
        noise = torch.randn((count, *concept.latents.shape[1:]), generator=generator)
        stretch = settings["low"], settings["high"]
        timesteps = stratified_timesteps(count, timestep_count(pipe), generator, stretch)
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"] * learning_rate_factor(step, settings["steps"])
        loss = denoising_loss(pipe, *concept[index], noise, timesteps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def draw(pipe: DiffusionPipeline, style: str, caption: str, settings: dict) -> dict[str, torch.Tensor]:
    """Which contents -> uint8 (5 * SEEDS, 64, 64, 3), each content's seeds beside each other."""
    found = {}
    for which, part in contents(style).items():
        prompts = [caption.format(content) for content in part for _ in range(SEEDS)]
        seeds, rule = tuple(range(len(prompts))), RULES[settings["rule"]]
        images = sheet.draw(pipe, prompts, seeds, data.SIZE, settings["scale"], settings["draws"], rule)
        found[which] = tensor(images)
    return found


def score(drawn: dict[str, torch.Tensor], shown: data.Pictures, style: str) -> dict:
    judges, rows = both_judges(), {}
    for which, part in contents(style).items():
        pairs = [(content, style) for content in part for _ in range(SEEDS)]
        true = torch.stack([shown.pixels[shown.where[pair]] for pair in pairs])
        row = {"error": round((drawn[which].float() - true.float()).abs().mean().item(), 2)}
        for name, judge in judges.items():
            said = judge.says(drawn[which], judge.config["styles"], judge.config["contents"])
            told = accuracy(said, pairs)
            row[name] = [
                round(told["content"], 2),
                round(told["style"], 2) if style in judge.config["styles"] else None,
            ]
        rows[which] = row
    return rows


def look(drawn: dict[str, torch.Tensor], shown: data.Pictures, style: str, path: Path) -> None:
    rows = {}
    for which, part in contents(style).items():
        rows[f"true {which}"] = [shown.image((content, style)) for content in part for _ in (0, 1)]
        rows[which] = [Image.fromarray(drawn[which][SEEDS * i + j].numpy()) for i in range(5) for j in (0, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(sheet.compose(rows, path.stem, cell=100), path)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        raise SystemExit(str(error)) from None
