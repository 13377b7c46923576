"""A guidance rule at work on a stock pipeline, during one call of it.

The hook reads both halves of the denoiser's output, lets the rule find the direction U, and writes
o_u' = o_c - U / B into the unconditional half: the stock formula o_u' + w (o_c - o_u') is then the rule's own result,
for every prediction type and every guidance scale w.

Where the pipeline works on that result afterwards, by rescaling or renormalising it against the conditional half, the
hook writes the rule's result into both halves: the stock formula and what follows then leave it alone, and a limit that
the rule set holds.
"""

import functools
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from pipelines.denoised import coefficients, in_second_half, step_index
from pipelines.errors import UserError
from pipelines.families import Family
from pipelines.guidance import GuidanceRule, GuidanceState

# The hook of the call that runs here. A denoiser may be shared: a call in another thread finds this empty, or its own.
_current: ContextVar["Hook | None"] = ContextVar("joinery_guidance", default=None)


@contextmanager
def hooked(pipe: DiffusionPipeline, family: Family, rule: GuidanceRule, arguments: dict):
    """Carry out the rule on the pipeline's denoisers while the block runs.

    Args:
        arguments: of the call, by name.
    """
    state = GuidanceState()
    may_skip = rule.interval != (0.0, 1.0) or rule.skip_above is not None
    if rule.is_stock and not may_skip and not rule.record:
        yield state
        return
    if family.sequential and not hasattr(pipe.scheduler, "step_index"):
        raise UserError(
            f"{type(pipe.scheduler).__name__} does not tell where it is in the schedule, and so not the halves apart",
            "Choose a scheduler of flows, such as FlowMatchEulerDiscreteScheduler",
        )
    if rule.uses_scale and arguments.get("use_dynamic_cfg"):
        raise UserError(
            f"use_dynamic_cfg sets each step's guidance scale too late for {type(rule).__name__}",
            "Leave use_dynamic_cfg out, or choose another rule",
        )
    hook = Hook(pipe, family, rule, arguments, state)
    # A compiled module has no truth value.
    denoisers = [module for name in family.denoisers if (module := getattr(pipe, name, None)) is not None]
    handles = [
        handle
        for module in denoisers
        for handle in (
            module.register_forward_pre_hook(hook.before, with_kwargs=True),
            module.register_forward_hook(hook.after, with_kwargs=True),
        )
    ]
    answers = {module: hook.answer_for(module) for module in denoisers if family.sequential and may_skip}
    token = _current.set(hook)
    try:
        yield state
    finally:
        _current.reset(token)
        for module, (answer, own) in answers.items():
            if vars(module).get("forward") is answer:  # offloading may have changed it since
                if own is None:
                    del module.forward
                else:
                    module.forward = own
        for handle in handles:
            handle.remove()


def see_progress(iterable, total: int | None) -> None:
    """Tell the hook of the call that runs here, if any, how many steps the pipeline is about to take."""
    if (hook := _current.get()) is not None:
        order = getattr(hook.pipe.scheduler, "order", 1)
        hook.steps = len(iterable) if iterable is not None else total * order - (order - 1)


def see_latents(latents: Tensor) -> None:
    """Tell the hook of the call that runs here, if any, which shape the latents have."""
    if (hook := _current.get()) is not None:
        hook.shape = latents.shape


class Hook:
    """The rule's state and place in one call. Of a step's two evaluations, as Heun has them, the first moves it on."""

    def __init__(
        self, pipe: DiffusionPipeline, family: Family, rule: GuidanceRule, arguments: dict, state: GuidanceState
    ):
        self.pipe, self.family, self.rule, self.arguments, self.state = pipe, family, rule, arguments, state
        self.shape: torch.Size | None = None
        self.steps = 1
        self.evaluation = -1
        self.skipping = False
        self.before_step: Tensor | None = None  # the running direction
        self.index = self.kept = None  # of the conditional call at this evaluation, where the halves are two calls

    @torch.compiler.disable
    def before(self, module: nn.Module, args: tuple, kwargs: dict):
        """Outside the rule's interval, hand on the conditional half alone."""
        if _current.get() is not self or _is_extra(kwargs):
            return None
        if self.family.sequential:
            index = step_index(self.pipe.scheduler, _timestep(args, kwargs))
            if index != self.index:  # the conditional call comes first
                self.index, self.kept = index, None
                self.evaluation += 1
                self.skipping = not self._covered()
            return None
        self.evaluation += 1
        seen = _input(args, kwargs)
        self.parts = self._parts(len(seen))
        self.skipping = self.parts > 1 and not self._covered()
        if not self.skipping or self.parts == 3:
            return None
        half = 0 if self.family.conditional_first else 1
        listed = self.family.listed
        return _half(args, len(seen), half, listed), _half(kwargs, len(seen), half, listed)

    @torch.compiler.disable
    def after(self, module: nn.Module, args: tuple, kwargs: dict, output):
        """Write the rule's result into the unconditional half of the output."""
        if _current.get() is not self or _is_extra(kwargs):
            return None
        if self.family.sequential:
            return self._after_one_half(module, args, kwargs, output)
        if self.parts == 1:
            return None
        raw = output[0]  # tuples and diffusers' outputs alike
        if self.family.listed:
            raw = torch.stack(raw)
        if self.skipping:
            halves = [raw, raw] if self.parts == 2 else [raw.chunk(3)[1], *raw.chunk(3)[1:]]
        elif self._nothing_to_do():
            return None
        else:
            halves = list(raw.chunk(self.parts))
            place = 1 if self.family.conditional_first else 0
            conditional, unconditional = halves[1 - place], halves[place]
            seen = _input(args, kwargs)
            latents = (torch.stack(seen) if self.family.listed else seen).chunk(self.parts)[1 - place]
            result = self._guide(module, latents, _timestep(args, kwargs), conditional, unconditional)
            if result is None:
                return None
            halves[1 - place], halves[place] = result
            if self.parts == 3 and result[0] is not conditional:  # what perturbing adds stays the same
                halves[2] = halves[2] + (result[0] - conditional)
        edited = torch.cat(halves)
        return _replaced(output, list(edited.unbind()) if self.family.listed else edited)

    def answer_for(self, module: nn.Module):
        """Let a denoiser that is called for each half answer the second call with the first one's output when skipping.

        Returns:
            Its forward method from now on, and the one of its own, if any, that it had before.
        """
        own, forward = vars(module).get("forward"), module.forward

        @functools.wraps(forward)
        def answer(*args, **kwargs):
            if _current.get() is self and self.skipping and self.kept is not None and not _is_extra(kwargs):
                return self.kept
            return forward(*args, **kwargs)

        module.forward = answer
        return answer, own

    def _after_one_half(self, module: nn.Module, args: tuple, kwargs: dict, output):
        if self.kept is None:
            self.kept = output
            return None
        if self.skipping or self._nothing_to_do():
            return None
        conditional = self.kept[0]
        result = self._guide(module, _input(args, kwargs), _timestep(args, kwargs), conditional, output[0])
        if result is None:
            return None
        if result[0] is not conditional:
            conditional.copy_(result[0])  # the pipeline holds it already
        return _replaced(output, result[1])

    def _nothing_to_do(self) -> bool:
        return self.rule.is_stock and not self.rule.record and self.rule.skip_above is None

    def _guide(self, module: nn.Module, latents: Tensor, timestep, conditional: Tensor, unconditional: Tensor):
        """What to put in place of the two halves; None to leave them as they are.

        Args:
            latents, conditional, unconditional: what the network was given and what it returned, each at least as large
                as the latent.
        """
        if isinstance(timestep, Tensor) and timestep.ndim > 1 and (timestep != timestep.flatten()[0]).any():
            raise UserError(
                "Parts of this latent are at noise levels of their own, and a guidance rule knows one",
                "Use guidance=CFG() for it",
            )
        sizes = tuple(self.shape[1:])
        if conditional.ndim > len(self.shape):  # pictures as videos of one frame
            sizes = (sizes[0], 1, *sizes[1:])
        inner = (slice(None), *map(slice, sizes))
        parts = (latents, conditional, unconditional)
        x, c, u = ((part if part.shape[1:] == sizes else part[inner]).float() for part in parts)
        state = self.state
        state.guidance_scale = self._guidance_scale(module)
        again, after = in_second_half(self.pipe.scheduler), state.direction
        if again:
            state.direction = self.before_step
        else:
            self.before_step = after
        if self.rule.on_outputs:
            shift, direction = 1.0, self.rule.bracket(c, u, state)
        else:
            scale, shift = coefficients(self.pipe.scheduler, timestep)
            shift *= self.family.sign
            direction = self.rule.bracket((shift * c).add_(x, alpha=scale), (shift * u).add_(x, alpha=scale), state)
        if again:
            state.direction = after
        state.evaluations += 1
        done = state.settled
        if self.rule.skip_above is not None:
            self.rule.settle(c, u, state)
        if done is not None and done.any():
            direction[done] = 0
        elif self.rule.is_stock:
            return None
        if self._something_comes_after():
            result = _written(conditional, inner, c.add(direction, alpha=(state.guidance_scale - 1) / shift))
            return result, result
        return conditional, _written(unconditional, inner, c.sub(direction, alpha=1 / shift))

    def _parts(self, rows: int) -> int:
        """1: no guidance at this evaluation. 2: both halves. 3: also a perturbed one (PAG)."""
        parts = rows // self.shape[0]
        # PAG alone runs the conditional half and a perturbed one.
        perturbed = hasattr(type(self.pipe), "do_perturbed_attention_guidance")
        return 1 if parts == 2 and perturbed and self.pipe.do_perturbed_attention_guidance else parts

    def _covered(self) -> bool:
        """Whether the rule is wanted at this evaluation."""
        if self.state.settled is not None and self.state.settled.all():
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

    def _something_comes_after(self) -> bool:
        name = self.family.after
        return name == "always" or bool(name and getattr(self.pipe, name, self.arguments.get(name)))


# Arguments whose rows are no samples, and whether their columns are.
ODD = {"image_rotary_emb": False, "rotary_embedding": False, "encoder_hidden_states_llama3": True}


def _is_extra(kwargs: dict) -> bool:
    """Whether this is another call beside the halves, such as skip-layer guidance makes."""
    return kwargs.get("skip_layers") is not None


def _input(args: tuple, kwargs: dict) -> Tensor:
    """The latents that a denoiser is given, whatever it calls them."""
    return args[0] if args else next(kwargs[name] for name in ("sample", "hidden_states") if name in kwargs)


def _timestep(args: tuple, kwargs: dict):
    names = ("timestep", "timesteps", "timestep_ratio")
    return next((kwargs[name] for name in names if name in kwargs), args[1] if len(args) > 1 else None)


def _half(value, whole: int, half: int, listed: bool):
    """That half of every tensor that has a row for each, or list that has an entry; all else as it is."""
    part = slice(half * whole // 2, (half + 1) * whole // 2)
    if isinstance(value, Tensor):
        return value[part] if value.ndim and value.shape[0] == whole else value
    if listed and isinstance(value, list) and len(value) == whole:
        return value[part]
    if isinstance(value, dict):
        halved = {key: _half(item, whole, half, listed) for key, item in value.items() if key not in ODD}
        odd = {key: value[key] for key in ODD.keys() & value.keys()}
        return halved | odd | {key: item[:, part] for key, item in odd.items() if ODD[key]}
    if isinstance(value, list | tuple):
        return type(value)(_half(item, whole, half, listed) for item in value)
    return value


def _written(tensor: Tensor, inner: tuple, values: Tensor) -> Tensor:
    """A copy with other values in its inner part."""
    if values.shape == tensor.shape:
        return values.to(tensor.dtype)
    tensor = tensor.clone()
    tensor[inner] = values.to(tensor.dtype)
    return tensor


def _replaced(output, edited: Tensor | list[Tensor]):
    if isinstance(output, tuple):
        return (edited, *output[1:])
    output[next(iter(output))] = edited
    return output
