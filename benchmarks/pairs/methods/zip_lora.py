"""ZipLoRA (arXiv 2311.13600): a coefficient for each column of two LoRAs, learned for every pair.

    Delta_m = m_c * Delta_c + m_s * Delta_s        (column by column)
    L = |f_m(x_c) - f_c(x_c)| + |f_m(x_s) - f_s(x_s)| + lambda sum over layers of |m_c . m_s|

f is what the denoiser predicts with the merged LoRA, the content's or the style's alone, on noisy pictures of the
content and of the style. The base and both LoRAs stay as they are. lambda 0.01 and 100 steps are the authors'; the
coefficients' start at one and their rate are our reading, they name neither. Norms are of a picture each, their mean
over the batch. A convolution's columns are its inputs at each place of the kernel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import Now, fused
from benchmarks.pairs.methods.fitted import fit
from benchmarks.pairs.methods.lora import both
from benchmarks.pairs.methods.ready import OWN, Ready, opened, own
from training.loop import Batch
from training.stages import BOTH

OWN["zip_lora"] = {"steps": 100, "lr": 0.01, "weight": 0.01}


@dataclass
class Zipping(Now):
    alone: str = ""  # the concept whose LoRA acts by itself


class Zip(nn.Module):
    """A layer's two deltas, (m, n), with a coefficient for each column of each."""

    def __init__(self, content: Tensor, style: Tensor):
        super().__init__()
        self.deltas = {"content": content, "style": style}
        self.content = nn.Parameter(content.new_ones(content.shape[1]))
        self.style = nn.Parameter(style.new_ones(style.shape[1]))

    def forward(self, now: Zipping) -> Tensor:
        if now.alone:
            return self.deltas[now.alone]
        return sum(getattr(now, kind) * self.deltas[kind] * getattr(self, kind) for kind in BOTH)


def overlap(zips: Iterable[Zip]) -> Tensor:
    """The sum over layers of the magnitude of m_c . m_s."""
    return sum((one.content @ one.style).abs() for one in zips)


def distance(predicted: Tensor, wanted: Tensor) -> Tensor:
    """The mean over a batch of the norm of the difference."""
    return (predicted - wanted).flatten(1).norm(dim=1).mean()


def zip_lora(cell: Cell, seed: int, changes: dict) -> Ready:
    pipe, settings, now = opened(changes), own("zip_lora", changes), Zipping()
    loras = both(pipe, cell, seed, changes)
    zips = {name: Zip(*(up @ down for up, down in (loras[0][name], loras[1][name]))) for name in loras[0]}

    def kept_apart(kind: str, batch: Batch) -> Tensor:
        now.alone = kind
        with torch.no_grad():
            wanted = predicted(pipe, batch)
        now.alone = ""
        return distance(predicted(pipe, batch), wanted)

    def loss(content: Batch, style: Batch) -> Tensor:
        apart = settings.weight * overlap(zips.values())
        return kept_apart("content", content) + kept_apart("style", style) + apart

    fit("zip_lora", pipe, cell, seed, changes, loras, zips, settings, loss, now)
    return fused(pipe, cell, zips, now)


def predicted(pipe: DiffusionPipeline, batch: Batch) -> Tensor:
    """What the denoiser says of noisy latents."""
    latents, conditions, noise, timesteps, _ = batch
    noisy = DDPMScheduler.from_config(pipe.scheduler.config).add_noise(latents, noise, timesteps)
    return pipe.unet(noisy, timesteps, conditions["encoder_hidden_states"], return_dict=False)[0]
