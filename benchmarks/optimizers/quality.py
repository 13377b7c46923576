"""Held-out loss after learning a style: python -m benchmarks.optimizers.quality [--seeds 2] [--only NAME ...]

The style is neon: five pictures that samples/project.toml learns from, held out four others in the style, of contents
that the base does not know either. All contestants see the same pictures, noises and timesteps in the same order. Each
takes the best of three learning rates in a short run on seed 0, then learns with every seed as short and three times as
long: some need the longer run, others have overfitted by its end. Every run is one line of results/quality.jsonl; lines
that are there are not made again.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from benchmarks.common.environment import environment
from benchmarks.common.pictures import STYLE, reference_pictures
from benchmarks.optimizers.contestants import CONTESTANTS, RATES, VARIANTS, Contestant, attach, build, kept, sampler
from pipelines.adapters import fingerprint
from training.draws import choose, keyed, stratified_timesteps
from training.loop import learning_rate_factor
from training.model import denoising_loss, encode_pictures, encode_prompts, open_base, timestep_count
from training.pictures import open_picture

HERE = Path(__file__).parent
LINES, BASE = HERE / "results/quality.jsonl", HERE.parents[1] / "models/emoji"
LEARNED = ("airplane", "bus", "cat-face", "envelope", "ghost")
HELD_OUT = ("koala", "guitar", "pineapple", "umbrella")
CAPTION = "{}, zwx blueprint style"
EVERYONE = CONTESTANTS | VARIANTS
BATCH, NOISES = 4, 16
LENGTHS = (40, 120)  # steps of the runs that count
LOOK = 20  # steps between two looks at the held-out loss


def read(pipe: DiffusionPipeline, contents: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents and conditions of the style's pictures of some contents."""
    found = reference_pictures()
    pictures = [np.asarray(open_picture(found[name, STYLE]).convert("RGB")) for name in contents]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    prompts = [CAPTION.format(name.replace("-", " ")) for name in contents]
    return encode_pictures(pipe, pixels), encode_prompts(pipe, prompts, pixels.shape[-1])


@torch.no_grad()
def held_out_loss(pipe: DiffusionPipeline, latents: Tensor, conditions: dict[str, Tensor]) -> float:
    """Over fixed noises, each picture at the same timesteps, evenly spread."""
    n = len(latents)
    rows = torch.arange(n).repeat_interleave(NOISES)
    noise = torch.randn((n * NOISES, *latents.shape[1:]), generator=keyed("held out"))
    timesteps = ((torch.arange(NOISES) + 0.5) / NOISES * timestep_count(pipe)).long().repeat(n)
    return denoising_loss(pipe, latents[rows], {k: v[rows] for k, v in conditions.items()}, noise, timesteps).item()


def run(who: Contestant, lr: float, seed: int, steps: int, pictures: int) -> dict:
    """One training: losses, bytes of state at most, seconds of a step."""
    pipe = open_base(str(BASE), "fp32")
    latents, conditions = read(pipe, LEARNED[:pictures])
    held_out = read(pipe, HELD_OUT + LEARNED[pictures:])
    weights = attach(who, pipe, seed)
    before = held_out_loss(pipe, *held_out)
    optimizer = build(who, weights, lr)

    def loss_of(index: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return denoising_loss(pipe, latents[index], {k: v[index] for k, v in conditions.items()}, noise, timesteps)

    def calibrate() -> None:
        noise = torch.randn(latents.shape, generator=keyed(seed, "calibration"))
        loss_of(torch.arange(len(latents)), noise, torch.linspace(50, 950, len(latents)).long())

    blocks = sampler(who, pipe, optimizer, calibrate, seed) if who.sampling else None
    losses, paces, curve, most = [], [], [], 0
    for k in range(steps):
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = lr * learning_rate_factor(k, steps)
        if blocks:
            blocks.before_step(k)
        generator = keyed(seed, "step", k)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        timesteps = stratified_timesteps(BATCH, timestep_count(pipe), generator)
        optimizer.zero_grad()
        loss = loss_of(choose(seed, "style", "style", k, BATCH, len(latents)), noise, timesteps)
        loss.backward(inputs=[p for p in weights if p.requires_grad])
        optimizer.step()
        losses.append(loss.item())
        paces.append(time.monotonic() - began)
        most = max(most, kept(optimizer)) if blocks or k == steps - 1 else most
        if (k + 1) % LOOK == 0:
            curve.append(round(held_out_loss(pipe, *held_out), 5))
    return {
        "before": round(before, 5),
        "held_out": round(held_out_loss(pipe, *held_out), 5),
        "curve": curve,
        "training": round(float(np.mean(losses[-20:])), 5),
        "state": most,
        "learned": sum(p.numel() for p in weights),
        "seconds_per_step": round(float(np.median(paces)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--search", type=int, default=LENGTHS[0], help="steps of the runs that choose a rate")
    parser.add_argument("--steps", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--pictures", type=int, default=5, choices=range(1, 6), help="that are learned from")
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), choices=list(EVERYONE), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the bits do not depend on the cores
    LINES.parent.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    model = fingerprint(open_base(str(BASE), "fp32").unet)[:12]

    def result(name: str, lr: float, seed: int, steps: int) -> dict:
        key = {"model": model, "name": name, "lr": lr, "seed": seed, "steps": steps, "pictures": arguments.pictures}
        for line in lines:
            if key.items() <= line.items():
                return line
        line = key | run(EVERYONE[name], lr, seed, steps, arguments.pictures)
        lines.append(line)
        with open(LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | environment()) + "\n")
        print(json.dumps(line), flush=True)
        return line

    for name in arguments.only:
        tried = [result(name, lr, 0, arguments.search) for lr in RATES]
        best = min(tried, key=lambda line: line["held_out"])["lr"]
        for seed, steps in product(range(arguments.seeds), arguments.steps):
            result(name, best, seed, steps)


if __name__ == "__main__":
    main()
