"""Adapter files on a pipeline: load one, and scale its content and its style separately."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pipelines.adapter_file import Factors, find_layers, read_file, read_metadata, unwrapped
from pipelines.errors import UserError, first_line
from pipelines.fingerprint import fingerprint, is_known, resting_weight

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    Mixed: TypeAlias = DiffusionPipeline  # what the mixin is mixed into
else:
    Mixed = object

__all__ = ["ADAPTER", "AdapterMixin", "fingerprint"]

ADAPTER = "joinery"  # the name under which diffusers and peft know the adapter
HALVES = {"up", "down", "first rank", "second rank"}  # where a concept may lie in a file of Joinery's
NAMES = (ADAPTER, f"{ADAPTER}-2")  # in turn: what is loaded stays until the next one is in

log = logging.getLogger("joinery")


class AdapterMixin(Mixed):
    """Gives a diffusers pipeline `load_adapter` and `set_scales`.

    What they need to know is kept on the denoiser, so that pipelines made by `from_pipe` share it.
    """

    def load_adapter(self, path: str | Path, any_base: bool = False) -> None:
        """Load an adapter in place of an earlier one, at content and style scale 1. Adapters of others stay active.

        On a relative of the base that it was trained on, a Turbo of a Base for example, which has the same layers with
        other weights, it is loaded with a warning. Layers that the file has and the base has not are left out and named
        in one. Fused projections and fused LoRAs are taken apart, since an adapter would have no effect beside them;
        the pictures stay the same.

        Args:
            path: a safetensors file. One of Joinery's has learned factors for content and for style; any other LoRA, in
                the names of peft, diffusers, kohya or ComfyUI, is loaded too, with one scale for all of it.
            any_base: also one of Joinery's on a base that lacks some of its layers.
        Raises:
            UserError: it is not there, is not safetensors (a pickle, whatever its name), is no LoRA, was trained on
                a base with other layers, does not fit this one or changes nothing; an earlier adapter then stays.
        """
        path = Path(path)
        tensors, metadata = read_file(path)
        card, denoiser = _card(metadata, path), _denoiser(self)
        layers, unknown = find_layers(self, tensors, metadata, path)
        if card and not any_base:
            _check_base(card, denoiser, path, unknown)
        own = next((factors for key, factors in layers.items() if unwrapped(getattr(self, key)) is denoiser), {})
        if card:
            _check_sizes(own, card, path)
        total = sum(map(len, layers.values()))
        _take_apart(self)
        earlier, active = _loaded(self), _active(self)
        name = next(name for name in NAMES if earlier is None or name != earlier.name)
        try:
            for component, factors in layers.items():
                _inject(self, unwrapped(getattr(self, component)), factors, name)
        except Exception as error:  # of peft, transformers and diffusers: whatever it is, all is as it was
            _remove(self, name)
            _activate(self, active, earlier.name if earlier is not None else None)
            raise UserError(
                f"The adapter {path} does not fit this base ({first_line(error)})",
                "Load it on the base model that it was trained on",
            ) from None
        if earlier is not None:
            _remove(self, earlier.name)
        _activate(self, active, name)
        denoiser.joinery_adapter = _Loaded(name, _learned(denoiser, own, card, name) if card else None)
        if unknown:
            log.warning(
                "%d of the %d layers of the adapter %s were found here. Not found: %s",
                total,
                total + len(unknown),
                path,
                ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
            )

    def unload_adapter(self) -> None:
        """Take the adapter off; without one, nothing happens."""
        earlier = _loaded(self)
        if earlier is not None:
            _take_apart(self)
            active = _active(self)
            _remove(self, earlier.name)
            _activate(self, active, None)
            _denoiser(self).joinery_adapter = None

    def keep_adapter(self) -> None:
        """Undo projections that were fused since the adapter was loaded: they leave it out without a word."""
        if _loaded(self) is not None and projections_are_fused(_denoiser(self)):
            log.warning("Fused projections leave an adapter out: they are taken apart")
            _denoiser(self).unfuse_qkv_projections()

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Scale the learned factors: 0 leaves a concept out, 1 is as trained, above 1 exaggerates.

        Each call starts from the weights of the file, so no error builds up over many.

        Raises:
            UserError: no adapter is loaded, or it is a plain LoRA and the two scales differ.
        """
        loaded = _loaded(self)
        if loaded is None:
            raise UserError("There is no adapter to scale", "Load one first")
        if loaded.learned is None and content != style:
            raise UserError(
                f"This LoRA has no separate content and style, but their scales are {content:g} and {style:g}",
                "Set both scales to the same value",
            )
        _take_apart(self)
        _activate(self, _active(self), loaded.name)
        if loaded.learned is None:
            for layer in _lora_layers(self):
                layer.set_scale(loaded.name, content)
            return
        scales = {"content": content, "style": style}
        with torch.no_grad():
            for factor in loaded.learned:
                factor.scale(scales[factor.concept])


def _card(metadata: dict[str, str], path: Path) -> dict | None:
    """What one of Joinery's adapter files says about itself; None for another's."""
    if "joinery" not in metadata:
        return None
    try:
        card = json.loads(metadata["joinery"])
        halves = card["halves"]
        known = halves.keys() <= {"content", "style"} and set(halves.values()) <= HALVES
        sizes = [size for layer in card.get("fused", {}).values() for sizes in layer.values() for size in sizes]
        known &= all(isinstance(size, int) and size > 0 for size in sizes)
        known &= set(card.get("alone", {}).values()) <= {"content", "style"}
        if card["format"] == 1 and known and {"base", "base_hash"} <= card.keys():
            return card
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise UserError(f"What {path} says about itself is damaged or from a newer version", "Export it again")


def trained_on(path: str | Path, denoiser: nn.Module) -> str:
    """The name of the base that one of Joinery's adapters was trained on, where that is not this one; else nothing.

    Of a quantized base it cannot be told.

    Raises:
        UserError: what the file says about itself is damaged.
    """
    path = Path(path)
    card = _card(read_metadata(path), path)
    if not card or not is_known(denoiser):
        return ""
    return card["base"] if card["base_hash"] != fingerprint(denoiser) else ""


def _check_sizes(layers: dict[str, Factors], card: dict, path: Path) -> None:
    """The matrices that a fused layer is made of are together as large as the layer."""
    for name, fused in card.get("fused", {}).items():
        for half, sizes in fused.items() if name in layers else ():
            if sum(sizes) != (len(layers[name].up) if half == "up" else layers[name].down.shape[half == "down"]):
                raise UserError(f"What {path} says of the sizes in {name} is not what it holds", "Export it again")


def _check_base(card: dict, denoiser: nn.Module, path: Path, unknown: list[str]) -> None:
    if not is_known(denoiser):
        log.warning("This base is quantized: whether %s was trained on it (%s) cannot be told", path, card["base"])
    elif card["base_hash"] == fingerprint(denoiser):
        return
    elif unknown:
        raise UserError(
            f"The adapter {path} was trained on {card['base']}, and {len(unknown)} of its layers are not in this base",
            "Load it on a base of that family, or try it here all the same with any_base=True",
        )
    else:
        log.warning(
            "%s was trained on %s, and this base is a relative: the same layers, other weights", path, card["base"]
        )


@dataclass(frozen=True)
class _LearnedFactor:
    """A concept's learned part of one factor of one layer, and a copy of it as in the file."""

    concept: str
    factor: nn.Module
    dim: int
    start: int
    original: Tensor

    def scale(self, scale: float) -> None:
        # The weight is looked up anew each time: moving a pipeline to another device replaces it.
        weight = resting_weight(self.factor)
        weight.narrow(self.dim, self.start, self.original.shape[self.dim]).copy_(self.original * scale)


@dataclass(frozen=True)
class _Loaded:
    """An adapter at work: its name in peft, and what is learned of one of Joinery's; None of another's."""

    name: str
    learned: list[_LearnedFactor] | None


def stretches(half: str, sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Where a concept's learned factors lie along a dimension: first index and count, for each matrix of a layer.

    Args:
        half: "first rank" for the first half of each, anything else for the second.
        sizes: of the matrices that the layer is made of; of an ordinary one its only size.
    """
    first = 0
    for size in sizes:
        middle = size // 2
        yield (first, middle) if half == "first rank" else (first + middle, size - middle)
        first += size


def _learned(denoiser: nn.Module, layers: dict[str, Factors], card: dict, name: str) -> list[_LearnedFactor]:
    """The learned factors of every layer.

    Args:
        card: its "halves" are concept -> "up" or "down": the second half of that factor's outputs or inputs is the
            concept's; or "first rank" or "second rank": that half of the rank is. Of a layer that is several matrices,
            "fused", it is half of each. A layer that a concept has learned "alone" is all its.
    """
    found = []
    for layer_name, factors in layers.items():
        layer: Any = denoiser.get_submodule(layer_name)
        fused = card.get("fused", {}).get(layer_name, {})
        if owner := card.get("alone", {}).get(layer_name):
            found.append(_LearnedFactor(owner, layer.lora_B[name], 0, 0, factors.up.clone()))
            continue
        for concept, half in card["halves"].items():
            factor, weight = (layer.lora_B, factors.up) if half == "up" else (layer.lora_A, factors.down)
            dim = 1 if half == "down" else 0
            for start, size in stretches(half, fused.get(half, [weight.shape[dim]])):
                original = weight.narrow(dim, start, size).clone()
                found.append(_LearnedFactor(concept, factor[name], dim, start, original))
    return found


def _inject(pipe: DiffusionPipeline, module: ModelMixin, layers: dict[str, Factors], name: str) -> None:
    """Put LoRA layers into a module, active."""
    state = {f"{layer}.lora_A.weight": factors.down for layer, factors in layers.items()}
    state |= {f"{layer}.lora_B.weight": factors.up for layer, factors in layers.items()}
    ((rank, alpha), _), *_ = Counter((factors.rank, factors.alpha) for factors in layers.values()).most_common(1)
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(key)}": layer.rank for key, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {f"^{re.escape(key)}": layer.alpha for key, layer in layers.items() if layer.alpha != alpha},
        "target_modules": list(layers),
    }
    if hasattr(module, "load_lora_adapter"):  # of diffusers
        # It takes offloading by groups off and on again. What accelerate moves may stay as it is.
        by_accelerate = any(hasattr(part, "_hf_hook") for part in module.modules())
        module.load_lora_adapter(
            state,
            prefix=None,
            adapter_name=name,
            metadata=settings,
            low_cpu_mem_usage=True,
            _pipeline=None if by_accelerate else pipe,
        )
    else:
        module.load_adapter(adapter_name=name, adapter_state_dict=state, peft_config=LoraConfig(**settings))
    for layer_name, factors in layers.items():
        layer: Any = module.get_submodule(layer_name)
        for factor, tensor in ((layer.lora_A[name], factors.down), (layer.lora_B[name], factors.up)):
            # Beside weights that rest elsewhere, or in eight bits, peft puts them there too, where they cannot compute.
            if factor.weight.is_meta or factor.weight.element_size() == 1:
                device = getattr(getattr(layer.get_base_layer(), "_hf_hook", None), "execution_device", None)
                factor.weight = nn.Parameter(tensor.to(device or factor.weight.device), requires_grad=False)


def _remove(pipe: DiffusionPipeline, name: str) -> None:
    for module in _modules(pipe):
        for layer in module.modules():
            if isinstance(layer, LoraLayer) and name in layer.lora_A:
                layer.delete_adapter(name)
        getattr(module, "peft_config", {}).pop(name, None)


def _active(pipe: DiffusionPipeline) -> dict[LoraLayer, list[str]]:
    """Adapters of others that are at work in each layer."""
    return {layer: [name for name in layer.active_adapters if name not in NAMES] for layer in _lora_layers(pipe)}


def _activate(pipe: DiffusionPipeline, others: dict[LoraLayer, list[str]], name: str | None) -> None:
    for module in _modules(pipe):
        layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
        usual = next((others[layer] for layer in layers if layer in others), [])
        for layer in layers:
            names = [*others.get(layer, usual), *([name] if name else [])]
            if list(layer.active_adapters) != names:
                layer.set_adapter(names, inference_mode=True)


def _take_apart(pipe: DiffusionPipeline) -> None:
    """Undo what bakes weights in: beside it an adapter, or a change of its scale, has no effect."""
    if any(layer.merged for layer in _lora_layers(pipe)):
        log.info("Fused LoRAs are taken apart")
        pipe.unfuse_lora(
            components=[name for name in pipe._lora_loadable_modules if getattr(pipe, name, None) is not None]
        )
    if projections_are_fused(denoiser := _denoiser(pipe)):
        log.info("Fused projections are taken apart")
        denoiser.unfuse_qkv_projections()


def projections_are_fused(denoiser: nn.Module) -> bool:
    processors = getattr(denoiser, "attn_processors", {}).values()
    return any("Fused" in type(processor).__name__ for processor in processors) or any(
        module.fused_projections for module in denoiser.modules() if hasattr(module, "unfuse_projections")
    )


def _loaded(pipe: DiffusionPipeline) -> _Loaded | None:
    """The adapter that is on, if nobody took it off by another way."""
    loaded = getattr(_find_denoiser(pipe), "joinery_adapter", None)
    return loaded if loaded and any(loaded.name in layer.lora_A for layer in _lora_layers(pipe)) else None


def _modules(pipe: DiffusionPipeline) -> list[nn.Module]:
    """Whatever adapters may change."""
    names = ("unet", "transformer", "text_encoder", "text_encoder_2")
    found = (getattr(pipe, name, None) for name in names)
    return [unwrapped(module) for module in found if isinstance(module, nn.Module)]


def _lora_layers(pipe: DiffusionPipeline) -> Iterator[LoraLayer]:
    return (layer for module in _modules(pipe) for layer in module.modules() if isinstance(layer, LoraLayer))


def _find_denoiser(pipe: DiffusionPipeline) -> ModelMixin | None:
    """The UNet or transformer; None of a pipeline that has another network (Stable Cascade)."""
    found = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    return next((unwrapped(module) for module in found if module is not None), None)


def _denoiser(pipe: DiffusionPipeline) -> ModelMixin:
    if (denoiser := _find_denoiser(pipe)) is None:
        raise UserError(
            f"A {type(pipe).__name__} has neither a UNet nor a transformer", "Load adapters on a pipeline that has one"
        )
    return denoiser
