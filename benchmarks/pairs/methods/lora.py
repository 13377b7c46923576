"""Plain LoRAs (arXiv 2106.09685), learned from the product's pictures with its loss, draws and schedule, by AdamW.

Each is kept in the data folder under everything that decides it, so that a content's serves all its cells.
"""

import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from benchmarks.pairs.cells import Cell, customization
from benchmarks.pairs.methods.added import Factors, Now, put, take_off
from benchmarks.pairs.methods.ready import OWN, folder, kept, over, own, project
from pipelines.adapters import fingerprint
from training.concepts import EncodedConcept, prepare, read_all_pictures
from training.config import Customization, Make
from training.draws import keyed
from training.families.diffusion import LAYERS
from training.loop import train_step
from training.optimizers.registry import make_optimizer
from training.others import draw_others
from training.run import decisive
from training.stages import BOTH, Part, Stage, own_part, steps_of
from training.state import State

RATE = 1e-3  # where the changes name none
# Pictures of others a step, under their own captions, and the weight of their loss (prior preservation, 2208.12242).
OWN["lora"] = {"prior": 0, "prior_weight": 1.0}


class LoRA(nn.Module):
    """up @ down, nothing at first.

    Args:
        weight: of the layer; its shorter side bounds the rank.
    """

    def __init__(self, weight: Tensor, rank: int, seed: int, name: str):
        super().__init__()
        m, n = len(weight), weight[0].numel()
        rank = min(rank, m, n)
        down = torch.randn(rank, n, generator=keyed(seed, "lora", name)) / math.sqrt(n)
        self.up = nn.Parameter(weight.new_zeros(m, rank))
        self.down = nn.Parameter(down.to(weight))

    def forward(self, now: Now) -> Tensor:
        return self.up @ self.down


@dataclass(frozen=True)
class Task:
    """What a step of training looks at (`training.loop.Work` has more)."""

    config: Customization
    pipe: DiffusionPipeline
    concepts: dict[str, EncodedConcept]
    learned: list[nn.Parameter]

    @property
    def adapter(self) -> "Task":
        return self

    @property
    def device(self) -> torch.device:
        return self.pipe.device

    def parameters(self, concept: str) -> list[nn.Parameter]:
        return self.learned

    def stepping(self, stage: Stage, make: Make) -> AbstractContextManager:
        return nullcontext()


def plain(kinds: dict[str, str], seed: int, changes: dict) -> Customization:
    """A project that learns by AdamW.

    Args:
        kinds: "content" and "style" -> which; one may be missing.
    """
    adamw = {"optimizer": {"name": "adamw", "lr": RATE}}
    return customization(kinds, over(adamw, project(changes)) | {"seed": seed})


def encoded(pipe: DiffusionPipeline, config: Customization, parts: tuple[Part, ...] = ()) -> dict[str, EncodedConcept]:
    """The pictures of a project as training sees them, and others that the base draws where a part is about such."""
    pictures = read_all_pictures(config)
    for missing in {part.concept for part in parts} - pictures.keys():
        pictures[missing] = draw_others(pipe, config, folder() / "cache")
    return {name: prepare(pipe, found, folder() / "cache").to(pipe.device) for name, found in pictures.items()}


def identity_of(pipe: DiffusionPipeline, config: Customization, concepts: dict[str, EncodedConcept], *more) -> list:
    """Of all that decides what is learned."""
    digests = {name: concept.digest for name, concept in concepts.items()}
    return [decisive(config), fingerprint(pipe.unet), digests, *more]


def both(pipe: DiffusionPipeline, cell: Cell, seed: int, changes: dict, pattern: str = "") -> tuple[Factors, Factors]:
    """A LoRA of the cell's content and one of its style, learned apart, each for as many steps as the product takes."""
    return tuple(alone(pipe, kind, cell, seed, changes, pattern) for kind in ("content", "style"))


def alone(pipe: DiffusionPipeline, kind: str, cell: Cell, seed: int, changes: dict, pattern: str = "") -> Factors:
    """The LoRA of a content or a style.

    Args:
        pipe: the base, nothing on it.
        kind: "content" or "style".
        pattern: of the layers' names; by default those of `adapter.layers`.
    """
    config = plain({kind: getattr(cell, kind)}, seed, changes)
    parts = (own_part(config, kind),)
    lora = own("lora", changes)
    if lora.prior:
        parts += (Part("others", lora.prior, (kind,), weight=lora.prior_weight),)
    return learned(pipe, config, Stage(kind, 0, steps_of(config, kind), parts, {kind: config.optimizer.lr}), pattern)


def together(pipe: DiffusionPipeline, cell: Cell, seed: int, changes: dict) -> Factors:
    """One LoRA of both concepts, each with half of every batch, as in a make, for as many steps as both have apart."""
    config = plain({"content": cell.content, "style": cell.style}, seed, changes)
    each, steps = max(1, config.steps.batch_size // 2), sum(steps_of(config, concept) for concept in BOTH)
    parts = tuple(Part(concept, each, (concept,)) for concept in BOTH)
    return learned(pipe, config, Stage("joint", 0, steps, parts, {"content": config.optimizer.lr}), "")


def learned(pipe: DiffusionPipeline, config: Customization, stage: Stage, pattern: str) -> Factors:
    pattern = pattern or LAYERS[config.adapter.layers]
    concepts = encoded(pipe, config, stage.parts)

    def learn() -> dict[str, Tensor]:
        rank = config.adapter.rank // 2 * len(config.concepts)  # joined, all have the product's
        layers = layers_of(pipe.unet, pattern)
        deltas = {name: LoRA(layer.weight, rank, config.seed, name) for name, layer in layers.items()}
        task = Task(config, pipe, concepts, [p for delta in deltas.values() for p in delta.parameters()])
        put(pipe.unet, deltas, Now())
        try:
            train(task, stage)
        finally:
            take_off(pipe.unet)
        return {f"{name}.{which}": p for name, delta in deltas.items() for which, p in delta.named_parameters()}

    said = asdict(stage) | {"parts": [asdict(part) for part in stage.parts]}
    for part in said["parts"]:
        if part["weight"] == 1:  # as it was called before there were weights
            del part["weight"]
    identity = identity_of(pipe, config, concepts, said, pattern)
    tensors = kept(f"{stage.name} {config.name}", identity, learn)
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    return {name: tuple(tensors[f"{name}.{which}"].to(pipe.device) for which in ("up", "down")) for name in names}


def train(task: Task, stage: Stage) -> None:
    """The product's steps of a stage."""
    settings, rate = task.config.optimizer, next(iter(stage.rates.values()))
    group = {"params": task.learned, "lr": rate, "peak": rate}
    state = State(optimizer=make_optimizer(settings.name, [group], **settings.own_settings()))
    while state.step < stage.end:
        train_step(task, state, stage)
        state.step += 1


def layers_of(denoiser: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """Linear layers and convolutions whose whole name a pattern matches."""
    expression, kinds = re.compile(pattern), (nn.Linear, nn.Conv2d)
    return {n: m for n, m in denoiser.named_modules() if isinstance(m, kinds) and expression.fullmatch(n)}
