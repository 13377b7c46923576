"""Adapter files that other programs load: one ordinary LoRA, which also says where each concept lies in it."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.adapter_file import original_name
from pipelines.adapters import stretches
from pipelines.errors import UserError
from training import checkpoint

Format = Literal["kohya", "peft"]
Precision = Literal["float32", "bfloat16", "float16"]
Component = Literal["unet", "transformer"]
Half = Literal["up", "down", "first rank", "second rank"]
# By which web UIs know a file again, and which nothing that is said of it changes.
DIGESTS = {"sshs_model_hash": "{}", "modelspec.hash_sha256": "0x{}"}
Factors = dict[str, tuple[Tensor, Tensor]]  # layer name in the denoiser -> up (m, r), down (r, n, ...)


@dataclass(frozen=True)
class Card:
    """What an adapter file says about itself, in its safetensors metadata under the key "joinery"."""

    base: str
    base_hash: str
    rank: int
    seed: int  # of the frozen factors
    constant_block: str
    placeholders: dict[str, str]  # "content" and "style"
    layers: tuple[str, ...]  # names in the denoiser: kohya's keys do not say which underscore was a dot
    format: Literal[1] = 1
    component: Component = "unet"  # of the pipeline, that the layers are in
    # Layer -> "up" or "down" -> sizes of the matrices that it is made of: what is said below holds for each of them.
    fused: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    # Where each concept's learned factors lie: "up" is rows m // 2 on of up, "down" is columns n // 2 on of down. With
    # "first rank" and "second rank" it is the first r / 2 of the rank of both, or the others.
    halves: tuple[tuple[str, Half], ...] = (("content", "down"), ("style", "up"))
    # Layer -> the concept that alone has learned there: both factors are its own, whatever is said above.
    alone: dict[str, str] = field(default_factory=dict)
    scales: tuple[tuple[str, float], ...] = (("content", 1.0), ("style", 1.0))  # baked into the weights
    labels: dict[str, str] = field(default_factory=dict)  # further metadata, by which programs know its base

    @classmethod
    def read(cls, text: str) -> Self:
        """The card in a file's metadata; raises ValueError, KeyError, TypeError or AttributeError if it is none."""
        data = json.loads(text)
        pairs = {key: tuple(data[key].items()) for key in ("halves", "scales")}
        return TypeAdapter(cls).validate_python(data | pairs)

    def metadata(self) -> dict[str, str]:
        data = asdict(self) | {"halves": dict(self.halves), "scales": dict(self.scales)}
        # Not said, as in files from before there were these entries.
        usual = {"component": "unet", "fused": {}, "alone": {}, "labels": {}}
        data = {key: value for key, value in data.items() if usual.get(key) != value}
        words = self.placeholders
        return {
            "joinery": json.dumps(data, sort_keys=True),
            # Names that web UIs show.
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(self.rank),
            "ss_network_alpha": str(self.rank),
            "ss_sd_model_name": self.base,
            "modelspec.title": " + ".join(words.values()),
            "modelspec.trigger_phrase": ", ".join(words.values()),
        } | self.labels


def write(
    path: Path,
    factors: Factors,
    card: Card,
    style: Format | None = None,
    said: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter with alpha = rank.

    Args:
        style: of the keys; "kohya" for web UIs and sd-scripts, "peft" for PEFT. diffusers loads both. By default
            kohya's of a UNet; of a transformer only peft's, which ComfyUI reads too.
        said: metadata in place of the card's own.
    Raises:
        UserError: kohya has no such names for it.
    """
    style = style or ("kohya" if card.component == "unet" else "peft")
    if style == "kohya" and card.component != "unet":
        raise UserError(
            "Adapters of a transformer have no names in kohya's format",
            'Choose "peft", which diffusers and ComfyUI read',
        )
    tensors: dict[str, Tensor] = {}
    kohya, metadata = kohya_keys(card), card.metadata() | dict(said or {})
    for name, (up, down) in factors.items():
        if style == "kohya":
            key = kohya[name]
            tensors |= {
                f"{key}.lora_up.weight": up,
                f"{key}.lora_down.weight": down,
                # Readers differ in what they assume where alpha is missing.
                f"{key}.alpha": torch.tensor(float(card.rank)),
            }
        else:
            key = f"{card.component}.{name}"
            tensors |= {f"{key}.lora_B.weight": up, f"{key}.lora_A.weight": down}
    if style == "peft":
        # peft's keys hold no alpha; this is where diffusers looks for it.
        settings = {"r": card.rank, "lora_alpha": card.rank, "target_modules": list(card.layers)}
        metadata["lora_adapter_metadata"] = json.dumps({f"{card.component}.{k}": v for k, v in settings.items()})
    checkpoint.write_tensors(path, tensors, metadata, DIGESTS)


def kohya_keys(card: Card) -> dict[str, str]:
    """Layer -> its key in kohya's format, which has diffusers' names of a UNet, but of SDXL's its authors'."""
    names = {name: name for name in card.layers}
    if card.labels.get("ss_base_model_version", "").startswith("sdxl"):
        places = re.findall(r"down_blocks\.\d+\.(?:resnets|attentions)\.(\d+)\.", " ".join(card.layers))
        depth = max(map(int, places), default=1) + 1
        names = {name: original_name(name, depth) for name in card.layers}
    return {name: f"lora_unet_{theirs.replace('.', '_')}" for name, theirs in names.items()}


def read(path: Path) -> tuple[Factors, Card]:
    """Read one of our files, in either format.

    Raises:
        UserError: it is not there, is no safetensors file, is not one of ours, or a newer version wrote it.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"The adapter {path} is no file", "Name an adapter.safetensors file of a finished run")
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("joinery")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:  # the library says so of one that may not be read, too
        gone = "may not be read" if path.exists() else "does not exist"
        raise UserError(f"The adapter {path} {gone}", "Mend the path, or the right to read it") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is not an adapter made by Joinery ({error})", "Name an adapter.safetensors file of a finished run"
        ) from None
    if said is None:
        raise UserError(
            f"{path} is not an adapter made by Joinery: it does not say where each concept lies",
            "Name an adapter.safetensors file of a finished run",
        )
    try:
        card = Card.read(said)
        kohya = kohya_keys(card)
        return {name: _factors(tensors, card.component, name, kohya[name]) for name in card.layers}, card
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"What {path} says about itself is damaged or from a newer version", "Export it again where it was made"
        ) from None


def _factors(tensors: dict[str, Tensor], component: str, name: str, kohya: str) -> tuple[Tensor, Tensor]:
    for key in (kohya, f"lora_unet_{name.replace('.', '_')}"):  # the second of SDXL in files of before
        if f"{key}.alpha" in tensors:
            return tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
    peft = f"{component}.{name}"
    return tensors[f"{peft}.lora_B.weight"], tensors[f"{peft}.lora_A.weight"]


def convert(
    source: Path,
    target: Path,
    style: Format | None = None,
    precision: Precision | None = None,
    scales: Mapping[str, float] | None = None,
    title: str = "",
    trigger: str = "",
) -> None:
    """Write one of our files anew in another format; by default in the usual one of its base.

    Args:
        precision: of the weights; as they are if not given.
        scales: of "content" and "style", baked into the weights: 1 is then what they were.
        title, trigger: what web UIs show as its name and as its words; its placeholders if not given.
    Raises:
        UserError: as `read`; nothing would be left of it; or a weight is too large for the precision.
    """
    factors, card = read(source)
    if scales:
        if not any(scales.get(concept, 1.0) for concept, _ in card.halves):
            raise UserError("Both scales are 0, so nothing of the adapter would be left", "Raise one of them")
        factors, card = scaled(factors, card, scales)
    if precision:
        dtype = getattr(torch, precision)
        factors = {name: (up.to(dtype), down.to(dtype)) for name, (up, down) in factors.items()}
        if not all(factor.isfinite().all() for pair in factors.values() for factor in pair):
            raise UserError(f"A weight is too large for {precision}", "Choose bfloat16 or float32")
    said = {"modelspec.title": title, "modelspec.trigger_phrase": trigger}
    write(target, factors, card, style, {key: text for key, text in said.items() if text})


def scaled(factors: Factors, card: Card, scales: Mapping[str, float]) -> tuple[Factors, Card]:
    """An adapter with scales of concepts baked into its weights, which it says."""
    baked = tuple((concept, scale * scales.get(concept, 1.0)) for concept, scale in card.scales)
    found = {name: _scaled(name, pair, card, scales) for name, pair in factors.items()}
    return found, replace(card, scales=baked)


def _scaled(name: str, pair: tuple[Tensor, Tensor], card: Card, scales: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """A layer's up and down with each concept's learned factors times its scale."""
    up, down = (factor.clone() for factor in pair)
    if name in card.alone:
        return up.mul_(scales.get(card.alone[name], 1.0)), down
    fused = card.fused.get(name, {})
    for concept, half in card.halves:
        factor, dim = {"up": (up, 0), "down": (down, 1), "first rank": (down, 0), "second rank": (down, 0)}[half]
        for start, size in stretches(half, fused.get(half, (factor.shape[dim],))):
            factor.narrow(dim, start, size).mul_(scales.get(concept, 1.0))
    return up, down


def join(content: Path, style: Path, target: Path) -> None:
    """Join the content of one file with the style of another, without training.

    Raises:
        UserError: the two differ in base, rank, layers, or the seed or kind of their frozen factors.
    """
    (factors_c, card_c), (factors_s, card_s) = read(content), read(style)
    for what in ("base_hash", "rank", "seed", "constant_block", "halves"):
        first, second = getattr(card_c, what), getattr(card_s, what)
        if first != second:
            raise UserError(
                f"{content} and {style} differ in {what.replace('_', ' ')} ({first} and {second})",
                "Join adapters that were trained on the same base with the same rank, adapter.seed and constant_block",
            )
    if (card_c.layers, card_c.alone) != (card_s.layers, card_s.alone):
        raise UserError(
            f"{content} and {style} adapt different layers",
            "Join adapters that were trained with the same adapter.layers, content_in and style_in",
        )
    if card_c.fused != card_s.fused:
        raise UserError(
            f"{content} and {style} differ in how a feed-forward's values and gates are shared",
            "Join adapters that were trained with the same adapter.split_gates",
        )
    words = {"content": card_c.placeholders["content"], "style": card_s.placeholders["style"]}
    scales = ("content", dict(card_c.scales)["content"]), ("style", dict(card_s.scales)["style"])
    if dict(card_c.halves)["content"] == "first rank":
        k = card_c.rank // 2

        def both(name: str, which: int, dim: int) -> Tensor:
            return torch.cat([factors_c[name][which].narrow(dim, 0, k), factors_s[name][which].narrow(dim, k, k)], dim)

        joined = {name: (both(name, 0, 1), both(name, 1, 0)) for name in card_c.layers}
    else:
        ups, downs = (factors_c, factors_s) if dict(card_c.halves)["content"] == "up" else (factors_s, factors_c)
        joined = {name: (ups[name][0], downs[name][1]) for name in card_c.layers}
    joined |= {name: (factors_c if owner == "content" else factors_s)[name] for name, owner in card_c.alone.items()}
    write(target, joined, replace(card_c, placeholders=words, scales=scales))
