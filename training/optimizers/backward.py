"""The optimizer's step inside the backward pass, so that only one weight's gradient exists at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import UserError


class StepInBackward:
    """Updates each weight as soon as its gradient is complete, and frees the gradient.

    `loss.backward()` then is the whole step; the results are the optimizer's own. What needs all gradients at once
    cannot work so: accumulation over batches, clipping by the global norm, a gradient scaler.

    Args:
        optimizer: one that treats its parameters independently, with all parameters added.
        losses: backward passes of a step; only 1 will do.
    Raises:
        UserError: a step has several losses.
    """

    def __init__(self, optimizer: Optimizer, losses: int = 1):
        if losses != 1:
            raise UserError(
                f"The step cannot be taken in the backward pass: each of its {losses} losses would move the weights",
                "Add them up, or step after it",
            )
        self.optimizer, self._handles = optimizer, []
        self._largest: Tensor | None = None
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                frozen = not parameter.requires_grad  # it may learn later: a layer sampler switches it
                parameter.requires_grad_(True)
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._step_of(index)))
                parameter.requires_grad_(not frozen)

    def remove(self) -> None:
        """Give the steps back to the training loop."""
        for handle in self._handles:
            handle.remove()

    def largest(self) -> Tensor | None:
        """The largest element of all gradients since this was asked last, not finite if one of them was not."""
        found, self._largest = self._largest, None
        return found

    def _step_of(self, index: int) -> Callable[[Tensor], None]:
        def step(parameter: Tensor) -> None:
            largest = torch.linalg.vector_norm(parameter.grad, torch.inf)
            self._largest = largest if self._largest is None else torch.maximum(self._largest.to(largest), largest)
            groups = self.optimizer.param_groups
            self.optimizer.param_groups = [{**groups[index], "params": [parameter]}]
            try:
                self.optimizer.step()
            finally:
                self.optimizer.param_groups = groups
            parameter.grad = None

        return step
