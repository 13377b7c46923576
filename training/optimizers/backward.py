"""The optimizer's step inside the backward pass, so that only one weight's gradient exists at a time."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import UserError


class StepInBackward:
    """Updates each weight as soon as its gradient is complete, and frees the gradient.

    `loss.backward()` then is the whole step; the results are the optimizer's own. Whatever needs all gradients at once
    cannot work so and is refused.

    Args:
        optimizer: one that treats its parameters independently, with all parameters added.
        accumulation_steps, losses, scaler, max_grad_norm: of the training loop; only 1, 1, None and None will do.
    Raises:
        UserError: the loop needs all gradients at once.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulation_steps: int = 1,
        losses: int = 1,
        scaler: Any = None,
        max_grad_norm: float | None = None,
    ):
        if accumulation_steps != 1:
            why, remedy = f"accumulation over {accumulation_steps} batches keeps every gradient", "Use a larger batch"
        elif losses != 1:
            why, remedy = f"each of the step's {losses} losses would move the weights by itself", "Add them up"
        elif scaler is not None:
            why, remedy = "a gradient scaler must see every gradient before the first update", "Train in bf16"
        elif max_grad_norm is not None:
            why, remedy = "clipping by the global norm needs every gradient at once", "Leave it out"
        else:
            why = ""
        if why:
            raise UserError(f"The step cannot be taken in the backward pass: {why}", f"{remedy}, or step after it")
        self.optimizer, self._handles = optimizer, []
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

    def _step_of(self, index: int):
        def step(parameter: Tensor) -> None:
            groups = self.optimizer.param_groups
            self.optimizer.param_groups = [{**groups[index], "params": [parameter]}]
            try:
                self.optimizer.step()
            finally:
                self.optimizer.param_groups = groups
            parameter.grad = None

        return step
