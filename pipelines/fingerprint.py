"""Which base this is: a hash of its weights, whatever was done to a pipeline since it was opened."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's weights: the same in every file format and floating-point precision, eight bits too; with an
    adapter on, fused or not; with an IP-Adapter; compiled; offloaded; with fused projections.

    The signs of some sixty elements of each tensor stand for all. Rounding leaves them, and hashing every byte of a
    large base takes longer than opening it. Training turns some of them, but not in its first steps: two bases with one
    fingerprint are the same, or one of them has hardly been trained since. Quantized weights have signs of their own
    (`is_known`), unless it was kept before.
    """
    if told := getattr(module, TOLD, ""):
        return told
    digest = hashlib.sha256()
    for name, tensor in sorted(_own_weights(getattr(module, "_orig_mod", module))):
        sample = tensor.detach().flatten()
        signs = ~torch.signbit(sample[:: max(1, sample.numel() // 64)].float()).cpu()  # a small one may round to -0
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + signs.numpy().tobytes())
    return digest.hexdigest()


TOLD = "_fingerprint_told"  # on a module: what it was before its weights were quantized


def keep_fingerprint(module: nn.Module) -> None:
    """Let a module have the same fingerprint after its weights are quantized."""
    setattr(module, TOLD, fingerprint(module))


def is_known(module: nn.Module) -> bool:
    """Whether its fingerprint says which base it is."""
    return hasattr(module, TOLD) or not is_quantized(module)


def is_quantized(module: nn.Module) -> bool:
    """Whether some weights are integers with scales, by whatever backend."""
    if getattr(module, "is_quantized", False) or getattr(module, "hf_quantizer", None) is not None:
        return True
    kinds = {type(weight) for weight in module.parameters()}
    return not kinds <= {nn.Parameter} or any(not weight.is_floating_point() for weight in module.parameters())


def resting_weight(layer: nn.Module) -> Tensor:
    """A layer's weight: sequential offloading keeps it aside, with a placeholder on "meta" in the layer."""
    return _resting(layer, "weight", layer.weight)  # type: ignore[arg-type]


def _resting(layer: nn.Module, name: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta and (hook := getattr(layer, "_hf_hook", None)) is not None:
        for part in getattr(hook, "hooks", (hook,)):
            if getattr(part, "weights_map", None) is not None:
                return part.weights_map[name]
    return tensor


def _own_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What the base brought along, by its own names."""
    ip_adapter = isinstance(getattr(module, "encoder_hid_proj", None), MultiIPAdapterImageProjection)
    for name, tensor in module.state_dict().items():
        path, _, leaf = name.rpartition(".")
        layer = module.get_submodule(path)
        if "lora_" in name or ".processor." in name or (ip_adapter and name.startswith("encoder_hid_proj.")):
            continue
        parent, _, last = path.rpartition(".")
        if last in FUSED and getattr(module.get_submodule(parent), "fused_projections", False):
            continue
        tensor = _resting(layer, leaf, tensor)
        if last == "base_layer" and leaf == "weight":
            tensor = _unmerged(module.get_submodule(parent), tensor)
        name = name.replace("base_layer.", "").replace("_orig_mod.", "")
        # An IP-Adapter on Kolors moves the projection that the base has.
        yield name.replace("text_encoder_hid_proj.", "encoder_hid_proj."), tensor


FUSED = ("to_qkv", "to_kv", "to_added_qkv")  # made by fuse_qkv_projections beside what they are made of


def _unmerged(layer: Any, weight: Tensor) -> Tensor:
    """A base layer's weight without the adapters that were fused into it."""
    for name in layer.merged_adapters:
        weight = weight - layer.get_delta_weight(name).to(weight)
    return weight
