"""What some methods learn anew for every pair of LoRAs, on the pictures of both concepts."""

from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods.added import Factors, Now, put, take_off
from benchmarks.pairs.methods.lora import Task, encoded, identity_of, plain
from benchmarks.pairs.methods.ready import digest_of, kept
from training.loop import Batch, batches
from training.stages import BOTH, Part, Stage


def fit(
    name: str,
    pipe: DiffusionPipeline,
    cell: Cell,
    seed: int,
    changes: dict,
    loras: tuple[Factors, Factors],
    deltas: dict[str, nn.Module],
    settings: SimpleNamespace,
    loss: Callable[[Batch, Batch], Tensor],
    now: Now,
) -> None:
    """Leave deltas of modules with what they have learned, by Adam at a constant rate.

    Args:
        name: of the method.
        loras: of content and style, that the deltas are made of.
        deltas: layer name -> what is added to it, with the parameters that learn.
        settings: steps and lr of it, and whatever else decides what is learned.
        loss: of a batch of the content and one of the style, each half a batch, with the deltas on.
        now: where the deltas look.
    """
    config = plain({"content": cell.content, "style": cell.style}, seed, changes)
    concepts = encoded(pipe, config)
    each = max(1, config.steps.batch_size // 2)
    parts = tuple(Part(kind, each, BOTH) for kind in BOTH)
    stage = Stage(name, 0, settings.steps, parts, dict.fromkeys(BOTH, settings.lr))
    learned = {f"{layer}.{key}": p for layer, delta in deltas.items() for key, p in delta.named_parameters()}
    task = Task(config, pipe, concepts, list(learned.values()))

    def learn() -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(task.learned, lr=settings.lr)
        put(pipe.unet, deltas, now)
        try:
            for k in range(settings.steps):
                optimizer.zero_grad()
                for pair in zip(*(batches(task, stage, part, k) for part in parts), strict=True):
                    (loss(*pair) / config.steps.accumulation).backward()
                optimizer.step()
        finally:
            take_off(pipe.unet)
        return learned

    given = {
        f"{i} {layer} {j}": t
        for i, lora in enumerate(loras)
        for layer, pair in lora.items()
        for j, t in enumerate(pair)
    }
    identity = identity_of(pipe, config, concepts, digest_of(given), asdict(stage), vars(settings))
    found = kept(f"{name} {config.name}", identity, learn)
    for key, parameter in learned.items():
        parameter.requires_grad_(False).copy_(found[key])
