"""A second reference, for every family: the formulas in float64 at the door of the scheduler.

A stock pipeline runs as it is. What its denoisers return is noted, and at each `scheduler.step` the guided output is
replaced by the one that the formulas give for the noted halves: x is the latent that the scheduler holds, x0 what the
scheduler makes of it. Which half is which, and the sign, are not looked up anywhere: they are the ones with which the
stock formula gives what the pipeline hands to the scheduler. No code is shared with `pipelines`.
"""

import functools
import inspect
from contextlib import contextmanager

import torch

from tests.pipelines.reference import apg_direction, own_denoised

RULE = {"eta": 0.2, "norm_threshold": 0.3, "momentum": -0.5}


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far a is from b, relative to b."""
    return float((a - b).norm() / b.norm())


class Sampler:
    """Patches one call of a stock pipeline.

    Args:
        w: guidance scale of the paper.
        added: other terms join the result of guidance (perturbed attention, skipped layers): they are kept.
        renormalised: the pipeline scales each token's result; that is undone.
    """

    def __init__(self, pipe, w, eta, norm_threshold, momentum, added=False, renormalised=False):
        self.pipe, self.w, self.rule = pipe, w, (eta, norm_threshold, momentum)
        self.added, self.renormalised = added, renormalised
        self.outputs, self.running, self.layouts = [], {}, set()

    @contextmanager
    def at_work(self, denoisers):
        hooks = [module.register_forward_hook(self._note, with_kwargs=True) for module in denoisers]
        scheduler = self.pipe.scheduler
        step = scheduler.step
        signature = inspect.signature(step)

        @functools.wraps(step)
        def guided_step(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments["model_output"]
            timestep = bound.arguments["timestep"]
            replaced = self._guided(given.double(), timestep, bound.arguments["sample"].double())
            self.outputs.clear()
            bound.arguments["model_output"] = replaced.to(given.dtype)
            return step(*bound.args, **bound.kwargs)

        scheduler.step = guided_step
        try:
            yield self
        finally:
            del scheduler.step
            for hook in hooks:
                hook.remove()

    def _note(self, module, args, kwargs, output):
        if kwargs.get("skip_layers") is None:
            raw = output[0]
            self.outputs.append((torch.stack(list(raw)) if isinstance(raw, list) else raw).double().clone())

    def _guided(self, given, timestep, sample):
        rows = len(sample)
        halves = [part for output in self.outputs for part in output.split(rows)]
        inner = tuple(slice(size) for size in sample.shape)
        halves = [half.squeeze(2) if half.ndim > sample.ndim else half for half in halves]
        halves = [half[inner] for half in halves]
        if len(halves) == 1:  # the pipeline leaves guidance out of this step
            return given
        plain, rest = given[inner], given[:, sample.shape[1] :]
        candidates = [
            (sign, first, sign * (halves[1 - first] + self.w * (halves[first] - halves[1 - first])))
            for sign in (1, -1)
            for first in (0, 1)
        ]
        misses = [self._miss(plain, stock) for _, _, stock in candidates]
        best = min(range(4), key=misses.__getitem__)
        assert self.added or misses[best] < 1e-3, f"what the stock pipeline computes is not understood: {misses}"
        assert sorted(misses)[1] > 2 * misses[best] + 1e-6
        sign, first, stock = candidates[best]
        self.layouts.add((sign, first))
        conditional, unconditional = sign * halves[first], sign * halves[1 - first]
        x0 = own_denoised(self.pipe.scheduler, conditional, timestep, sample)
        x0_negative = own_denoised(self.pipe.scheduler, unconditional, timestep, sample)
        slope = (own_denoised(self.pipe.scheduler, conditional + 1, timestep, sample) - x0).mean()
        direction = torch.empty_like(x0)
        for i in range(rows):
            running, before = self.running.get(i, (torch.zeros_like(x0[i]),) * 2)
            if getattr(self.pipe.scheduler, "state_in_first_order", True):
                direction[i], moved = apg_direction(x0[i], x0_negative[i], running, *self.rule)
                self.running[i] = moved, running
            else:  # the second evaluation of a step starts where the first one did
                direction[i], _ = apg_direction(x0[i], x0_negative[i], before, *self.rule)
        result = conditional + (self.w - 1) * direction / slope
        if self.added:
            result = result + plain - stock
        return torch.cat([result, rest], dim=1) if given.shape != sample.shape else result

    def _miss(self, given, stock):
        if self.renormalised:
            given, stock = (torch.nn.functional.normalize(x, dim=-1) for x in (given, stock))
        return float((given - stock).norm() / given.norm())
