"""How to build and call one stock class: tiny, real, and the same weights each time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.families.schedulers import scheduler

PROMPTS = ("a red dog", "two blue cats")
PICTURES = tuple(Image.linear_gradient("L").resize((32, 32)).rotate(90 * i).convert("RGB") for i in range(2))
MASK = Image.linear_gradient("L").resize((32, 32)).point(lambda level: 255 * (level > 90))


@dataclass(frozen=True)
class Case:
    """One stock class on trial.

    Args:
        stock: its name in diffusers.
        make: class and scheduler -> a pipeline.
        inputs: the numbers of the samples in a batch (0 or 1) -> the arguments that say what to draw.
        schedulers: names in `tests.families.schedulers`; the first is used in all tests but the one over schedulers.
        scale: argument -> value, of guidance.
        w: the paper's guidance scale that this amounts to.
        output: `output_type` of the call, for which it gives the latents; None leaves it out.
        elsewhere: schedulers that another test goes through.
        needs: a package without which diffusers does not have the class.
        variant: what sets this case apart from another of the same class.
        added: other terms join the result of guidance: perturbed attention, skipped layers.
        renormalised: the stock pipeline scales the result of guidance, with no way to switch that off.
        no_unguided: why the stock pipeline without guidance is nothing to compare with.
        slow: takes seconds a call.
        alone: `inputs` cannot describe a batch of two.
    """

    stock: str
    make: Callable
    inputs: Callable[[list[int]], dict]
    schedulers: tuple[str, ...] = ("DDIM",)
    scale: dict = field(default_factory=lambda: {"guidance_scale": 5.0})
    w: float = 5.0
    output: str | None = "latent"
    steps: int = 3
    variant: str = ""
    elsewhere: tuple[str, ...] = ()
    needs: str | None = None
    added: bool = False
    renormalised: bool = False
    alone: bool = False
    no_unguided: str | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        return self.stock + (f" ({self.variant})" if self.variant else "")

    def pipeline(self, cls: type | None = None, scheduler_name=None):
        """A pipeline of the stock class, or of `cls`."""
        chosen = scheduler_name or self.schedulers[0]
        torch.manual_seed(0)
        pipe = self.make(cls or self.stock_class, scheduler(chosen))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def stock_class(self) -> type:
        return getattr(diffusers, self.stock)

    def draw(self, pipe, samples: tuple[int, ...] = (0,), **changes) -> Tensor:
        """Latents (or what the pipeline gives) of a batch; sample i has its own noise."""
        generators = [torch.Generator().manual_seed(i) for i in samples]
        settings = {
            **self.inputs(list(samples)),
            **self.scale,
            "num_inference_steps": self.steps,
            "generator": generators[0] if self.alone else generators,
            "return_dict": False,
        }
        if self.output:
            settings["output_type"] = self.output
        torch.manual_seed(0)
        drawn = pipe(**settings | changes)
        drawn = drawn if isinstance(drawn, Tensor) else drawn[0]
        return torch.stack(list(drawn)) if isinstance(drawn, list) else drawn


def marks(case: Case) -> tuple:
    """For pytest."""
    return (pytest.mark.slow,) if case.slow else ()


def denoisers(pipe) -> list[torch.nn.Module]:
    """What a pipeline may call at each evaluation."""
    found = (getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2", "prior", "decoder"))
    return [module for module in found if isinstance(module, torch.nn.Module)]


def lively(module: torch.nn.Module, gain: float = 1.0) -> torch.nn.Module:
    """Give a fresh network something to say: layers that begin at zero leave the prompt out of the result."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
        elif parameter.ndim > 1:
            parameter.data *= gain
    return module.eval()


def certain(vae, last: torch.nn.Module):
    """An autoencoder whose encoder, with that last layer, has no variance: some pipelines draw from it unseeded."""
    with torch.no_grad():
        half = len(last.weight) // 2
        last.weight[half:] = 0
        last.bias[half:] = -30
    return vae.eval()


def prompts(samples: list[int]) -> dict:
    return {"prompt": [PROMPTS[i] for i in samples]}


def embeddings(name: str, *shape: int):
    """Random text embeddings of that shape for each sample, and negative ones: the arguments `name`."""

    def of(samples: list[int]) -> dict:
        def draw(first_seed: int) -> Tensor:
            return torch.stack(
                [3 * torch.randn(shape, generator=torch.Generator().manual_seed(first_seed + i)) for i in samples]
            )

        return {name: draw(10), f"negative_{name}": draw(20)}

    return of


def together(*inputs, **fixed):
    """Several kinds of inputs at once, and arguments that are the same for every batch."""
    return lambda samples: {key: value for some in inputs for key, value in some(samples).items()} | fixed


def pictures(name: str = "image"):
    return lambda samples: {name: [PICTURES[i] for i in samples]}
