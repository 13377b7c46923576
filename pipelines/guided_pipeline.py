"""Any stock pipeline of a known family with a guidance rule in place of classifier-free guidance.

The stock pipeline stays as it is. While a call runs, its denoiser carries a hook that reads both halves of the output,
lets the rule find the direction U, and writes o_u' = o_c - U / B into the unconditional half: the stock formula
o_u' + w (o_c - o_u') is then the rule's own result for every prediction type and every guidance scale w.

Where the pipeline rescales after guidance (`guidance_rescale`), the hook writes the rule's result into both halves: the
stock formula, and the rescaling, which compares the two, then leave it alone, and a limit that the rule set holds.
"""

import functools
import inspect
import json
import logging
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor

from pipelines.adapters import AdapterMixin
from pipelines.denoised import coefficients
from pipelines.errors import UserError
from pipelines.guidance import APG, GuidanceRule, GuidanceState

log = logging.getLogger("joinery")


class GuidedMixin(AdapterMixin):
    """Gives a stock pipeline class the argument `guidance`, a default rule, and per-evaluation figures.

    Attributes:
        guidance: the rule of calls that name none.
        guidance_record: figures of the last call's evaluations, in order, if its rule has `record=True`: rms of the
            direction, share of samples clipped, parallel share.
    """

    guidance: GuidanceRule = APG()
    guidance_record: list[dict[str, float]] | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        stock = stock_class(cls)
        if cls.__call__ is stock.__call__:  # a subclass keeps its own, or the guided one it inherits
            cls.__call__ = _guided_call(stock)

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """As in diffusers, in the pipeline's own precision: diffusers would cast the shared weights to float32."""
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = pipeline.dtype
        # It would warn of a cast, which this is not.
        models = logging.getLogger("diffusers.models.modeling_utils")
        models.addFilter(quiet := lambda record: record.levelno >= logging.ERROR)
        try:
            return super().from_pipe(pipeline, **kwargs)
        finally:
            models.removeFilter(quiet)

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """As in diffusers, but under the stock class's name, so that every stock tool opens the folder."""
        super().save_pretrained(save_directory, *args, **kwargs)
        index = Path(save_directory) / "model_index.json"
        entries = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": stock_class(type(self)).__name__}
        index.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stock_class(cls: type) -> type[DiffusionPipeline]:
    """The diffusers class behind a guided one."""
    return next(c for c in cls.__mro__ if c.__module__.startswith("diffusers.") and issubclass(c, DiffusionPipeline))


def _guided_call(stock: type[DiffusionPipeline]):
    """The stock class's `__call__` with one more argument."""

    @functools.wraps(stock.__call__)
    def call(self, *args, guidance: GuidanceRule | None = None, **kwargs):
        rule = self.guidance if guidance is None else guidance
        if not isinstance(rule, GuidanceRule):
            raise UserError(f"guidance is {rule!r}", "Give a guidance rule, for example APG() or CFG()")
        if kwargs.get("guidance_rescale") and not rule.is_stock:
            log.warning("guidance_rescale has no effect beside %s, which limits guidance itself", type(rule).__name__)
        with _hooked(self, rule) as state:
            output = stock.__call__(self, *args, **kwargs)
        self.guidance_record = state.figures if rule.record else None
        return output

    signature = inspect.signature(stock.__call__)
    own = inspect.Parameter("guidance", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=GuidanceRule | None)
    others = list(signature.parameters.values())
    place = len(others) - (others[-1].kind is inspect.Parameter.VAR_KEYWORD)
    call.__signature__ = signature.replace(parameters=[*others[:place], own, *others[place:]])
    call.__doc__ = f"""{stock.__call__.__doc__ or ""}

        guidance (`GuidanceRule`, *optional*): the rule in place of classifier-free guidance; `CFG()` is the stock
            result bit for bit. By default the pipeline's own `guidance`. `guidance_scale` 1 means no guidance.
        `guidance_rescale` acts on `CFG()` only: it would undo the limit of another rule.
    """
    return call


# The hook of the call that runs here. A denoiser may be shared: a call in another thread finds this empty, or its own.
_current: ContextVar["_Hook | None"] = ContextVar("joinery_guidance", default=None)


@contextmanager
def _hooked(pipe: DiffusionPipeline, rule: GuidanceRule):
    """Carry out the rule on the pipeline's denoiser while the block runs."""
    state = GuidanceState()
    if rule.is_stock and rule.interval == (0.0, 1.0) and not rule.record:
        yield state
        return
    hook = _Hook(pipe, rule, state)
    handles = [
        pipe.unet.register_forward_pre_hook(hook.before, with_kwargs=True),
        pipe.unet.register_forward_hook(hook.after, with_kwargs=True),
    ]
    token = _current.set(hook)
    try:
        yield state
    finally:
        _current.reset(token)
        for handle in handles:
            handle.remove()


class _Hook:
    """The rule at work during one call. The momentum advances once per evaluation, so twice per step of Heun's kind."""

    def __init__(self, pipe: DiffusionPipeline, rule: GuidanceRule, state: GuidanceState):
        self.pipe, self.rule, self.state = pipe, rule, state
        self.evaluation = -1
        self.skipping = False

    @torch.compiler.disable
    def before(self, module, args: tuple, kwargs: dict):
        """Outside the rule's interval, hand on the conditional half alone."""
        if _current.get() is not self:
            return None
        self.evaluation += 1
        covered = self.rule.covers(self.evaluation, self.pipe.num_timesteps)
        self.skipping = self.pipe.do_classifier_free_guidance and not covered
        if not self.skipping:
            return None
        whole = _argument(args, kwargs, 0, "sample").shape[0]
        return tuple(_conditional_half(a, whole) for a in args), {
            key: _conditional_half(value, whole) for key, value in kwargs.items()
        }

    @torch.compiler.disable
    def after(self, module, args: tuple, kwargs: dict, output):
        """Write the rule's result into the unconditional half of the output."""
        if _current.get() is not self:
            return None
        raw = output[0]  # tuples and diffusers' outputs alike
        if self.skipping:
            edited = torch.cat([raw, raw])
        elif not self.pipe.do_classifier_free_guidance or (self.rule.is_stock and not self.rule.record):
            return None
        else:
            unconditional, conditional = raw.float().chunk(2)
            latents = _argument(args, kwargs, 0, "sample").float()
            latents = latents[-len(conditional) :, : conditional.shape[1]]  # inpainting adds channels
            scale, shift = coefficients(self.pipe.scheduler, _argument(args, kwargs, 1, "timestep"))
            direction = self.rule.bracket(
                scale * latents + shift * conditional, scale * latents + shift * unconditional, self.state
            )
            if self.rule.is_stock:
                return None
            if getattr(self.pipe, "guidance_rescale", 0) > 0:
                result = conditional + (self.pipe.guidance_scale - 1) * direction / shift
                edited = torch.cat([result, result]).to(raw.dtype)
            else:
                edited = torch.cat([(conditional - direction / shift).to(raw.dtype), raw.chunk(2)[1]])
        if isinstance(output, tuple):
            return (edited, *output[1:])
        output[next(iter(output))] = edited
        return output


def _argument(args: tuple, kwargs: dict, position: int, name: str):
    return kwargs[name] if name in kwargs else args[position]


def _conditional_half(value, whole: int):
    """The second half of every tensor that has a row for each half; all else as it is."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == whole:
        return value[whole // 2 :]
    if isinstance(value, dict):
        return {key: _conditional_half(item, whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_conditional_half(item, whole) for item in value)
    return value


SUPPORTED = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
)
"""Stock classes that run both halves as one batch, unconditional first, on plain latents, through `unet`."""


@functools.cache
def guided(stock: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """The same pipeline with a guidance rule: `guided(StableDiffusionXLInpaintPipeline)`.

    Raises:
        UserError: the class is not of a supported family.
    """
    name = getattr(stock, "__name__", repr(stock))
    if name not in SUPPORTED or getattr(diffusers, name, None) is not stock:
        raise UserError(
            f"{name} has no known way to carry a guidance rule yet",
            f"Choose one of diffusers' {', '.join(SUPPORTED)}",
        )
    return type(
        f"APG{name}", (GuidedMixin, stock), {"__doc__": f"{name} with a guidance rule.", "__module__": __name__}
    )


APGStableDiffusionPipeline = guided(StableDiffusionPipeline)
