"""What a guidance rule costs a step: python -m benchmarks.sampling.cost [--device cuda] [--only NAME ...] [--missing]

The embedded base and denoisers with random weights (denoisers.py), eager and compiled, one picture and four at a time.
Seconds are those of the pipeline's whole step, from the end of the first to the end of the last. The contestants take
turns, a call each, so that whatever else the machine does strikes all alike; a round's ratio is to the stock class in
the same round. Memory is the peak of one call: as PyTorch's allocator counts it on a GPU, by storages that live
(`live.LiveBytes`) on a CPU.

Each row is written to results/cost.json once it is measured; those that are not named stay as they are, and so
`--missing` goes on where it was stopped. Then `python -m benchmarks.sampling.tables` writes the document's tables.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from benchmarks.common.environment import environment
from benchmarks.optimizers.live import LiveBytes
from benchmarks.sampling.denoisers import MODELS
from pipelines import APG, CFG, FDG, TCFG, CFGRescale, CFGZeroStar, guided
from pipelines.hook import Hook
from training import checkpoint

RESULT = Path(__file__).parent / "results/cost.json"
INTERVAL, QUARTER = (0.25, 0.75), (0.25, 0.5)
OTHERS = (CFGRescale(), CFGZeroStar(), TCFG(), FDG())
LONG_TO_COMPILE = ("SD 1.5", "SDXL")  # on a CPU: minutes for each of four graphs
HOOKED = 3  # calls in which the hook's own time is taken


@dataclass(frozen=True)
class Row:
    """What is measured together.

    Args:
        device: "cpu" or "gpu".
        kind: "eager" or "compiled"; "other rules" are eager, and beside the smallest network, where they weigh most.
    """

    device: str
    model: str
    kind: str
    batch: int

    @property
    def title(self) -> str:
        return f"{self.model}, {self.kind}, batch {self.batch}, {self.device}"

    def contestants(self) -> dict[str, dict]:
        """Name -> what is particular to its calls; those with no `guidance` are the stock class's."""
        if self.kind == "other rules":
            rules = {type(rule).__name__: rule for rule in OTHERS}
        else:
            preset = APG.preset(MODELS[self.model].preset)
            rules = {"CFG": CFG(), "APG": preset, "APG, interval": replace(preset, interval=INTERVAL)}
            rules["APG, quarter"] = replace(preset, interval=QUARTER)
        unguided = {MODELS[self.model].scale: 1.0}
        return {"stock": {}, "unguided": unguided} | {name: {"guidance": rule} for name, rule in rules.items()}


ROWS = [
    Row(device, model, kind, batch)
    for device in ("cpu", "gpu")
    for model in MODELS
    for kind in ("eager", "compiled", "other rules")
    for batch in (1, 4)
    if (kind != "other rules" or model == "emoji")
    and not (device == "cpu" and kind == "compiled" and model in LONG_TO_COMPILE)
]


class Calls:
    """A row's pipelines, the stock class and ours around one denoiser, and how they are called."""

    def __init__(self, row: Row, device: str, steps: int):
        model, self.device, self.steps = MODELS[row.model], device, steps
        parts, stock = model.parts(device), getattr(diffusers, model.stock)
        network = parts[model.attribute]
        self.pipes = {}
        for ours in (False, True):
            own = {"scheduler": copy.deepcopy(parts["scheduler"])}
            # As a user has it: `from_pretrained` knows of the checker's absence.
            extra = {"requires_safety_checker": False} if "safety_checker" in parts else {}
            pipe = (guided(stock) if ours else stock)(**parts | own | extra)
            pipe.set_progress_bar_config(disable=True)
            self.pipes[ours] = pipe
        if row.kind == "compiled":
            torch._dynamo.reset()
            compiled = torch.compile(network, dynamic=False)
            for pipe in self.pipes.values():
                setattr(pipe, model.attribute, compiled)
        self.inputs = model.inputs(row.batch, device, next(network.parameters()).dtype)
        self.latent = row.batch * int(np.prod(self.call()[0].shape)) * 4  # bytes in float32

    def synchronize(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def call(self, **changes: Any) -> Any:
        """Latents of one call, whose first step is not timed."""
        pipe = self.pipes["guidance" in changes]
        generator = torch.Generator().manual_seed(0)
        steps = {"num_inference_steps": self.steps + 1, "generator": generator}
        return pipe(**self.inputs | steps | changes).images

    def seconds(self, **changes: Any) -> float:
        """Of a step, a mean over one call's."""
        stamps = []

        def stamp(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
            if step in (0, self.steps):
                self.synchronize()
                stamps.append(time.perf_counter())
            return {}

        self.call(callback_on_step_end=stamp, **changes)
        return (stamps[1] - stamps[0]) / self.steps

    def peak(self, **changes: Any) -> int:
        """Bytes at the worst moment of a call."""
        if self.device == "cpu":
            with LiveBytes() as live:
                self.call(**changes)
            return live.peak
        torch.cuda.reset_peak_memory_stats()
        self.call(**changes)
        return torch.cuda.max_memory_allocated()

    def within(self, **changes: Any) -> float:
        """Seconds of a step that pass in the rule's hook, a mean over one call's."""
        spent = []

        def watched(method: Callable) -> Callable:
            def watch(*args: Any) -> Any:
                began = time.perf_counter()
                try:
                    return method(*args)
                finally:
                    spent.append(time.perf_counter() - began)

            return watch

        with hook_methods(watched):
            self.call(**changes)
        return float(np.reshape(spent, (self.steps + 1, -1))[1:].sum() / self.steps)


@contextmanager
def hook_methods(change: Callable) -> Iterator[None]:
    """Within, the hook's two methods are changed."""
    with (
        patch.object(Hook, "pre_forward", change(Hook.pre_forward)),
        patch.object(Hook, "post_forward", change(Hook.post_forward)),
    ):
        yield


def measure(row: Row, device: str, steps: int, rounds: int, seconds: float) -> dict:
    """A row of the result, of as many rounds as there is time for."""
    began = time.monotonic()
    calls, contestants = Calls(row, device, steps), row.contestants()
    for changes in contestants.values():  # the first calls choose kernels and compile
        calls.call(**changes)
    warm = time.monotonic()
    taken: dict[str, list[float]] = {who: [] for who in contestants}
    names = list(contestants)
    while len(taken["stock"]) < rounds and (not taken["stock"] or time.monotonic() - warm < seconds):
        first = len(taken["stock"]) % len(names)
        for who in names[first:] + names[:first]:
            taken[who].append(calls.seconds(**contestants[who]))
    model, on_cpu = MODELS[row.model], row.device == "cpu"
    found = environment() | {"device": "CPU" if on_cpu else torch.cuda.get_device_name()}
    found |= {"pixels": model.pixels[on_cpu], "text tokens": model.text[on_cpu]}
    found |= {"reduced": model.reduced if on_cpu else {}}
    found |= {"steps": steps, "rounds": len(taken["stock"]), "warm-up": warm - began}
    found["seconds"] = float(np.median(taken["stock"]))
    found["ratios"] = {who: ratio(taken[who], taken["stock"]) for who in names if who != "stock"}
    ours = {who: changes for who, changes in contestants.items() if "guidance" in changes}
    if row.kind != "compiled":
        stock = calls.peak()
        found["memory"] = {"latent": calls.latent, "stock": stock}
        found["memory"]["above stock"] = {who: calls.peak(**changes) - stock for who, changes in ours.items()}
    if on_cpu:  # on a GPU it would be the time to launch it
        found["hook"] = {
            who: float(np.median([calls.within(**changes) for _ in range(HOOKED)]))
            for who, changes in ours.items()
            if who != "CFG"  # which has none
        }
    return rounded(found)


def ratio(these: list[float], those: list[float], draws: int = 1000) -> list[float]:
    """The median ratio of paired times, and the middle 95 % of the medians of rounds drawn anew."""
    ratios, random = np.array(these) / np.array(those), np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (draws, len(ratios))), axis=1)
    return [float(x) for x in (np.median(ratios), *np.quantile(medians, (0.025, 0.975)))]


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def read() -> dict[str, dict]:
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=4, help="that are timed in a call; a multiple of four")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10, help="after which a row's rounds end")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the rows to measure")
    parser.add_argument("--missing", action="store_true", help="measure only what is not in the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kind = "cpu" if arguments.device == "cpu" else "gpu"
    for row in ROWS:
        wanted = row.device == kind and any(part in row.title for part in arguments.only)
        if not wanted or (arguments.missing and row.title in read()):
            continue
        found = measure(row, arguments.device, arguments.steps, arguments.rounds, arguments.seconds)
        checkpoint.write_bytes(RESULT, (json.dumps(read() | {row.title: found}, indent=1) + "\n").encode())
        print(row.title, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
