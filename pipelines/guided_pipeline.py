"""Any stock pipeline of a known family with a guidance rule in place of classifier-free guidance.

The stock pipeline stays as it is; while a call runs, its denoisers carry a hook (`pipelines/hook.py`).
"""

import functools
import inspect
import json
import logging
from pathlib import Path

import diffusers
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from pipelines.adapters import AdapterMixin
from pipelines.errors import UserError
from pipelines.families import family_of
from pipelines.guidance import APG, GuidanceRule
from pipelines.hook import hooked, see_latents, see_progress

log = logging.getLogger("joinery")

AS_IT_IS = "as it is"  # for `dtype`: diffusers hands it from one method to the other


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
            prepare = family_of(stock).prepare
            setattr(cls, prepare, _watched(getattr(cls, prepare)))

    def progress_bar(self, iterable=None, total=None):
        see_progress(iterable, total)
        return super().progress_bar(iterable, total)

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """As in diffusers, each part in its own precision: diffusers would cast the shared weights to float32."""
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = AS_IT_IS
        return super().from_pipe(pipeline, **kwargs)

    def to(self, *args, **kwargs):
        # Quantized weights cannot be cast at all, not even to what they are.
        return self if kwargs.get("dtype") is AS_IT_IS else super().to(*args, **kwargs)

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
    family, signature = family_of(stock), inspect.signature(stock.__call__)
    names = list(signature.parameters)[1:]
    defaults = {name: signature.parameters[name].default for name in names}

    @functools.wraps(stock.__call__)
    def call(self, *args, guidance: GuidanceRule | None = None, **kwargs):
        rule = self.guidance if guidance is None else guidance
        if not isinstance(rule, GuidanceRule):
            raise UserError(f"guidance is {rule!r}", "Give a guidance rule, for example APG() or CFG()")
        if kwargs.get("guidance_rescale") and not rule.is_stock:
            log.warning("guidance_rescale has no effect beside %s, which limits guidance itself", type(rule).__name__)
        arguments = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        with hooked(self, family, rule, arguments) as state:
            output = stock.__call__(self, *args, **kwargs)
        self.guidance_record = state.figures if rule.record else None
        return output

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


def _watched(prepare):
    """The method that makes a call's first latents; the hook learns their shape."""

    @functools.wraps(prepare)
    def watched(self, *args, **kwargs):
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
