"""Any stock pipeline of a known family with a guidance rule in place of classifier-free guidance.

The stock pipeline stays as it is; while a call runs, its denoisers carry a hook (`pipelines/hook.py`).
"""

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Collection
from numbers import Real
from types import ModuleType
from typing import Any, Self

import diffusers
from diffusers import DiffusionPipeline, ModelMixin, StableDiffusionPipeline
from diffusers.configuration_utils import FrozenDict

from pipelines.adapters import AdapterMixin
from pipelines.call import outside
from pipelines.errors import UserError
from pipelines.families import Family, family_of
from pipelines.guidance import APG, GuidanceRule
from pipelines.hook import Hook, hooked, see_latents, see_progress
from pipelines.windows import in_windows

log = logging.getLogger("joinery")

AS_IT_IS = "as it is"  # for `dtype`: diffusers hands it from one method to the other


class GuidedMixin(AdapterMixin):
    """Gives a stock pipeline class the argument `guidance`, a default rule, and per-evaluation figures.

    Attributes:
        guidance: the rule of calls that name none. A pipeline made from the parts of another begins with the one that
            was set last on those parts.
        guidance_record: figures of the last call's evaluations, in order, if its rule has `record=True`: rms of the
            direction, share of samples clipped, parallel share. Empty where the call failed.
    """

    guidance: GuidanceRule = APG()
    guidance_record: list[dict[str, float]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = stock_class(cls)
        if cls.__call__ is stock.__call__:  # a subclass keeps its own, or the guided one it inherits
            cls.__call__ = _guided_call(stock)
            family = family_of(stock)
            setattr(cls, family.prepare, _watched(getattr(cls, family.prepare)))
            if family.windows:
                cls.encode_prompt = in_windows(cls.encode_prompt)
            if hasattr(stock, "from_single_file"):
                cls.from_single_file = classmethod(_with_rule(stock.from_single_file.__func__))

    def __setattr__(self, name: str, value: object) -> None:
        if name == "guidance":
            _check(value)
            for denoiser in _denoisers(self):
                denoiser.joinery_rule = value
        super().__setattr__(name, value)

    def register_modules(self, **kwargs: Any) -> None:
        super().register_modules(**kwargs)
        for denoiser in _denoisers(self):
            if (rule := getattr(denoiser, "joinery_rule", None)) is not None:
                self.guidance = rule

    @property
    def config(self) -> FrozenDict:
        _tell_auto_pipelines()  # their from_pipe asks for it first
        return super().config

    def progress_bar(self, iterable: Collection | None = None, total: int | None = None) -> Any:
        see_progress(iterable, total)
        return super().progress_bar(iterable, total)

    @classmethod
    def from_pretrained(cls, *args: Any, guidance: GuidanceRule | None = None, **kwargs: Any) -> Self:
        """As in diffusers; `guidance` is the default rule of the pipeline."""
        return _with_rule(super().from_pretrained.__func__)(cls, *args, guidance=guidance, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, *, guidance: GuidanceRule | None = None, **kwargs: Any) -> Self:
        """As in diffusers, each part in its own precision: diffusers would cast the shared weights to float32.

        The rule of that pipeline is kept, unless `guidance` names another.
        """
        if guidance is not None:
            _check(guidance)
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = AS_IT_IS
        pipe = super().from_pipe(pipeline, **kwargs)
        if guidance is None and isinstance(pipeline, GuidedMixin):
            vars(pipe).pop("guidance", None)  # of the parts, which another pipeline may have set
            guidance = vars(pipeline).get("guidance")
        if guidance is not None:
            pipe.guidance = guidance
        return pipe

    def to(self, *args: Any, **kwargs: Any) -> Self:
        # Quantized weights cannot be cast at all, not even to what they are.
        return self if kwargs.get("dtype") is AS_IT_IS else super().to(*args, **kwargs)

    def to_json_string(self) -> str:
        """As in diffusers, but under the stock class's name, so that every stock tool opens the folder."""
        entries = json.loads(super().to_json_string()) | {"_class_name": stock_class(type(self)).__name__}
        return json.dumps(entries, indent=2, sort_keys=True) + "\n"


def _check(rule: object) -> None:
    if not isinstance(rule, GuidanceRule):
        raise UserError(f"guidance is {rule!r}", "Give a guidance rule, for example APG() or CFG()")


def _denoisers(pipe: DiffusionPipeline) -> list[ModelMixin]:
    names = family_of(stock_class(type(pipe))).denoisers
    return [module for name in names if (module := getattr(pipe, name, None)) is not None]


def _with_rule(load: Callable) -> Callable:
    """A class's way to load a pipeline, with one more argument."""

    @functools.wraps(load)
    def loaded(cls: type, *args: Any, guidance: GuidanceRule | None = None, **kwargs: Any) -> DiffusionPipeline:
        if guidance is not None:
            _check(guidance)
        pipe = load(cls, *args, **kwargs)
        if guidance is not None:
            pipe.guidance = guidance
        return pipe

    return loaded


def stock_class(cls: type) -> type[DiffusionPipeline]:
    """The diffusers class behind a guided one."""
    return next(c for c in cls.__mro__ if c.__module__.startswith("diffusers.") and issubclass(c, DiffusionPipeline))


def _guided_call(stock: type[DiffusionPipeline]) -> Callable:
    """The stock class's `__call__` with one more argument."""
    family, signature = family_of(stock), inspect.signature(stock.__call__)
    names = list(signature.parameters)[1:]
    defaults = {name: signature.parameters[name].default for name in names}

    @functools.wraps(stock.__call__)
    def call(self: GuidedMixin, *args: Any, guidance: GuidanceRule | None = None, **kwargs: Any) -> Any:
        rule = self.guidance if guidance is None else guidance
        _check(rule)
        self.keep_adapter()
        if kwargs.get("guidance_rescale") and not rule.is_stock:
            log.warning("guidance_rescale has no effect beside %s, which limits guidance itself", type(rule).__name__)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self.guidance_record = [] if rule.record else None
        with hooked(self, family, rule, {**defaults, **given}) as hook:
            if hook is None:
                return stock.__call__(self, *args, **kwargs)
            callbacks = {name: outside(given[name], hook.latents_changed) for name in CALLBACKS if given.get(name)}
            args = tuple(callbacks.get(name, value) for name, value in zip(names, args, strict=False))
            kwargs |= {name: callback for name, callback in callbacks.items() if name in kwargs}
            output = stock.__call__(self, *args, **kwargs)
        if rule.record:
            self.guidance_record = hook.state.figures
        if not hook.with_the_rule and not (guidance is None and _is_off(given.get(family.scale), family)):
            log.warning("%s", _why_without(hook, {**defaults, **given}))
        return output

    own = inspect.Parameter("guidance", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=GuidanceRule | None)
    others = list(signature.parameters.values())
    place = len(others) - (others[-1].kind is inspect.Parameter.VAR_KEYWORD)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*others[:place], own, *others[place:]]
    )
    before, arguments, after = (stock.__call__.__doc__ or "").partition("Args:\n")
    call.__doc__ = f"""{before}Args:
            guidance (`GuidanceRule`, *optional*):
                The rule in place of classifier-free guidance; `CFG()` is the stock result bit for bit. By default the
                pipeline's own `guidance`. It needs guidance to be on: `{family.scale}` above {family.scale_of_none:g}
                {"and a negative prompt" if family.needs_negative_prompt else ""}.
                `guidance_rescale` acts on `CFG()` only: it would undo the limit of another rule.
{after if arguments else ""}"""
    return call


CALLBACKS = ("callback", "callback_on_step_end")


def _is_off(scale: object, family: Family) -> bool:
    return isinstance(scale, Real) and scale <= family.scale_of_none


def _why_without(hook: Hook, arguments: dict) -> str:
    """Why a call never came to its rule, and what it lacks."""
    rule, family = hook.rule, hook.family
    name, scale = type(rule).__name__, arguments.get(family.scale)
    if hook.with_both_branches:
        number = hook.evaluation + 1
        return f"{name} had no part in this call: its interval {rule.interval} holds none of {number} evaluations"
    missing = []
    if _is_off(scale, family):
        missing.append(f"{family.scale} above {family.scale_of_none:g}, it is {scale:g}")
    if family.needs_negative_prompt and all(
        value is None for key, value in arguments.items() if key in ("negative_prompt", "negative_prompt_embeds")
    ):
        missing.append('a negative prompt, negative_prompt="" for example')
    if not missing:
        missing.append("a network that is not distilled, with guidance left on in callbacks")
    return (
        f"{name} had no part in this call: guidance was off, and the result is the stock pipeline's without it. "
        f"Missing: {'; '.join(missing)}"
    )


def _watched(prepare: Callable) -> Callable:
    """The method that makes a call's first latents; the hook learns their shape."""

    @functools.wraps(prepare)
    def watched(self: GuidedMixin, *args: Any, **kwargs: Any) -> Any:
        made = prepare(self, *args, **kwargs)
        see_latents(made[0] if isinstance(made, tuple | list) else made)
        return made

    return watched


@functools.cache
def guided(stock: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """The same pipeline with a guidance rule: `guided(StableDiffusionXLInpaintPipeline)`.

    Raises:
        UserError: the class is of no known family, or cannot carry a rule; with the reason.
    """
    family_of(stock)
    name = stock.__name__
    return type(
        f"APG{name}", (GuidedMixin, stock), {"__doc__": f"{name} with a guidance rule.", "__module__": __name__}
    )


APGStableDiffusionPipeline = guided(StableDiffusionPipeline)


def __getattr__(name: str) -> type[DiffusionPipeline]:
    """`APGFluxPipeline` is `guided(FluxPipeline)`, and so on; each is made when first asked for."""
    stock = getattr(diffusers, name.removeprefix("APG"), None) if name.startswith("APG") else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return guided(stock)


@functools.cache
def _register(auto_pipeline: ModuleType) -> None:
    for classes in auto_pipeline.SUPPORTED_TASKS_MAPPINGS:
        for name, stock in list(classes.items()):
            try:
                classes[f"joinery-{name}"] = guided(stock)
            except UserError:
                continue  # it cannot carry a rule


def _tell_auto_pipelines() -> None:
    """Let `AutoPipelineForImage2Image.from_pipe` and its kind find the guided class of their task."""
    auto_pipeline = sys.modules.get("diffusers.pipelines.auto_pipeline")
    if hasattr(auto_pipeline, "SUPPORTED_TASKS_MAPPINGS"):  # imported, and not just now
        _register(auto_pipeline)
