"""Adapter files on a pipeline: load one, and scale its content and its style separately."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipelines.errors import UserError

ADAPTER = "joinery"  # the name under which diffusers and peft know the adapter


class AdapterMixin:
    """Gives a diffusers pipeline `load_adapter` and `set_scales`.

    What they need to know is kept on the denoiser, so that pipelines made by `from_pipe` share it.
    """

    def load_adapter(self, path: str | Path, any_base: bool = False) -> None:
        """Load an adapter in place of an earlier one, at content and style scale 1.

        Args:
            path: a safetensors file. One of Joinery's has a content half and a style half; any other LoRA that
                diffusers reads is loaded too, with one scale for all of it.
            any_base: also on another base than it was trained on, a relative of it for example.
        Raises:
            UserError: it is not there, is not safetensors (a pickle, whatever its name), or was trained on another
                base or does not fit this one; an earlier adapter then stays.
        """
        path, card = Path(path), read_card(path)
        denoiser = _denoiser(self)
        if card and not any_base and card["base_hash"] != fingerprint(denoiser):
            raise UserError(
                f"The adapter {path} was trained on {card['base']}, not on this base",
                "Load it there, or try it here all the same with any_base=True",
            )
        self.unload_adapter()
        try:
            self.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER, use_safetensors=True)
        except (RuntimeError, ValueError, KeyError) as error:
            self.unload_adapter()
            raise UserError(
                f"The adapter {path} does not fit this base ({str(error).strip().splitlines()[0][:200].rstrip('.')})",
                "Load it on the base model that it was trained on",
            ) from None
        denoiser.joinery_halves = _find_halves(denoiser, card["halves"]) if card else None

    def unload_adapter(self) -> None:
        """Take the adapter off; without one, nothing happens."""
        if _has_adapter(self):
            self.delete_adapters(ADAPTER)
        _denoiser(self).joinery_halves = None

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Scale the learned halves: 0 leaves a concept out, 1 is as trained, above 1 exaggerates.

        Each call starts from the weights of the file, so no error builds up over many.

        Raises:
            UserError: no adapter is loaded, or it is a plain LoRA and the two scales differ.
        """
        denoiser = _denoiser(self)
        if not _has_adapter(self):
            raise UserError("There is no adapter to scale", "Load one first")
        if denoiser.joinery_halves is None:
            if content != style:
                raise UserError(
                    f"This LoRA has no separate content and style, but their scales are {content:g} and {style:g}",
                    "Set both scales to the same value",
                )
            self.set_adapters(ADAPTER, content)
            return
        scales = {"content": content, "style": style}
        with torch.no_grad():
            for half in denoiser.joinery_halves:
                half.scale(scales[half.concept])


def read_card(path: Path) -> dict | None:
    """What one of Joinery's adapter files says about itself; None for another's.

    Raises:
        UserError: the file is not there or is not safetensors.
    """
    try:
        with safe_open(path, "pt") as file:
            card = (file.metadata() or {}).get("joinery")
    except FileNotFoundError:
        raise UserError(f"The adapter {path} does not exist", "Mend the path") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error})",
            "Load an adapter in safetensors format; pickles (.pt, .bin, .ckpt) can run foreign code and are refused",
        ) from None
    return json.loads(card) if card else None


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights, the same for every file format and precision, with an adapter on or not.

    The signs of some sixty elements of each tensor stand for all: no rounding changes them, the smallest further
    training does, and hashing every byte of a large base takes longer than opening it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if "lora_" in name:
            continue
        sample = tensor.detach().flatten()
        signs = (sample[:: max(1, sample.numel() // 64)] > 0).cpu()
        digest.update(f"{name.replace('base_layer.', '')}{tuple(tensor.shape)}".encode() + signs.numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Half:
    """A concept's learned half of one factor of one layer, and a copy of it as in the file."""

    concept: str
    factor: nn.Module
    dim: int
    start: int
    original: Tensor

    def scale(self, scale: float) -> None:
        # The weight is looked up anew each time: moving a pipeline to another device replaces it.
        weight = self.factor.weight
        weight.narrow(self.dim, self.start, self.original.shape[self.dim]).copy_(self.original * scale)


def _find_halves(denoiser: nn.Module, halves: dict[str, str]) -> list[_Half]:
    """The learned halves of every layer.

    Args:
        halves: concept -> "up" or "down": the second half of that factor's outputs or inputs is the concept's; or
            "first rank" or "second rank": that half of the rank is.
    """
    found = []
    for module in denoiser.modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            for concept, name in halves.items():
                factor = (module.lora_B if name == "up" else module.lora_A)[ADAPTER]
                dim = 1 if name == "down" else 0
                size = factor.weight.shape[dim]
                start, end = (0, size // 2) if name == "first rank" else (size // 2, size)
                original = factor.weight.detach().narrow(dim, start, end - start).clone()
                found.append(_Half(concept, factor, dim, start, original))
    return found


def _has_adapter(pipe) -> bool:
    return any(ADAPTER in names for names in pipe.get_list_adapters().values())


def _denoiser(pipe) -> nn.Module:
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
