"""The command line of the base model's making: python -m training.base data | judge | autoencoder | denoiser"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Literal

import tyro

from pipelines.errors import UserError
from training.__main__ import INTERRUPTED, INVALID
from training.base.npm import base_folder

Config = Literal["tiny", "small", "full"]


def data(unseen: bool = False) -> None:
    """Download the pinned packages, render all pictures, check their SHA-256.

    Args:
        unseen: the share-alike sets, which only benchmarks look at, in place of the others.
    """
    from training.base import data

    began = time.monotonic()
    sha256 = data.build("unseen" if unseen else "pictures")
    pictures = data.load("unseen" if unseen else "pictures")
    contents, styles = (len({pair[i] for pair in pictures.pairs}) for i in (0, 1))
    print(f"{len(pictures.pairs)} pictures of {contents} contents in {styles} styles, {time.monotonic() - began:.0f} s")
    print(f"SHA-256 of their pixels: {sha256}, as expected")


def judge(
    config: Config = "small",
    name: Literal["judge", "judge-2"] = "judge",
    check: bool = False,
    out: Path | None = None,
) -> None:
    """Train a judge of styles and contents. The same command again goes on where the last one ended.

    Args:
        config: which recipe.
        name: judge guides choices, judge-2 confirms what was chosen.
        check: leave every eighth picture out of training, and say how many of those are judged rightly.
        out: the folder to write; with check none.
    """
    from training.base import data, judge, recipes

    pictures = data.load()
    made = judge.make(name, recipes.JUDGES[config][name], pictures, check)
    if check:
        print(json.dumps(judge.held_out_accuracy(made, pictures)))
    else:
        made.save(out or base_folder() / name)
        print(out or base_folder() / name)


def autoencoder(config: Config = "small", out: Path | None = None) -> None:
    """Train the autoencoder on all that is not held out. The same command again goes on where the last one ended.

    Args:
        config: which recipe.
        out: the folder to write.
    """
    from training.base import autoencoder, data, recipes

    out, pictures = out or base_folder() / f"autoencoder-{config}", data.load()
    made = autoencoder.make(recipes.AUTOENCODERS[config], autoencoder.trainable(pictures), out)
    held_out = pictures.take(data.held_out_pairs(pictures))
    print(f"{autoencoder.signal_to_noise(made, held_out.pixels):.1f} dB on held-out contents\n{out}")


def denoiser(
    config: Literal["tiny", "small", "longer", "full"] = "small",
    autoencoder: Path | None = None,
    start: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train text encoder and denoiser, and write the whole model. The same command again goes on.

    Args:
        config: which recipe.
        autoencoder: the folder of the one whose latents are learned; that of models/emoji is models/emoji/vae.
        start: the folder of a whole model to go on from, best with `--config longer`; its autoencoder is taken.
        out: the folder to write.
    """
    from diffusers import AutoencoderKL

    from training.base import data, denoiser, recipes
    from training.base.autoencoder import trainable
    from training.model import device, open_base

    recipe, out = recipes.DENOISERS[config], out or base_folder() / f"model-{config}"
    if start and not (start / "model_index.json").exists():
        raise UserError(f"{start} holds no model", "Name a folder in diffusers' layout, such as models/emoji")
    if start and autoencoder:
        raise UserError("Both a model to start from and an autoencoder are named", "Leave out --autoencoder")
    folder = start / "vae" if start else autoencoder or base_folder() / f"autoencoder-{config}"
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no autoencoder", "Make one: python -m training.base autoencoder")
    vae = AutoencoderKL.from_pretrained(folder).float().to(device()).eval()
    pictures = data.load()
    begun, words = open_base(str(start)) if start else None, trainable(pictures).pairs
    denoiser.make(recipe, vae, denoiser.chosen(pictures, recipe.contents), words, out, start=begun)
    print(out)


COMMANDS = {"data": data, "judge": judge, "autoencoder": autoencoder, "denoiser": denoiser}


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("joinery").setLevel(logging.INFO)
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m training.base", description=__doc__)
    except UserError as error:
        print(error, file=sys.stderr)
        return INVALID
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
