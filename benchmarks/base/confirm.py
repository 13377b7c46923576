"""One choice of the base's recipe at a time: python -m benchmarks.base.confirm [NAME ...]

Each trial changes one thing of a short recipe and trains with it, at most about ten minutes of two cores. Autoencoders
are judged by what they give back of held-out contents, and by how much of their latents survives averaging; denoisers
by their own loss on v at fixed noises, in four stretches of the schedule, with the right content in the caption, with
a wrong one, and on the left-out pairs. Those named "longer" go on from models/emoji, which was the given model then.
Without names all trials that results/confirm.json does not have yet, one after the other; the same command goes on
where the last one ended.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from torch import Tensor

from benchmarks.common.environment import environment
from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import checkpoint
from training.base import autoencoder, data, denoiser, recipes
from training.base.learning import Schedule
from training.base.npm import base_folder
from training.draws import keyed
from training.model import open_base

HERE = Path(__file__).parent
EMOJI = HERE.parents[1] / "models/emoji"
RESULTS = HERE / "results/confirm.json"
JUDGED = 128  # pictures, of an autoencoder
QUARTERS = 4

SHORT = Schedule(300, 48, average=0.98, save_every=50, sheet_every=300)
AUTOENCODER = replace(recipes.AUTOENCODERS["small"], schedule=SHORT, smooth=replace(SHORT, steps=0))
GIVEN = (1.0, 1.0, 2.0)  # the weights of coarse scales that the given model was made with
DENOISER = replace(recipes.DENOISERS["small"], schedule=replace(SHORT, steps=240, batch=64), scales=GIVEN)
LONGER = replace(DENOISER, schedule=replace(SHORT, steps=180, batch=64, average=0.97), lr=1e-3)
TRIALS = {
    "autoencoder": AUTOENCODER,
    "autoencoder, AdamW 4e-3": replace(AUTOENCODER, optimizer="adamw", lr=4e-3),
    "autoencoder, AdamW 1e-3": replace(AUTOENCODER, optimizer="adamw", lr=1e-3),
    "autoencoder, no flips": replace(AUTOENCODER, flips=False),
    "autoencoder, no plateau": replace(AUTOENCODER, schedule=replace(SHORT, hold=0.0)),
    "autoencoder, smooth": replace(AUTOENCODER, smooth=replace(SHORT, steps=150)),
    "denoiser": DENOISER,
    "denoiser, AdamW 1e-3": replace(DENOISER, optimizer="adamw", lr=1e-3),
    "denoiser, flips": replace(DENOISER, flips=True),
    "denoiser, scales 1 0 0": replace(DENOISER, scales=(1.0, 0.0, 0.0)),
    "denoiser, scales 1 4 16": replace(DENOISER, scales=(1.0, 4.0, 16.0)),
    "denoiser, no plateau": replace(DENOISER, schedule=replace(DENOISER.schedule, hold=0.0)),
    "denoiser, uniform timesteps": replace(DENOISER, noisy=1.0),
    "longer, no steps": replace(LONGER, schedule=replace(LONGER.schedule, steps=0)),
    "longer": LONGER,
    "longer, scales 1 0 0": replace(LONGER, scales=(1.0, 0.0, 0.0)),
    "longer, scales 1 0 0, noisier": replace(LONGER, scales=(1.0, 0.0, 0.0), noisy=0.5),
    "denoiser, on rough latents": DENOISER,
    "denoiser, on smooth latents": DENOISER,
}
LATENTS = {"denoiser, on rough latents": "autoencoder", "denoiser, on smooth latents": "autoencoder, smooth"}


def place(name: str) -> Path:
    return base_folder() / "confirm" / name.replace(", ", "-").replace(" ", "-")


def run(name: str, pictures: data.Pictures) -> dict:
    """Train a trial and judge it."""
    began, recipe = time.monotonic(), TRIALS[name]
    learnable = autoencoder.trainable(pictures)
    if isinstance(recipe, autoencoder.AutoencoderRecipe):
        vae = autoencoder.make(recipe, learnable, place(name))
        unseen = data.held_out_pairs(pictures)
        order = torch.randperm(len(unseen), generator=keyed("confirm"))[:JUDGED].tolist()
        shown = pictures.take([unseen[i] for i in order]).pixels
        two, four = autoencoder.surviving(autoencoder.encode(vae, shown))
        found = {"dB": autoencoder.signal_to_noise(vae, shown), "survives 2x2": two, "survives 4x4": four}
    else:
        source = place(LATENTS[name]) if name in LATENTS else EMOJI / "vae"
        if not (source / "config.json").exists():
            raise UserError(f"{name!r} needs the trial {LATENTS[name]!r}", "Run that one first")
        vae = AutoencoderKL.from_pretrained(source).float().eval()
        start = open_base(str(EMOJI)) if name.startswith("longer") else None
        begun = {"start": fingerprint(start.unet)} if start else {}
        known, left_out = denoiser.chosen(pictures, recipe.contents), data.known_pairs(pictures, left_out=True)
        pipe = denoiser.make(recipe, vae, known, learnable.pairs, place(name), start=start)
        found = begun | judged(pipe, vae, known) | {"left out": judged(pipe, vae, pictures.take(left_out))["right"]}
    return {"seconds of this start": time.monotonic() - began, **found}


@torch.no_grad()
def judged(pipe: DiffusionPipeline, vae: AutoencoderKL, known: data.Pictures) -> dict[str, list[float]]:
    """Loss on v in each quarter of the schedule, the least noisy first, with the right content and with a wrong one."""
    order = torch.randperm(len(known.pairs), generator=keyed("confirm")).tolist()
    pairs = [known.pairs[i] for i in order]
    latents = autoencoder.encode(vae, known.take(pairs).pixels) * vae.config.scaling_factor
    wrong = [(pairs[i - 1][0], style) for i, (_, style) in enumerate(pairs)]
    schedule, generator = DDPMScheduler.from_config(pipe.scheduler.config), keyed("confirm", "noise")
    found: dict[str, list[float]] = {"right": [], "wrong content": []}
    for quarter in range(QUARTERS):
        shares = (quarter + torch.rand(len(pairs), generator=generator)) / QUARTERS
        timesteps, noise = (1000 * shares).long(), torch.randn(latents.shape, generator=generator)
        noisy, target = (f(latents, noise, timesteps) for f in (schedule.add_noise, schedule.get_velocity))
        for key, shown in (("right", pairs), ("wrong content", wrong)):
            texts = [denoiser.CAPTIONS[0][0].format(content=content, style=style) for content, style in shown]
            found[key].append(squared_error(pipe, noisy, timesteps, texts, target))
    return found


def squared_error(pipe: DiffusionPipeline, noisy: Tensor, timesteps: Tensor, texts: list[str], target: Tensor) -> float:
    tokens = denoiser.tokenize(pipe.tokenizer, texts)
    output = pipe.unet(noisy, timesteps, encoder_hidden_states=pipe.text_encoder(tokens)[0]).sample
    return (output - target).square().mean().item()


def main(*names: str) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in names or [name for name in TRIALS if name not in results]:
        if name not in TRIALS:
            raise UserError(f"There is no trial {name!r}", f"Choose from: {'; '.join(TRIALS)}")
        found = run(name, data.load())
        results[name] = (
            environment() | {"seed": 0} | json.loads(json.dumps(found), parse_float=lambda x: round(float(x), 4))
        )
        checkpoint.write_bytes(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
        print(name, json.dumps(results[name]), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
