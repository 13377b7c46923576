"""What fitting a preset to a memory does, in words, and which memory this machine has."""

import functools
import shutil
import subprocess
import sys

from training import Customization
from training.config import HOUSE, PRESETS
from training.memory import BUDGETS, ROWS


def choices(preset: str, method: str, found: int | str | None = None) -> list[tuple[str, int | str]]:
    """The words and the value of each memory that a preset can be fitted to.

    Args:
        method: of learning, which takes the memory.
        found: the one that this machine has.
    """
    every: list[tuple[str, int | str]] = [("As the preset has it", ""), ("What this machine has", "auto")]
    for budget in BUDGETS:
        mark = " (this machine: recommended)" if budget == found and (preset, method, budget) in ROWS else ""
        every.append((f"{_name(budget)}: {_words(preset, method, budget)}{mark}", budget))
    return every


@functools.cache
def found() -> int | str | None:
    """The memory that "auto" stands for here; None where it is less than the smallest.

    A child process asks PyTorch, which the studio opens without.
    """
    if not shutil.which("nvidia-smi"):
        return "cpu"
    asked = "from training.memory import found_budget; print(found_budget())"
    said = subprocess.run([sys.executable, "-c", asked], cwd=HOUSE, capture_output=True, text=True).stdout.strip()
    return int(said) if said.isdecimal() else said or None


def _name(budget: int | str) -> str:
    return "No GPU" if budget == "cpu" else f"{budget} GB"


def _words(preset: str, method: str, budget: int | str) -> str:
    """For example "bf16, checkpointing, batch 2 x 2, rank 32, 512 px"; the size only where it is not the base's own."""
    if preset == "emoji":
        return "as it is, since it fits anywhere"
    if (preset, method, budget) not in ROWS:
        return "not measured yet"
    precision, checkpointing, batch, accumulation, rank, resolution, _ = ROWS[preset, method, budget]
    own = PRESETS[preset].get("resolution", Customization.model_fields["resolution"].default)
    words = [precision, "checkpointing" * checkpointing, f"batch {batch}" + f" x {accumulation}" * (accumulation > 1)]
    return ", ".join(filter(None, [*words, f"rank {rank}", f"{resolution} px" * (resolution != own)]))
