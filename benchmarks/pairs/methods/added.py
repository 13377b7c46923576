"""What a method adds to the weights of a denoiser: a function of the two scales and of how far the denoising is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.ready import Ready
from training.model import timestep_count


@dataclass
class Now:
    """Where a denoiser stands at an evaluation."""

    content: float = 1.0  # scales
    style: float = 1.0
    progress: float = 0.0  # of the denoising: 0 at the noisiest timestep, 1 at the last
    on: bool = True


Delta = Callable[[Now], Tensor]  # a layer's, (m, n); of a convolution n counts its kernel
Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> up (m, r), down (r, n)


class Added(nn.Module):
    """Parametrization of one weight: itself with the delta."""

    def __init__(self, delta: Delta, now: Now):
        super().__init__()
        self.delta, self.now = delta, now

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.delta(self.now).view_as(weight) if self.now.on else weight


def put(denoiser: nn.Module, deltas: dict[str, Delta], now: Now) -> None:
    """Put deltas on the layers of these names."""
    for name, delta in deltas.items():
        parametrize.register_parametrization(denoiser.get_submodule(name), "weight", Added(delta, now))


def take_off(denoiser: nn.Module) -> None:
    """Leave the denoiser with its own weights, to the bit."""
    for module in list(denoiser.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def follow(pipe: DiffusionPipeline, now: Now) -> None:
    """Tell `now` of the progress before each evaluation.

    Schedules whose timesteps are evenly spaced, as here, have as much of their steps behind them.
    """
    count = timestep_count(pipe)

    def tell(module: nn.Module, args: tuple, kwargs: dict) -> None:
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        now.progress = 1 - float(torch.as_tensor(timestep).max()) / count

    pipe.unet.register_forward_pre_hook(tell, with_kwargs=True)


def fused(pipe: DiffusionPipeline, cell: Cell, deltas: dict[str, Delta], now: Now | None = None) -> Ready:
    """A pipeline that draws with the deltas, at scales that can be set."""
    now = now or Now()
    put(pipe.unet, deltas, now)
    follow(pipe, now)

    def set_scales(content: float, style: float) -> None:
        now.content, now.style = content, style

    return Ready(pipe, cell.prompt, set_scales)


def summed(content: Factors, style: Factors) -> dict[str, Delta]:
    """c Delta_c + s Delta_s in every layer that one of the two has."""

    def one(name: str) -> Delta:
        pairs = {"content": content.get(name), "style": style.get(name)}
        parts = {which: pair[0] @ pair[1] for which, pair in pairs.items() if pair}
        return lambda now: sum(getattr(now, which) * delta for which, delta in parts.items())

    return {name: one(name) for name in {**content, **style}}
