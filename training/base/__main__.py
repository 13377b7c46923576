"""The command line of the base model's making: python -m training.base data | judge | autoencoder | denoiser"""

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from safetensors import SafetensorError

from pipelines.errors import UserError, first_line
from training.__main__ import in_words
from training.base.npm import base_folder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from training.base.data import Pictures

Config = Literal["tiny", "small", "full"]


def data(which: Literal["pictures", "computed", "unseen"] = "pictures") -> None:
    """Download the pinned packages, render all pictures, check their SHA-256.

    Args:
        which: the sets and the first computed styles; the other computed styles; or the share-alike sets, which only
            benchmarks look at.
    """
    from training.base import data

    began = time.monotonic()
    sha256 = data.build(which)
    pictures = data.load(which)
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

    out = _folder(out or base_folder() / name)
    pictures = data.load()
    made = judge.make(name, recipes.JUDGES[config][name], pictures, check)
    assert made is not None  # nothing stops it before the end
    if check:
        print(json.dumps(judge.held_out_accuracy(made, pictures)))
    else:
        made.save(out)
        print(out)


def autoencoder(
    config: Literal["tiny", "small", "composing", "full"] = "small",
    start: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train the autoencoder on all that is not held out. The same command again goes on where the last one ended.

    Args:
        config: which recipe.
        start: the folder of one to go on from, such as models/emoji/vae, best with `--config composing`.
        out: the folder to write.
    """
    from training.base import autoencoder, data, recipes

    recipe, out = recipes.AUTOENCODERS[config], _folder(out or base_folder() / f"autoencoder-{config}")
    begun = _autoencoder(start) if start else None
    pictures = data.load()
    made = autoencoder.make(recipe, _with_computed(autoencoder.trainable(pictures), recipe.computed), out, start=begun)
    held_out = pictures.take(data.held_out_pairs(pictures))
    print(f"{autoencoder.signal_to_noise(made, held_out.pixels):.1f} dB on held-out contents\n{out}")


def denoiser(
    config: Literal["tiny", "small", "longer", "composing", "composing-longer", "unknown-words", "full"] = "small",
    autoencoder: Path | None = None,
    start: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train text encoder and denoiser, and write the whole model. The same command again goes on.

    Args:
        config: which recipe.
        autoencoder: the folder of the one whose latents are learned; that of models/emoji is models/emoji/vae.
        start: the folder of a whole model to go on from, best with `--config longer` or `composing`; its own
            autoencoder is taken if no other is named.
        out: the folder to write.
    """
    from training.base import data, denoiser, recipes
    from training.base.autoencoder import trainable
    from training.model import open_base

    recipe, out = recipes.DENOISERS[config], _folder(out or base_folder() / f"model-{config}")
    if start and not (start / "model_index.json").exists():
        raise UserError(f"{start} holds no model", "Name a folder in diffusers' layout, such as models/emoji")
    vae = _autoencoder(autoencoder or (start / "vae" if start else base_folder() / f"autoencoder-{config}"))
    pictures = data.load()
    begun, words = open_base(str(start)) if start else None, trainable(pictures).pairs
    shown = _with_computed(denoiser.chosen(pictures, recipe.contents), recipe.computed)
    denoiser.make(recipe, vae, shown, words, out, start=begun)
    print(out)


def _folder(out: Path) -> Path:
    """Before the work: nothing can be written into what is no folder."""
    if file := next((place for place in (out, *out.parents) if place.is_file()), None):
        raise UserError(f"--out {out} cannot be made: {file} is a file", "Name a folder")
    return out


def _autoencoder(folder: Path) -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    from training.model import device

    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no autoencoder", "Make one: python -m training.base autoencoder")
    try:
        found = AutoencoderKL.from_pretrained(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:  # another network, or damaged
        what = f"{folder} holds no autoencoder that can be read ({first_line(error)})"
        raise UserError(what, "Name another folder") from None
    return found.float().to(device()).eval()


def _with_computed(pictures: "Pictures", share: float) -> "Pictures":
    """The pictures, and where a recipe has a share of them those of computed styles that may be learned from."""
    from training.base import data

    if not share:
        return pictures
    computed = data.load("computed")
    return data.both(pictures, computed.take(data.computed_pairs(computed)))


COMMANDS: dict[str, Callable] = {"data": data, "judge": judge, "autoencoder": autoencoder, "denoiser": denoiser}


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("joinery").setLevel(logging.INFO)

    def command() -> int:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m training.base", description=__doc__)
        return 0

    return in_words(command)


if __name__ == "__main__":
    sys.exit(main())
