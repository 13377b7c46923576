"""The autoencoder: pictures of 64 x 64 pixels to latents of 16 x 16 x 4 that keep their meaning when averaged."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from pipelines.adapters import fingerprint
from training import checkpoint, sheet
from training.base.computed import COMPUTED
from training.base.data import SPLIT, Pictures, to_network, to_pixels
from training.base.learning import Schedule, train
from training.base.muon import optimizer_for
from training.base.npm import base_folder
from training.draws import choose, keyed
from training.model import autocast, device

LOGVAR = -6.0  # where the log-variance starts and is held: at nought the first minutes are lost to noise
WHOLE = 0.1  # share of the steps, at the end, that see whole pictures
PERMUTED = 0.15  # share of the batches with their colour channels in another order, so that no hue is rare
NOISE, SMOOTH_NOISE = 0.03, 0.06  # that the decoder sees: as it is, and as a share of the latents' deviation
HALVED, MISSED, COLOUR = 0.3, 0.1, 0.1  # weights of what makes latents smooth


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How an autoencoder is made: first to give pictures back, then with smooth latents as well.

    Either stage may have no steps. `computed` is the share of each batch that shows computed styles.
    """

    widths: tuple[int, ...]
    schedule: Schedule
    smooth: Schedule
    crop: int = 32  # pixels
    lr: float = 2e-3
    smooth_lr: float = 1e-3
    optimizer: str = "muon"
    flips: bool = True
    channels: int = 4
    computed: float = 0.0
    seed: int = 0


class Learner(nn.Module):
    """The autoencoder with the linear map from a latent to its mean colour, which is not kept.

    With a `start` it goes on from that autoencoder's weights. Channels beyond its own begin by chance in the encoder,
    and at zero in the decoder.
    """

    def __init__(self, recipe: AutoencoderRecipe, size: int, start: AutoencoderKL | None = None):
        super().__init__()
        levels, channels = len(recipe.widths), recipe.channels
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=recipe.widths,
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=size,
        )
        self.colour = nn.Conv2d(channels, 3, 1)
        with torch.no_grad():
            self.vae.quant_conv.bias[channels:] = LOGVAR
        if start:
            _take_over(self.vae, start)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, h, w) in [-1, 1] -> means and log-variances (n, c, h / 4, w / 4)."""
        return self.vae.quant_conv(self.vae.encoder(x)).chunk(2, 1)

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latents))

    def loss(self, x: Tensor, noise: Tensor, smooth: bool) -> Tensor:
        """What is minimized.

        Args:
            x: pictures (n, 3, h, w) in [-1, 1].
            noise: standard normal, (n, c, h / 4, w / 4).
        """
        with autocast():
            mean, logvar = self.encode(x)
            mean, logvar = mean.float(), logvar.float()
            scale = SMOOTH_NOISE * mean.detach().std() if smooth else NOISE
            y = self.decode(mean + scale * noise).float()
        error = y - x
        slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = _both(error) + 0.5 * slopes + F.avg_pool2d(error, 8).square().mean()
        loss = loss + 5e-4 * mean.square().mean() + 1e-3 * (logvar - LOGVAR).square().mean()
        if smooth:
            half = F.avg_pool2d(mean, 2)
            with autocast():
                small = self.decode(half).float()
            missed = mean - F.interpolate(half, scale_factor=2, mode="bilinear")
            colour = self.colour(mean) - F.avg_pool2d(x, 4)
            loss = loss + HALVED * _both(small - F.avg_pool2d(x, 2))
            loss = loss + MISSED * missed.square().mean() / mean.var() + COLOUR * colour.square().mean()
        return loss


def _both(error: Tensor) -> Tensor:
    return error.abs().mean() + error.square().mean()


@torch.no_grad()
def _take_over(vae: AutoencoderKL, start: AutoencoderKL) -> None:
    """Copy weights. Of means and log-variances, and of latents, those of `start` come first in theirs."""
    new, old = vae.config.latent_channels, start.config.latent_channels
    places = {old: torch.arange(old), 2 * old: torch.cat([torch.arange(old), new + torch.arange(old)])}
    weights = start.state_dict()
    for name, weight in vae.state_dict().items():
        given = weights[name]
        if given.shape == weight.shape:
            weight.copy_(given)
            continue
        rows, columns = (
            places[size] if size != whole else torch.arange(size)
            for size, whole in zip((*given.shape, 1)[:2], (*weight.shape, 1)[:2], strict=True)
        )
        if weight.ndim == 1:
            weight[rows] = given
            continue
        if name.startswith(("decoder", "post_quant")):
            weight.zero_()
        weight[rows] = 0
        weight[rows[:, None], columns] = given


def trainable(pictures: Pictures) -> Pictures:
    """All pictures of the sets but those of held-out contents, held-out styles and left-out pairs."""
    without = {tuple(pair) for pair in SPLIT["left_out_pairs"]}
    kept = [
        pair
        for pair in pictures.pairs
        if pair not in without and pair[0] not in SPLIT["held_out_contents"] and pair[1] in SPLIT["styles"]
    ]
    return pictures.take(kept)


def make(
    recipe: AutoencoderRecipe,
    pictures: Pictures,
    folder: Path,
    stop_after: float = math.inf,
    start: AutoencoderKL | None = None,
) -> AutoencoderKL | None:
    """Train an autoencoder and write it to `folder` as diffusers reads it, its latents centred and scaled.

    Args:
        pictures: all that it may learn from.
        start: one to go on from, with the recipe's widths and at most its channels.
    Returns:
        the autoencoder, or None if it was left off before the end; the same call goes on.
    """
    size = pictures.pixels.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        learner = Learner(recipe, size, start).to(device())
    computed = torch.tensor([style in COMPUTED for _, style in pictures.pairs])
    groups = [("", (~computed).nonzero().flatten(), 1 - recipe.computed)]
    groups += [(" computed", computed.nonzero().flatten(), recipe.computed)] if recipe.computed else []
    for name, schedule, lr in (
        ("autoencoder", recipe.schedule, recipe.lr),
        ("smooth", recipe.smooth, recipe.smooth_lr),
    ):

        def loss(step: int, name: str = name, schedule: Schedule = schedule) -> Tensor:
            whole = step >= (1 - WHOLE) * schedule.steps
            kind = "whole" if whole else "crops"
            count = max(1, schedule.batch // 3) if whole else schedule.batch
            index = torch.cat(
                [
                    some[choose(recipe.seed, name, kind + of, step, round(share * count), len(some))]
                    for of, some, share in groups
                ]
            )
            generator = keyed(recipe.seed, name, step)
            x = drawn(pictures.pixels[index], size if whole else recipe.crop, recipe.flips, generator)
            noise = torch.randn((len(x), recipe.channels, x.shape[2] // 4, x.shape[3] // 4), generator=generator)
            return learner.loss(x.to(device()), noise.to(device()), smooth=name == "smooth")

        def show(path: Path) -> None:
            shown = choose(recipe.seed, "sheet", "pictures", 0, min(8, len(pictures.pairs)), len(pictures.pairs))
            x = pictures.pixels[shown]
            sheet.save(sheet.compose({"real": _images(x), "through": _images(through(learner.vae, x))}), path)

        if not schedule.steps:
            continue
        optimizer = optimizer_for(learner, recipe.optimizer, lr)
        identity = json.dumps([asdict(recipe), len(pictures.pairs), fingerprint(start) if start else ""])
        place = base_folder() / "runs" / folder.name / name
        done = train(
            name, place, learner, optimizer, loss, schedule, len(pictures.pairs), identity, show, stop_after=stop_after
        )
        if not done:
            return None
    centre(learner.vae, pictures)
    learner.vae.save_pretrained(folder)
    checkpoint.follow_umask(folder)
    return learner.vae


def drawn(pixels: Tensor, crop: int, flips: bool, generator: torch.Generator) -> Tensor:
    """A batch, float32 (n, 3, crop, crop) in [-1, 1]: places, flips and the order of colours by chance."""
    n, size = len(pixels), pixels.shape[1]
    tops, lefts = torch.randint(0, size - crop + 1, (2, n), generator=generator).tolist()
    cut = [one[top : top + crop, left : left + crop] for one, top, left in zip(pixels, tops, lefts, strict=True)]
    x = to_network(torch.stack(cut))
    flipped, permuted = torch.rand(n, generator=generator) < 0.5, torch.rand(1, generator=generator) < PERMUTED
    order = torch.randperm(3, generator=generator)
    if flips:
        x = torch.where(flipped[:, None, None, None], x.flip(-1), x)
    return x[:, order] if permuted else x


@torch.no_grad()
def centre(vae: AutoencoderKL, pictures: Pictures) -> None:
    """Move the latents' means into the convolutions beside them, and set `scaling_factor` to 1 / deviation."""
    latents = encode(vae, pictures.pixels)
    mean = latents.mean((0, 2, 3)).to(vae.device)
    vae.quant_conv.bias[: len(mean)] -= mean
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[..., 0, 0] @ mean
    vae.register_to_config(scaling_factor=1 / latents.sub(mean.cpu()[:, None, None]).std().item())


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Means of the latents, unscaled, float32 (n, c, h / 4, w / 4), contiguous, on the CPU."""
    parts = []
    for some in pixels.split(64):
        x = to_network(some)
        parts.append(vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mean.float().cpu())
    # A network's sums differ in their last bits with its input's layout, and a cache would not keep another.
    return torch.cat(parts).contiguous()


@torch.no_grad()
def through(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pictures encoded and decoded, uint8 (n, h, w, 3)."""
    parts = []
    for latents in encode(vae, pixels).split(64):
        x = vae.decode(latents.to(vae.device, vae.dtype)).sample
        parts.append(to_pixels(x))
    return torch.cat(parts)


def signal_to_noise(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Peak signal to noise of the autoencoder in dB, a mean over pictures."""
    error = (through(vae, pixels).float() - pixels.float()).square().mean((1, 2, 3)).clamp(min=1e-3)
    return (10 * (255**2 / error).log10()).mean().item()


def surviving(latents: Tensor) -> tuple[float, float]:
    """Shares of the latents' variance that survive averaging over 2 x 2 and over 4 x 4 positions."""
    x = latents - latents.mean((0, 2, 3), keepdim=True)
    half, quarter = ((F.avg_pool2d(x, side).square().mean() / x.square().mean()).item() for side in (2, 4))
    return half, quarter


def _images(pixels: Tensor) -> list[Image.Image]:
    return [Image.fromarray(one.numpy()) for one in pixels]
