"""A run's pipeline, ready to draw: its base, guided, with its adapter on."""

import inspect
import shutil
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline
from PIL import Image, ImageChops, ImageFilter

from pipelines import APG, UserError, families, guided, set_attention
from pipelines.adapters import trained_on
from pipelines.guided_pipeline import stock_class
from training import checkpoint
from training.adapters import METHODS
from training.config import HOUSE, Customization, find_base
from training.families import FAMILIES, denoiser_of, family_of
from training.model import open_base
from training.run import Run
from training.stages import BOTH

LARGE = 512  # pixels, from which an autoencoder decodes one picture at a time: four at once take more than training


def open_run(folder: Path, relative: str = "", sampler: str = "") -> tuple[DiffusionPipeline, Customization]:
    """Open the base of a finished run with its adapter.

    Args:
        relative: a base to draw on in its place, with the same layers: a Turbo of it, for example.
        sampler: by its name, as the base's family takes it.
    Raises:
        UserError: there is no such run, it has no adapter yet, its base has changed, the relative is none, or there is
            no such sampler.
    """
    run = Run(folder)
    config = run.customization()
    if not run.adapter.exists():
        raise UserError(f"The run {folder} has no adapter yet", "Start its customization again and let it end")
    if relative:
        opened = open_base(find_base(relative, [Path.cwd(), HOUSE]) or relative, config.precision)
        if (found := type(denoiser_of(opened)).__name__) != (own := FAMILIES[config.recognised_base().family].network):
            raise UserError(f"{relative} has a {found}, and the run's base a {own}", "Name one of its family")
    else:
        opened = open_base(config.resolved_base(), config.precision, config.prediction, config.zero_snr)
    pipe = guided_pipeline(opened, config.preset, sampler)
    if relative:
        pipe.load_adapter(run.adapter)
    else:
        load_adapter_of(run, pipe)
    return pipe, config


def load_adapter_of(run: Run, pipe: DiffusionPipeline, step: int = 0) -> None:
    """Load a run's adapter on its own base, as it ended or as it was after a step.

    Raises:
        UserError: it is another one now.
    """
    adapter = run.adapter_after(step)
    if other := trained_on(adapter, denoiser_of(pipe)):
        raise UserError(
            f"The adapter {adapter} was trained on {other}, not on what is there under that name now",
            "Put that base back; in Python load_adapter takes relatives of it too",
        )
    pipe.load_adapter(adapter, any_base=True)  # it was looked at


def write_model(folder: Path, out: Path) -> None:
    """Write a finished run's base with what was learned merged into its weights, as a diffusers folder.

    The differences of a run that trained the base's own weights are taken whole where its last checkpoint is still
    there, not as the adapter's rank cuts them.

    Raises:
        UserError: there is no such run, it has no adapter yet, or the folder to write exists.
    """
    if out.exists():
        raise UserError(f"{out} exists", "Choose a folder that does not exist yet")
    pipe, config = open_run(folder)
    method = METHODS[config.adapter.method]
    last = checkpoint.read_last(Run(folder).checkpoints) if method.truncates else None
    if last is None:
        pipe.fuse_lora()
    pipe.unload_lora_weights()
    if last is not None:
        adapter = method.attach(denoiser_of(pipe), config.adapter)
        for concept in BOTH:
            adapter.load(concept, checkpoint.under(last.tensors, f"done.{concept}."))
    fresh = out.with_name(f".{out.name}.new")  # whole or not there
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.save_pretrained(fresh, safe_serialization=True)
    checkpoint.follow_umask(fresh)
    fresh.rename(out)


def guided_pipeline(pipe: DiffusionPipeline, preset: str, sampler: str = "") -> DiffusionPipeline:
    """The same components, shared, in the guided class of the same family, with the preset's rule and a sampler.

    Its `kernels` say whose attention runs.
    """
    family = family_of(pipe)
    kind: Any = type(pipe)
    pipe = guided(kind).from_pipe(pipe, scheduler=family.sampler(pipe.scheduler, sampler))
    pipe.guidance = APG.preset(preset)
    pipe.kernels = set_attention(pipe, "auto" if family.denoiser == "unet" else "pytorch")
    pipe.set_progress_bar_config(disable=True)
    if pipe.vae.config.get("sample_size", LARGE) >= LARGE:
        pipe.vae.enable_slicing()
    return pipe


def from_picture(pipe: DiffusionPipeline, masked: bool = False) -> DiffusionPipeline:
    """The parts of a guided pipeline, shared, in the guided class of its family that starts from a picture.

    Args:
        masked: and changes only a part of it (inpainting).
    Raises:
        UserError: the family has none.
    """
    classes, wanted = families.family_of(stock_class(type(pipe))).classes, "inpaint" if masked else "image"
    name = next((name for task, name in classes.items() if task.split(", ")[0] == wanted), None)
    if name is None:
        what = "change a part of a picture" if masked else "start from a picture"
        remedy = "Clear what is painted over" if masked else "Take the picture out"
        raise UserError(f"This base cannot {what}", f"{remedy}, or draw with another base")
    pipe = guided(getattr(diffusers, name)).from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def starting_from(
    pipe: DiffusionPipeline, picture: Image.Image, strength: float, count: int, mask: Image.Image | None = None
) -> dict[str, Any]:
    """The arguments of a call of `from_picture` for so many pictures, each from that one and of its size.

    Args:
        picture: RGB; its sides are multiples that the base takes.
        strength: share of the steps that are taken, above 0; 1 leaves little or nothing of the picture.
        mask: grey, of the picture's size, white where it changes; None: everywhere.
    """
    taken = inspect.signature(stock_class(type(pipe)).__call__).parameters
    size = {"height": picture.height, "width": picture.width}  # some classes go by the picture alone
    own = {name: value for name, value in size.items() if name in taken}
    masks = {"mask_image": [mask] * count} if mask else {}
    return {"image": [picture] * count, "strength": strength, **own, **masks}


def changed_inside(picture: Image.Image, drawn: Image.Image, mask: Image.Image) -> Image.Image:
    """What was drawn where the mask is white, and outside of it the picture's own pixels: no autoencoder keeps them.

    The seam is soft towards the inside, over a sixty-fourth of the side.
    """
    soft = mask.filter(ImageFilter.GaussianBlur(mask.width / 128))
    return Image.composite(drawn, picture, ImageChops.darker(mask, soft))
