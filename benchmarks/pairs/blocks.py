"""Which attention block holds the content and which the style: python -m benchmarks.pairs.blocks

As in B-LoRA (arXiv 2403.14572, section 4.1): one block is given another prompt than all others, and a judge says whose
content and whose style the picture shows. Where the authors have pairs of objects, and colours for styles, here both
prompts name a content and a style that the base knows, and the two differ in both. Writes results/blocks.json.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor

from benchmarks.common.drawing import CAPTION, both_judges, rounded, tensor
from benchmarks.common.environment import environment
from benchmarks.pairs.methods.b_lora import BLOCKS
from benchmarks.pairs.methods.prompted import unasked
from benchmarks.pairs.methods.ready import opened
from benchmarks.pairs.score import GUIDANCE, STEPS
from pipelines.adapters import fingerprint
from training import sheet
from training.base import data
from training.base.data import Pair
from training.draws import keyed
from training.model import encode_prompts

COUNT, BATCH = 48, 16
CHOOSES = "judge"  # the second confirms


def blocks_of(pipe: DiffusionPipeline) -> list[str]:
    """The names of the attention blocks of a denoiser, in the order of the network."""
    return [name for name, module in pipe.unet.named_modules() if isinstance(module, Transformer2DModel)]


def prompts(count: int = COUNT) -> tuple[list[Pair], list[Pair]]:
    """Known pairs, and for each another that has neither its content nor its style."""
    known = data.known_pairs(data.load())
    order = torch.randperm(len(known), generator=keyed("blocks")).tolist()
    first, second = [], []
    for i in order:
        other = next(p for p in (known[j] for j in order[len(first) + 1 :]) if not {*p} & {*known[i]})
        first.append(known[i])
        second.append(other)
        if len(first) == count:
            break
    return first, second


@contextmanager
def injected(pipe: DiffusionPipeline, block: str, texts: list[str], resolution: int) -> Iterator[None]:
    """Within, a block is told these texts, one for each picture, where all others are told the prompt."""
    which = unasked(pipe, resolution)
    theirs = encode_prompts(pipe, texts, resolution)["encoder_hidden_states"]

    def tell(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        states = kwargs["encoder_hidden_states"].clone()
        states[~which(states)] = theirs.to(states)
        return args, kwargs | {"encoder_hidden_states": states}

    handle = pipe.unet.get_submodule(block).register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def draw(pipe: DiffusionPipeline, block: str, pairs: list[Pair], others: list[Pair], resolution: int) -> Tensor:
    """uint8 (n, size, size, 3), picture i from seed i: `pairs`, but for a block that is told `others`."""
    found = []
    for first in range(0, len(pairs), BATCH):
        some = slice(first, first + BATCH)
        texts, theirs = ([CAPTION.format(*pair) for pair in part[some]] for part in (pairs, others))
        seeds = tuple(range(first, first + len(texts)))
        with injected(pipe, block, theirs, resolution):
            found.append(tensor(sheet.draw(pipe, texts, seeds, resolution, GUIDANCE, STEPS)))
    return torch.cat(found)


def chosen(shares: dict[str, dict[str, float]]) -> dict[str, str]:
    """The block that moves the content most, and of the others the one that moves the style most."""
    content = max(shares, key=lambda block: shares[block]["content"])
    style = max((block for block in shares if block != content), key=lambda block: shares[block]["style"])
    return {"content": content, "style": style}


def main() -> None:
    torch.set_num_threads(1)
    pipe = opened({})
    pairs, others = prompts()
    judges = both_judges()
    found: dict = {name: {} for name in judges}
    for block in blocks_of(pipe):
        pixels = draw(pipe, block, pairs, others, data.SIZE)
        for name, judge in judges.items():
            said = judge.says(pixels, data.SPLIT["styles"], data.SPLIT["contents"])
            found[name][block] = {
                kind: sum(one[i] == other[i] for one, other in zip(said, others, strict=True)) / len(others)
                for i, kind in enumerate(("content", "style"))
            }
        print(block, {name: shares[block] for name, shares in found.items()}, flush=True)
    row = {"model": fingerprint(pipe.unet)[:12], "pictures": COUNT, "chosen": chosen(found[CHOOSES]), **found}
    BLOCKS.write_text(json.dumps(environment() | rounded(row), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
