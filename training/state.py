"""What a run is after any step. All else about it is a function of its customization and the step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import UserError
from training import checkpoint
from training.adapters import Adapter
from training.checkpoint import Checkpoint
from training.optimizers.backward import StepInBackward
from training.optimizers.outlier import OutlierLayerSampler
from training.optimizers.state import flatten_state, load_state
from training.stages import BOTH, Stage


@dataclass
class State:
    """The steps that are done, and what they have left."""

    step: int = 0
    done: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # concept -> what its last stage ended with
    # Of the stage that is being trained.
    optimizer: Optimizer | None = None
    sampler: OutlierLayerSampler | None = None  # of blocks
    in_backward: StepInBackward | None = None  # where the optimizer steps inside the backward pass
    # Between the run and its folder.
    last_saved: int | None = None
    resumed: Checkpoint | None = None  # where this start took the run up

    @classmethod
    def of(cls, saved: Checkpoint | None, taken: dict[str, dict[str, Tensor]]) -> Self:
        """The state to begin with: a checkpoint's, whose stage `resume` takes up, or that of a new run.

        Args:
            taken: concept -> what finished runs have learned.
        """
        if saved is None:
            return cls(done=dict(taken))
        found = {concept: checkpoint.under(saved.tensors, f"done.{concept}.") for concept in BOTH}
        done = {concept: learned for concept, learned in found.items() if learned}
        return cls(saved.step, done, last_saved=saved.step, resumed=saved)

    def load_adapter(self, stage: Stage, adapter: Adapter) -> None:
        """Put on what a stage starts from, or what it had learned where this start took it up."""
        for concept in BOTH:
            if self.step > stage.first:
                assert self.resumed is not None
                adapter.load(concept, checkpoint.under(self.resumed.tensors, f"half.{concept}."))
            elif stage.joins:
                adapter.load(concept, self.done[concept])
            else:
                started = self.done.get(concept) if concept in stage.teaches else None  # learned on from a finished run
                adapter.load(concept, (started or adapter.fresh()) if concept in stage.rates else None)

    def load_optimizer(self, stage: Stage) -> None:
        """Put the moments back where this start took the stage up, and the blocks that were learning."""
        if self.step > stage.first:
            assert self.resumed is not None and self.optimizer is not None
            numbers = self.resumed.numbers
            load_state(self.optimizer, checkpoint.under(self.resumed.tensors, "optimizer."), numbers["optimizer"])
            if self.sampler:
                self.sampler.load_state_dict(numbers["sampler"])
        self.resumed = None  # and free it

    def save(self, folder: Path, adapter: Adapter, identity: str) -> None:
        """Write a checkpoint of this step, unless there is one.

        Args:
            identity: of everything that decides the run, by which a later start knows its own.
        Raises:
            UserError: something that was learned is not a finite number; then the checkpoints stay as they are.
        """
        if self.step == self.last_saved:
            return
        check_finite({concept: adapter.learned(concept) for concept in BOTH}, self.step)
        tensors = {f"half.{c}.{name}": value for c in BOTH for name, value in adapter.learned(c).items()}
        tensors |= {f"done.{c}.{name}": value for c, learned in self.done.items() for name, value in learned.items()}
        assert self.optimizer is not None
        moments, numbers = flatten_state(self.optimizer)
        tensors |= {f"optimizer.{key}": value for key, value in moments.items()}
        drawn = self.sampler.state_dict() if self.sampler else None
        kept = {"identity": identity, "optimizer": numbers, "sampler": drawn}
        checkpoint.write(folder, Checkpoint(self.step, tensors, kept))
        self.last_saved = self.step


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number of floating-point tensors is infinite or not a number. One look at the GPU for all of them."""
    tensors = list(tensors)
    return not tensors or bool(torch.stack(torch._foreach_norm(tensors, float("inf"))).isfinite().all())


def check_finite(learned: dict[str, dict[str, Tensor]], step: int | None = None) -> None:
    """Refuse to keep what is no number.

    Args:
        learned: concept -> name -> tensor.
    """
    for concept, tensors in learned.items():
        for name, tensor in tensors.items() if not all_finite(tensors.values()) else ():
            if not all_finite([tensor]):
                raise UserError(
                    f"What the {concept} has learned in {name} is not finite" + (f" at step {step}" if step else ""),
                    "Lower optimizer.lr and start a new run; the last checkpoint is good",
                )
