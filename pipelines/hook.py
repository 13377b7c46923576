"""A guidance rule at work on a stock pipeline, during one call of it.

The hook reads both branches of the denoiser's output, lets the rule find the direction U, and writes
o_u' = o_c - U / c_out into the unconditional branch: the stock formula o_u' + w (o_c - o_u') is then the rule's own
result, for every prediction type and every guidance scale w.

Where the pipeline works on that result afterwards, by rescaling or renormalising it against the conditional branch, the
hook writes the rule's result into both branches: the stock formula and what follows then leave it alone, and a limit
that the rule set holds.
"""

from collections.abc import Iterator, Sized
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from pipelines.call import answering, current, own_scheduler, running
from pipelines.denoised import check_schedule, coefficients, in_second_evaluation, step_index
from pipelines.errors import UserError
from pipelines.families import Family
from pipelines.guidance import GuidanceRule, GuidanceState

# Where diffusers' hooks that keep results of a batch from step to step come from.
CACHES = ("_cache", "pyramid_attention_broadcast")

Output: TypeAlias = tuple | BaseOutput  # of a denoiser


@contextmanager
def hooked(pipe: DiffusionPipeline, family: Family, rule: GuidanceRule, arguments: dict) -> Iterator["Hook | None"]:
    """Carry out the rule on the pipeline's denoisers while the block runs. Gives None where the stock call does it all.

    Args:
        arguments: of the call, by name.
    """
    may_skip = rule.interval != (0.0, 1.0) or rule.skip_above is not None
    if rule.is_stock and not may_skip and not rule.record:
        with own_scheduler(pipe.scheduler, has_rule=False), running(None):
            yield None
        return
    if family.sequential and not hasattr(pipe.scheduler, "step_index"):
        raise UserError(
            f"{type(pipe.scheduler).__name__} does not tell where it is in the schedule, and so not the branches apart",
            "Choose a scheduler of flows, such as FlowMatchEulerDiscreteScheduler",
        )
    if rule.uses_scale and arguments.get("use_dynamic_cfg"):
        raise UserError(
            f"use_dynamic_cfg sets each step's guidance scale too late for {type(rule).__name__}",
            "Leave use_dynamic_cfg out, or choose another rule",
        )
    hook = Hook(pipe, family, rule, arguments)
    # A compiled module has no truth value.
    denoisers = [module for name in family.denoisers if (module := getattr(pipe, name, None)) is not None]
    hook.keeps_batch = may_skip and any(_has_cache(module) for module in denoisers)
    with ExitStack() as stack:
        stack.enter_context(own_scheduler(pipe.scheduler, has_rule=True))
        for module in denoisers:
            stack.callback(module.register_forward_pre_hook(hook.pre_forward, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(hook.post_forward, with_kwargs=True).remove)
            if family.sequential and may_skip:
                stack.enter_context(answering(module))
        with running(hook):
            yield hook


def _has_cache(module: nn.Module) -> bool:
    registries: list[Any] = [part._diffusers_hook for part in module.modules() if hasattr(part, "_diffusers_hook")]
    return any(type(hook).__module__.endswith(CACHES) for registry in registries for hook in registry.hooks.values())


def see_progress(iterable: Sized | None, total: int | None) -> None:
    """Tell the hook of the call that runs here, if any, how many steps the pipeline is about to take."""
    if (hook := current.get()) is not None:
        check_schedule(hook.pipe.scheduler)
        order = getattr(hook.pipe.scheduler, "order", 1)
        if iterable is not None:
            hook.steps = len(iterable)
        elif total is not None:
            hook.steps = total * order - (order - 1)


def see_latents(latents: Tensor) -> None:
    """Tell the hook of the call that runs here, if any, which shape the latents have."""
    if (hook := current.get()) is not None:
        hook.shape = latents.shape


class Hook:
    """The rule's state and place in one call. Of a step's two evaluations, as Heun has them, the first moves it on."""

    def __init__(self, pipe: DiffusionPipeline, family: Family, rule: GuidanceRule, arguments: dict):
        self.pipe, self.family, self.rule, self.arguments = pipe, family, rule, arguments
        self.state = GuidanceState()
        self.shape: torch.Size | None = None
        self.steps = 1
        self.evaluation = -1
        self.skipping = False
        self.keeps_batch = False  # when skipping, too
        self.schedule: tuple = (None, None)  # the scheduler and its timesteps, as they were at the last evaluation
        self.step_start: Tensor | None = None  # the running direction before this step
        # Of the conditional call at this evaluation, where the branches are two calls: place and output.
        self.index: int | None = None
        self.kept: Output | None = None
        self.with_both_branches = self.with_the_rule = 0  # evaluations

    @torch.compiler.disable
    def pre_forward(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Outside the rule's interval, hand on the conditional branch alone."""
        if current.get() is not self or _is_extra(kwargs):
            return None
        if self.family.sequential:
            index = step_index(self.pipe.scheduler, _timestep(args, kwargs))
            if index != self.index:  # the conditional call comes first
                self._begin_evaluation()
                self.index, self.kept = index, None
                self.skipping = not self._covered()
            return None
        self._begin_evaluation()
        seen = _input(args, kwargs)
        self.branches = self._count_branches(len(seen))
        self.skipping = self.branches > 1 and not self._covered()
        self.with_both_branches += self.branches > 1
        if not self.skipping or self.branches == 3 or self.keeps_batch:
            return None
        branch = 0 if self.family.conditional_first else 1
        listed = self.family.listed
        return _one_branch(args, len(seen), branch, listed), _one_branch(kwargs, len(seen), branch, listed)

    @torch.compiler.disable
    def post_forward(self, module: nn.Module, args: tuple, kwargs: dict, output: Output) -> Output | None:
        """Write the rule's result into the unconditional branch of the output."""
        if current.get() is not self or _is_extra(kwargs):
            return None
        if self.family.sequential:
            return self._after_one_branch(module, args, kwargs, output)
        if self.branches == 1:
            return None
        raw = output[0]  # tuples and diffusers' outputs alike
        if self.family.listed:
            raw = torch.stack(raw)
        place = 1 if self.family.conditional_first else 0  # of the unconditional branch
        if self.skipping:
            branches = list(raw.chunk(self.branches)) if len(raw) > self.shape[0] else [raw, raw]
            branches[place] = branches[1 - place]
        else:
            branches = list(raw.chunk(self.branches))
            conditional, unconditional = branches[1 - place], branches[place]
            seen = _input(args, kwargs)
            latents = (torch.stack(seen) if self.family.listed else seen).chunk(self.branches)[1 - place]
            result = self._guide(module, latents, _timestep(args, kwargs), conditional, unconditional)
            if result is None:
                return None
            branches[1 - place], branches[place] = result
            if self.branches == 3 and result[0] is not conditional:  # what perturbing adds stays the same
                branches[2] = branches[2] + (result[0] - conditional)
        edited = torch.cat(branches)
        return _replaced(output, list(edited.unbind()) if self.family.listed else edited)

    def answer(self, kwargs: dict) -> Output | None:
        """The first call's output, where it is to be that of the second one, too; else None."""
        return self.kept if self.skipping and not _is_extra(kwargs) else None

    def _after_one_branch(self, module: nn.Module, args: tuple, kwargs: dict, output: Output) -> Output | None:
        if self.kept is None:
            self.kept = output
            return None
        self.with_both_branches += 1
        if self.skipping:  # it is that already, unless the denoiser was wrapped anew in mid-call
            return self.kept
        conditional = self.kept[0]
        result = self._guide(module, _input(args, kwargs), _timestep(args, kwargs), conditional, output[0])
        if result is None:
            return None
        if result[0] is not conditional:
            conditional.copy_(result[0])  # the pipeline holds it already
        return _replaced(output, result[1])

    def _begin_evaluation(self) -> None:
        self.evaluation += 1
        scheduler = self.pipe.scheduler
        known, timesteps = self.schedule
        now: Any = getattr(scheduler, "timesteps", None)
        if known is scheduler and now is not timesteps and not torch.equal(now, timesteps):
            raise UserError(
                f"The schedule of {type(scheduler).__name__} was set anew in the middle of a call",
                "Give each pipeline its own: from_pipe(pipe, scheduler=copy.deepcopy(pipe.scheduler))",
            )
        self.schedule = scheduler, now

    def latents_changed(self, before: Tensor | None, after: Tensor) -> None:
        """A callback gives other latents. Of another size, momentum begins anew; of a sample that left, it goes.

        Raises:
            UserError: it cannot be seen which samples stayed.
        """
        old, new = self.shape if before is None else before.shape, after.shape
        if old is None or self.shape is None or new == old:
            return
        if len(new) != len(self.shape):
            raise UserError(
                f"A callback made latents of shape {list(new)} of {list(old)}", "Leave them as many dimensions"
            )
        state = self.state
        if new[1:] != old[1:]:
            state.running_direction = self.step_start = None
        remembered = (state.running_direction, self.step_start, state.skipped)
        if new[0] != old[0] and any(tensor is not None for tensor in remembered):
            rows = _rows(before, after)
            if rows is None:
                raise UserError(
                    f"A callback made {new[0]} samples of {old[0]}, and it cannot be seen which of them stayed: "
                    "momentum and skip_above go on with each sample",
                    "Leave the latents of those that stay as they are, or use momentum=0 and skip_above=None",
                )
            state.running_direction, self.step_start, state.skipped = (
                None if tensor is None else tensor[rows.to(tensor.device)] for tensor in remembered
            )
        self.shape = new

    def _guide(
        self,
        module: nn.Module,
        latents: Tensor,
        timestep: Tensor | float,
        conditional: Tensor,
        unconditional: Tensor,
    ) -> tuple[Tensor, Tensor] | None:
        """What to put in place of the two branches; None to leave them as they are.

        Args:
            latents, conditional, unconditional: what the network was given and what it returned, each at least as large
                as the latent.
        """
        self.with_the_rule += 1
        if self.rule.is_stock and not self.rule.record and self.rule.skip_above is None:
            return None
        if isinstance(timestep, Tensor) and timestep.ndim > 1 and (timestep != timestep.flatten()[0]).any():
            raise UserError(
                "Parts of this latent are at noise levels of their own, and a guidance rule knows one",
                "Use guidance=CFG() for it",
            )
        latent = self._latent(conditional)
        x, c, u = (part[latent].float() for part in (latents, conditional, unconditional))
        state, second = self.state, in_second_evaluation(self.pipe.scheduler)
        state.guidance_scale, state.evaluations = self._guidance_scale(module), self.evaluation
        before = state.running_direction
        if second:
            state.running_direction = self.step_start
        else:
            self.step_start = before
        if self.rule.on_outputs:
            c_out, direction = 1.0, self.rule.direction(c, u, state)
        else:
            c_skip, c_out = coefficients(self.pipe.scheduler, timestep)
            if c_out == 0:  # no noise is left: both predictions are the latent itself
                return None
            c_out *= self.family.sign
            x0_c, x0_u = (c_out * c).add_(x, alpha=c_skip), (c_out * u).add_(x, alpha=c_skip)
            direction = self.rule.direction(x0_c, x0_u, state)
        if second:
            state.running_direction = before
        skipped = state.skipped
        if self.rule.skip_above is not None:
            self.rule.skip_samples(c, u, state)
        if skipped is not None and skipped.any():
            direction[skipped] = 0
        elif self.rule.is_stock:
            return None
        if self._is_postprocessed():  # o = o_c + (w - 1) U / c_out
            result = _written(conditional, latent, c.add(direction, alpha=(state.guidance_scale - 1) / c_out))
            return result, result
        # o_u' = o_c - U / c_out
        return conditional, _written(unconditional, latent, c.sub(direction, alpha=1 / c_out))

    def _latent(self, output: Tensor) -> tuple:
        """Where the latent lies in the network's input and output. Behind it are other channels, or other tokens."""
        assert self.shape is not None
        sizes = tuple(self.shape[1:])
        if output.ndim > len(self.shape):  # pictures as videos of one frame
            sizes = (sizes[0], 1, *sizes[1:])
        if tuple(output.shape[2:]) != sizes[1:] or output.shape[1] < sizes[0] or len(output) != self.shape[0]:
            raise UserError(
                f"The network returned {list(output.shape)} for latents of {list(self.shape)}: they changed on the way",
                "Change latents by what callback_on_step_end returns, or use guidance=CFG()",
            )
        return (slice(None), *map(slice, sizes))

    def _count_branches(self, rows: int) -> int:
        """1: no guidance at this evaluation. 2: both branches. 3: also a perturbed one (PAG)."""
        assert self.shape is not None
        branches, rest = divmod(rows, self.shape[0])
        if rest or not branches:
            raise UserError(
                f"The network is given {rows} samples for a batch of {self.shape[0]}: the latents changed on the way",
                "Change latents by what callback_on_step_end returns, or use guidance=CFG()",
            )
        # PAG alone runs the conditional branch and a perturbed one.
        perturbed = hasattr(type(self.pipe), "do_perturbed_attention_guidance")
        return 1 if branches == 2 and perturbed and self.pipe.do_perturbed_attention_guidance else branches

    def _covered(self) -> bool:
        """Whether the rule is wanted at this evaluation."""
        if self.state.skipped is not None and self.state.skipped.all():
            return False
        evaluations = getattr(self.pipe, "num_timesteps", None) or self.steps  # not every pipeline counts them
        return self.rule.covers(min(self.evaluation, evaluations - 1), evaluations)

    def _guidance_scale(self, module: nn.Module) -> float:
        """The paper's w of this evaluation: a callback may have changed it, and a second expert may have its own."""
        name = self.family.scale
        if len(self.family.denoisers) > 1 and module is getattr(self.pipe, self.family.denoisers[-1], None):
            second = getattr(self.pipe, f"_{name}_2", None)
            if second is not None:
                return second
        return getattr(self.pipe, name, self.arguments[name]) + 1 - self.family.scale_of_none

    def _is_postprocessed(self) -> bool:
        name = self.family.postprocess
        return name == "always" or bool(name and getattr(self.pipe, name, self.arguments.get(name)))


# Arguments whose rows are no samples, and whether their columns are.
OTHER_ROWS = {
    "image_rotary_emb": False,
    "rotary_embedding": False,
    "ip_adapter_masks": False,  # one for each adapter
    "encoder_hidden_states_llama3": True,
}


def _is_extra(kwargs: dict) -> bool:
    """Whether this is another call beside the two branches, such as skip-layer guidance makes."""
    return kwargs.get("skip_layers") is not None


def _input(args: tuple, kwargs: dict) -> Any:
    """The latents that a denoiser is given, whatever it calls them; a list where the family is `listed`."""
    return args[0] if args else next(kwargs[name] for name in ("sample", "hidden_states") if name in kwargs)


def _timestep(args: tuple, kwargs: dict) -> Any:
    names = ("timestep", "timesteps", "timestep_ratio")
    return next((kwargs[name] for name in names if name in kwargs), args[1] if len(args) > 1 else None)


def _one_branch(value: Any, rows: int, branch: int, listed: bool) -> Any:
    """That branch, 0 or 1, of every tensor that has a row for each sample of both, or list that has an entry."""
    part = slice(branch * rows // 2, (branch + 1) * rows // 2)
    if isinstance(value, Tensor):
        return value[part] if value.ndim and value.shape[0] == rows else value
    if listed and isinstance(value, list) and len(value) == rows:
        return value[part]
    if isinstance(value, dict):
        usual = {key: _one_branch(item, rows, branch, listed) for key, item in value.items() if key not in OTHER_ROWS}
        others = {key: value[key] for key in OTHER_ROWS.keys() & value.keys()}
        return usual | others | {key: item[:, part] for key, item in others.items() if OTHER_ROWS[key]}
    if isinstance(value, list | tuple):
        return type(value)(_one_branch(item, rows, branch, listed) for item in value)
    return value


def _rows(before: Tensor | None, after: Tensor) -> Tensor | None:
    """Of each sample, which one it was before. None: not one, or several could be meant."""
    if before is None or before.shape[1:] != after.shape[1:]:
        return None
    same = torch.stack([(before == sample).flatten(1).all(1) for sample in after])
    return same.int().argmax(1) if (same.sum(1) == 1).all() else None


def _written(tensor: Tensor, latent: tuple, values: Tensor) -> Tensor:
    """A copy with other values where the latent lies."""
    if values.shape == tensor.shape:
        return values.to(tensor.dtype)
    tensor = tensor.clone()
    tensor[latent] = values.to(tensor.dtype)
    return tensor


def _replaced(output: Output, edited: Tensor | list[Tensor]) -> Output:
    if isinstance(output, tuple):
        return (edited, *output[1:])
    output[next(iter(output))] = edited
    return output
