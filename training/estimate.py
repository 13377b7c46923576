"""What a customization will take in memory, disk and time: from formulas, and from the first steps of each stage."""

import json
import os
import re
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from training import checkpoint
from training.config import Customization
from training.families import FAMILIES
from training.loop import customize
from training.optimizers.outlier import active_of
from training.optimizers.size import state_bytes
from training.plan import SCALES, plan
from training.run import Run, runs_folder
from training.stages import BOTH

PROBE = 5  # steps of each stage; the first is left out of the pace, since it warms up


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds of a whole run."""

    learned: int  # numbers that learn, of both concepts
    optimizer: int  # bytes, in the stage that keeps most
    peak: int  # bytes of GPU memory, or of this process where there is no GPU
    disk: int  # bytes in the run's folder at most
    stages: dict[str, tuple[int, float]]  # steps, and seconds of one
    sampling: float  # seconds for the strips and the sheet
    device: str
    has: int  # bytes of the GPU's memory; 0 where there is none

    @property
    def seconds(self) -> float:
        return self.sampling + sum(steps * pace for steps, pace in self.stages.values())

    def as_json(self) -> str:
        """On one line, for a program."""
        return json.dumps(asdict(self) | {"seconds": self.seconds})

    def __str__(self) -> str:
        clock = f"{int(self.seconds) // 60}:{int(self.seconds) % 60:02d}"
        paces = ", ".join(f"{name} {steps} x {pace:.2f} s" for name, (steps, pace) in self.stages.items())
        rows = {
            "Learned": f"{self.learned / 1e6:.2f} M numbers",
            "Optimizer": f"{self.optimizer / 2**20:.1f} MB",
            "Memory": f"{self.peak / 2**20:.0f} MB at the peak, on {self.device}",
            "Disk": f"{self.disk / 2**20:.0f} MB at most in the run's folder",
            "Time": f"{clock} min ({paces}, pictures {self.sampling:.0f} s)",
        }
        return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


def estimate(config: Customization) -> Estimate:
    """Do the first steps of each stage in a folder that goes away, and say what the whole run takes.

    Raises:
        UserError: what `customize` would say, or the first steps do not fit into memory.
    """
    steps = config.steps.model_copy(
        update={"break_": PROBE, "make": PROBE if config.steps.make else 0, "checkpoint_every": 100_000}
    )
    concepts = {name: concept.model_copy(update={"steps": 0}) for name, concept in config.concepts.items()}
    probe = config.model_copy(update={"steps": steps} | concepts)
    stages = plan(probe)
    last = sum(stage.steps for stage in stages) - 1  # the last step would end in an export
    # One strip, with few inference steps: it takes the memory of any other, and its time is proportional.
    probe.samples = config.samples.model_copy(update={"every": last if config.samples.every else 0})
    probe.samples.inference_steps = min(2, config.samples.inference_steps)
    paces: dict[str, list[float]] = {}
    pauses: list[float] = [0.0]  # between the end of a step and the start of the next
    ended = None

    def progress(entry: dict) -> None:
        nonlocal ended
        paces.setdefault(entry["stage"], []).append(entry["seconds_per_step"])
        ended = time.monotonic()

    def should_stop() -> bool:
        if ended is not None:
            pauses.append(time.monotonic() - ended)
        # It is asked within the strip's drawing too, which is to come to its end.
        return sum(map(len, paces.values())) == last and (not probe.samples.every or any(run.samples.glob("*.png")))

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    run = Run(runs_folder().parent / "estimates" / str(os.getpid()))
    clean(run.folder.parent)
    try:
        customize(probe, run.folder, progress, should_stop)
        state = checkpoint.read_last(run.checkpoints)
        saved, cached = _size(run.checkpoints), _size(run.cache)
    finally:
        clean(run.folder.parent)
    assert state is not None  # it learned until it was stopped
    # Of a concept that is not on, what its stage ended with is kept beside the one that learns.
    learned = {c: _first(state.tensors, f"half.{c}.", f"done.{c}.") for c in BOTH}
    numbers = sum(tensor.numel() for tensors in learned.values() for tensor in tensors.values())
    sampled = _sampled_rows(config) * (pauses[-1] if probe.samples.every else 0.0)
    return Estimate(
        learned=numbers,
        optimizer=max(_optimizer_bytes(config, [learned[c] for c in stage.rates]) for stage in stages),
        peak=_peak(),
        disk=saved * (checkpoint.KEEP + 1) + cached + 4 * numbers * (1 + _kept(config)),
        stages={
            stage.name: (stage.steps, statistics.median(paces[stage.name][1:] or paces[stage.name]))
            for stage in plan(config)
            if stage.steps
        },
        sampling=sampled * config.samples.inference_steps / probe.samples.inference_steps,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU",
        has=torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        if torch.cuda.is_available()
        else 0,
    )


def clean(folder: Path) -> None:
    """Remove the estimates that nobody works on: this one's, and those that were killed."""
    for path in folder.glob("[0-9]*"):
        if not Run(path).written:
            shutil.rmtree(path, ignore_errors=True)
            Run(path).forget_lock()


def _first(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """The tensors under the first prefix that has any."""
    return next((found for prefix in prefixes if (found := checkpoint.under(tensors, prefix))), {})


def _kept(config: Customization) -> int:
    """Adapters that are kept beside the last one."""
    steps, every = sum(stage.steps for stage in plan(config)), config.steps.checkpoint_every * config.steps.keep_every
    return (steps - 1) // every if every else 0


def _sampled_rows(config: Customization) -> float:
    """How often a row of pictures is drawn in the whole run, in units of what the probe's strip draws."""
    changed = {"content": 1, "style": 2, "make": len(SCALES) - 1}
    rows, every = len(SCALES), config.samples.every
    for stage in plan(config):
        strips = (stage.first + stage.steps) // every - stage.first // every if every else 0
        rows += strips * changed[stage.name]
    return rows / len(SCALES)


def _optimizer_bytes(config: Customization, concepts: list[dict[str, Tensor]]) -> int:
    own = config.optimizer
    known = {key: value for key, value in own.own_settings().items() if key in ("rank", "bits", "side")}
    lists = "|".join((*FAMILIES[config.recognised_base().family].blocks, "resnets"))
    blocks: dict[str, int] = {}
    for concept in concepts:
        for name, weight in concept.items():
            block = re.match(rf".*({lists})\.\d+", name)
            place = block.group() if block else name
            blocks[place] = blocks.get(place, 0) + state_bytes(own.name, tuple(weight.shape), **known)
    if own.name == "owlore":  # the largest blocks that can be drawn together
        return sum(sorted(blocks.values())[-(own.active or active_of(len(blocks))) :])
    return sum(blocks.values())


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    # Linux counts in kilobytes, macOS in bytes.
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if psutil.MACOS else 1024)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
