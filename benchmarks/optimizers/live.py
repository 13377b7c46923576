"""Memory of a computation that is not done: bytes of storages that live at a time, counted on tensors without data."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from training.adapters import factors
from training.optimizers import quantized
from training.optimizers.projection import Projection
from training.optimizers.size import state_bytes

ASKED_OF_DATA = {"share": 1.0, "has_direction": True, "live": 1}  # what a projection asks of numbers that are not there


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, each until its last tensor is gone.

    What a kernel allocates and frees within itself is not seen. `now` and `peak` are bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._living: set[int] = set()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._living:
            self._living.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._living.discard(key)
        self.now -= size


@contextmanager
def simulated() -> Iterator[LiveBytes]:
    """Within, new tensors have no data, what looks at data is answered for it, and bytes are counted.

    Attention is the kernel that keeps no matrix of scores, as on a GPU.
    """
    answers = {name: lambda *_, value=value: value for name, value in ASKED_OF_DATA.items()}
    tables = {
        "codes": lambda signed: torch.empty(256),
        "_tables": lambda signed: (torch.empty(2**16, dtype=torch.int32), torch.empty(256)),
    }
    with (
        patch.multiple(Projection, **answers),
        patch.multiple(quantized, **tables),
        patch.object(factors, "frozen_factors", _frozen_factors),
        patch.object(torch.nn.functional, "scaled_dot_product_attention", _attention),
        torch.device("meta"),
        LiveBytes() as live,
    ):
        yield live


def _attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]


def _frozen_factors(
    m: int, n: int, rank: int, constant_block: str, seed: int, name: str, kernel: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    return torch.empty(m // 2, rank, *[1] * len(kernel)), torch.empty(rank, n // 2, *kernel)


class InPlace(Optimizer):
    """The memory of an optimizer whose kernels work in place, fused AdamW or bitsandbytes' AdamW8bit: its state alone.

    The moments of `name` by the formula, AdamW's in the weights' type as torch keeps them.
    """

    def __init__(self, params: Iterable, name: str):
        super().__init__(params, {"name": name})

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p not in self.state:
                    size = state_bytes(group["name"], tuple(p.shape), dtype=p.dtype)
                    self.state[p]["moments"] = torch.empty(size, dtype=torch.uint8)


def call(unet: UNet2DConditionModel, batch: int, resolution: int) -> Tensor:
    """What a UNet says to any latents and text."""
    dtype, config = unet.dtype, unet.config
    added = {"text_embeds": (batch, 1280), "time_ids": (batch, 6)} if config.addition_embed_type else {}
    return unet(
        torch.randn(batch, 4, resolution // 8, resolution // 8, dtype=dtype),
        torch.zeros(batch, dtype=torch.long),
        encoder_hidden_states=torch.randn(batch, 77, config.cross_attention_dim, dtype=dtype),
        added_cond_kwargs={key: torch.randn(shape, dtype=dtype) for key, shape in added.items()} or None,
        return_dict=False,
    )[0]
