"""The loop that makes each part of the base: resumable at any step, one status line, sheets as it goes."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.errors import UserError
from training import checkpoint
from training.model import device
from training.optimizers.state import flatten_state, load_state
from training.run import Run

WARM_UP = 20  # steps
FLOOR = 0.003  # share of the learning rate at the end
CLIP = 1.0  # of the gradient's norm
SHOWN_EVERY = 25  # steps, where no person watches


@dataclass(frozen=True)
class Schedule:
    """How long a part is trained, and how fast it learns over that time."""

    steps: int
    batch: int
    hold: float = 0.3  # share of the steps at the full rate, before half a cosine
    average: float = 0.997  # of the weights, over steps
    save_every: int = 200  # steps between checkpoints
    sheet_every: int = 500  # steps between sample sheets

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        held = self.hold * self.steps
        past = max(0.0, step - held) / max(1.0, self.steps - held)
        return min(1.0, (step + 1) / WARM_UP) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * past)))


def train(
    name: str,
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[int], Tensor],
    schedule: Schedule,
    pictures: int,
    identity: str,
    sheet: Callable[[Path], None] | None = None,
    stop_after: float = math.inf,
) -> bool:
    """Train a model, which ends with its averaged weights; the same call again goes on where the last one ended.

    Args:
        folder: of this part's checkpoints, `metrics.jsonl` and sheets.
        optimizer: each group's rate is the one at the schedule's height.
        loss: of a step; draws what it needs from generators that are functions of (seed, step).
        pictures: how many there are to learn from, for the number of passes.
        identity: what a checkpoint must have been made from to be gone on with.
        sheet: writes a picture of what the averaged weights can do by now.
        stop_after: seconds after which to leave off, with a checkpoint; one step is made in any case.
    Returns:
        whether it is finished.
    Raises:
        UserError: the folder holds another recipe's checkpoints, or the loss is no number any more.
    """
    run, started = Run(folder), time.monotonic()
    run.samples.mkdir(parents=True, exist_ok=True)

    def accept(numbers: dict) -> None:
        if numbers.get("identity") != identity:
            raise UserError(
                f"{folder} holds a part that was begun with other settings or pictures",
                "Remove that folder to start anew",
            )

    step, average = 0, {key: value.detach().clone() for key, value in model.state_dict().items()}
    rates = [group["lr"] for group in optimizer.param_groups]
    if saved := checkpoint.read_last(run.checkpoints, accept):
        step = saved.step
        model.load_state_dict(checkpoint.under(saved.tensors, "model."))
        average = {key: value.to(device()) for key, value in checkpoint.under(saved.tensors, "average.").items()}
        load_state(optimizer, checkpoint.under(saved.tensors, "optimizer."), saved.numbers["optimizer"])
    run.rewind_metrics(step)
    last_saved, first = step if saved else -1, step

    def save() -> None:
        nonlocal last_saved
        if step == last_saved:
            return
        moments, numbers = flatten_state(optimizer)
        tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in average.items()}
        tensors |= {f"optimizer.{key}": value for key, value in moments.items()}
        numbers = {"identity": identity, "optimizer": numbers}
        checkpoint.write(run.checkpoints, checkpoint.Checkpoint(step, tensors, numbers))
        last_saved = step

    while step < schedule.steps:
        if step > first and time.monotonic() - started > stop_after:
            save()
            return False
        began = time.monotonic()

        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.rate(step)
        optimizer.zero_grad()
        found = loss(step)
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        kept = min(schedule.average, step / (step + 10))  # the first weights are forgotten soon
        with torch.no_grad():
            for key, weight in model.state_dict().items():
                if weight.is_floating_point():
                    average[key].lerp_(weight, 1 - kept)
                else:
                    average[key].copy_(weight)

        if not math.isfinite(value := found.item()):
            raise UserError(
                f"The loss of {name} at step {step} is {value}", "Lower the recipe's rate and remove its folder"
            )
        taken = time.monotonic() - began
        left = (time.monotonic() - started) / (step - first) * (schedule.steps - step)
        run.append_metrics(step=step, loss=value, seconds_per_step=taken)
        _show(name, step, schedule, taken, value, pictures, left)
        if step % schedule.save_every == 0 or step == schedule.steps:
            save()
        if sheet and (step % schedule.sheet_every == 0 or step == schedule.steps):
            with _swapped(model, average):
                sheet(run.samples / f"step-{step:06d}.png")
    model.load_state_dict(average)
    model.eval()
    return True


class _swapped:
    """The model with other weights, in evaluation, for a while."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]):
        self.model, self.weights = model, weights

    def __enter__(self) -> None:
        self.own = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights)
        self.model.eval()

    def __exit__(self, *error: object) -> None:
        self.model.load_state_dict(self.own)
        self.model.train()


def _show(name: str, step: int, schedule: Schedule, taken: float, loss: float, pictures: int, left: float) -> None:
    minutes, seconds = divmod(round(left), 60)
    line = (
        f"{name:<11} step {step}/{schedule.steps}  {taken:.2f} s/step  {schedule.batch / taken:.0f} pictures/s  "
        f"loss {loss:.4f}  {step * schedule.batch / pictures:.1f} passes  {minutes}:{seconds:02d} left"
    )
    # One line that renews itself where a person watches, a line now and then in a log file.
    if sys.stdout.isatty():
        print(f"\r{line:<100}", end="\n" if step == schedule.steps else "", flush=True)
    elif step % SHOWN_EVERY == 0 or step == schedule.steps:
        print(line, flush=True)
