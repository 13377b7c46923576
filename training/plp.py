"""Partly learnable projections: of each LoRA factor one half is frozen and shared, the other is learned.

Break-for-Make (arXiv 2403.19456). Of a linear layer with m outputs and n inputs, rank r:

    up   = [A ; B]    m x r    A: the first m // 2 rows, frozen       B: the other rows, learned
    down = [C , D]    r x n    C: the first n // 2 columns, frozen    D: the other columns, learned
    up down = [[A C, A D], [B C, B D]]

One of B and D is the content's, the other the style's; the paper's figure and its code disagree on which.

The halves sit as parametrizations on the weights of peft's LoRA layers, so that peft's forward, scaling and merging
stay as they are, and removing the parametrizations leaves an ordinary LoRA.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipelines.adapters import ADAPTER
from pipelines.errors import UserError
from training.compander import WeightCompander

C_NORM = 4.0  # of each row of C; the entries of A have a variance of one

# Regular expressions over the denoiser's module names, as peft matches them (from the start to the end).
LAYERS = {
    "cross-attention": r".*\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "attention": r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)",
    "attention+feedforward": r".*\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))",
    "all": r".*\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|resnets\.\d+\.conv[12])",
}


def frozen_halves(
    m: int, n: int, rank: int, constant_block: str, seed: int, name: str, kernel: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """A and C of one layer, functions of the seed and the layer's name alone.

    A convolution's inputs are its channels, each with the elements of the kernel.

    Both come from one random orthogonal basis: the columns of A are orthogonal, so are the rows of C, and
    with "zero" they use different coordinates of the rank, A the first half and C the second, so that A C = 0.
    There they are also large, so that D and B stay small beside what they do. With "released" they are orthonormal.

    Returns:
        A, (m // 2, rank), and C, (rank, n // 2, *kernel), float32; A too has four dimensions with a kernel.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    rows, columns, half = m // 2, n // 2 * math.prod(kernel), rank // 2
    # float64, so that the float32 bits do not depend on the number of threads.
    gaussian = torch.randn(max(rows, columns, rank), rank, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian).Q
    if constant_block == "zero":
        A, C = torch.zeros(rows, rank), torch.zeros(rank, columns)
        A[:, :half] = math.sqrt(rows) * _orthonormal(basis[:rows, :half])
        C[half:] = C_NORM * _orthonormal(basis[:columns, half:]).T
    else:
        A, C = _orthonormal(basis[:rows]).float(), _orthonormal(basis[:columns]).T.float()
    return A.reshape(rows, rank, *[1] * len(kernel)), C.reshape(rank, n // 2, *kernel).contiguous()


def _orthonormal(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns: a basis cut to a shorter side has lost that."""
    U, _, Vh = torch.linalg.svd(columns, full_matrices=False)
    return U @ Vh


class Half(nn.Module):
    """Parametrization of one LoRA factor: the frozen half, then the learned one times its scale, along `dim`.

    With a compander the learned half is a bounded function of what is trained.
    """

    def __init__(self, frozen: Tensor, dim: int, compander: WeightCompander | None = None):
        super().__init__()
        self.register_buffer("frozen", frozen, persistent=False)  # a buffer: weight decay cannot reach it
        self.dim, self.scale, self.compander = dim, 1.0, compander

    def forward(self, learned: Tensor) -> Tensor:
        if self.compander is not None:
            learned = self.compander(learned)
        return torch.cat([self.frozen, learned if self.scale == 1.0 else learned * self.scale], self.dim)

    def right_inverse(self, weight: Tensor) -> Tensor:
        start = self.frozen.shape[self.dim]
        learned = weight.narrow(self.dim, start, weight.shape[self.dim] - start).contiguous()
        return learned if self.compander is None else self.compander.right_inverse(learned)


@dataclass(frozen=True)
class Layer:
    """One adapted layer: its name in the denoiser, and the two parametrized factors."""

    name: str
    up: nn.Module  # peft's lora_B, weight m x r
    down: nn.Module  # peft's lora_A, weight r x n; of a convolution r x n x its kernel

    @property
    def B(self) -> nn.Parameter:
        return self.up.parametrizations.weight.original

    @property
    def D(self) -> nn.Parameter:
        return self.down.parametrizations.weight.original


class PartlyLearnable:
    """The partly learnable adapter on a denoiser. Made by `attach`."""

    def __init__(self, denoiser: nn.Module, layers: list[Layer], halves: dict[str, str], apart: bool):
        self.denoiser, self.layers = denoiser, layers
        self.halves = halves  # concept -> the factor, "up" or "down", whose learned half is its own
        self.apart = apart  # A and C use different coordinates of the rank

    def parameters(self, concept: str) -> list[nn.Parameter]:
        """The learned half of a concept, "content" or "style": D of every layer or B."""
        return [layer.D if self.halves[concept] == "down" else layer.B for layer in self.layers]

    def fresh(self) -> None:
        """What a concept starts from: zeros, with which it does nothing."""

    @contextmanager
    def apart_while_stepping(self) -> Iterator[None]:
        """Let D learn only where A reads it and B only where C writes to it, so that B D stays zero.

        The other entries act through B D alone, which no break run can teach: there the other half is a stand-in. Left
        to Adam, which takes steps of full size however small a gradient, they fill B D with noise; a projection
        leaves its rounding there. Without effect where A and C share the coordinates of the rank.
        """
        if not self.apart:
            yield
            return
        for layer in self.layers:
            lower = len(layer.D) // 2
            if layer.D.grad is not None:
                layer.D.grad[lower:] = 0
            if layer.B.grad is not None:
                layer.B.grad[:, :lower] = 0
        yield
        with torch.no_grad():
            for layer in self.layers:
                lower = len(layer.D) // 2
                layer.D[lower:] = 0
                layer.B[:, :lower] = 0

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Multiply the learned halves, in the forward pass only."""
        for layer in self.layers:
            for concept, scale in (("content", content), ("style", style)):
                factor = layer.up if self.halves[concept] == "up" else layer.down
                factor.parametrizations.weight[0].scale = scale

    def half(self, concept: str) -> dict[str, Tensor]:
        """A copy of a concept's learned half by layer name."""
        parameters = self.parameters(concept)
        return {layer.name: p.detach().clone() for layer, p in zip(self.layers, parameters, strict=True)}

    @torch.no_grad()
    def load_half(self, concept: str, half: dict[str, Tensor] | None) -> None:
        """Put a concept's learned half back; None puts zeros, with which it does nothing."""
        for layer, parameter in zip(self.layers, self.parameters(concept), strict=True):
            parameter.zero_() if half is None else parameter.copy_(half[layer.name])

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer name -> up, (m, r), and down, (r, n) or (r, n, *kernel), of the whole adapter at the present scales."""
        return {layer.name: (layer.up.weight.detach(), layer.down.weight.detach()) for layer in self.layers}

    def remove_parametrizations(self) -> None:
        """Leave peft's plain LoRA with the same weights, bit for bit. The halves cannot be told apart afterwards."""
        for layer in self.layers:
            for factor in (layer.up, layer.down):
                parametrize.remove_parametrizations(factor, "weight", leave_parametrized=True)


def attach(
    denoiser: nn.Module,
    rank: int,
    layers: str = "attention",
    constant_block: str = "zero",
    seed: int = 0,
    compander: float = 0.0,
    content_half: str = "down",
) -> PartlyLearnable:
    """Add a fresh partly learnable adapter to a denoiser and freeze everything else.

    With `constant_block="zero"` the denoiser's output stays the same to the bit; with "released" it does not.

    Args:
        rank: even, at most the shorter side of the narrowest layer.
        layers: a key of `LAYERS`.
        seed: of the frozen halves.
        content_half: "down" gives D to the content and B to the style, "up" the other way round.
        compander: a of a Weight Compander on the learned halves, whose entries then stay within a pi / 2; 0 for none.
    Raises:
        UserError: the rank does not fit, or the denoiser has no such layers.
    """
    denoiser.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS[layers], init_lora_weights=False)
    try:
        denoiser.add_adapter(config, adapter_name=ADAPTER)
    except ValueError:
        raise UserError(
            f"The base's {type(denoiser).__name__} has no {layers} layers that an adapter could be put on",
            "Choose another base or other adapter.layers",
        ) from None
    found = []
    for name, module in denoiser.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        up, down = module.lora_B[ADAPTER].float(), module.lora_A[ADAPTER].float()
        m, n, *kernel = up.weight.shape[0], *down.weight.shape[1:]
        if rank > min(m, n):
            raise UserError(
                f"adapter.rank is {rank}, but layer {name} is {m} x {n}",
                f"Set adapter.rank to at most {min(m, n) // 2 * 2}",
            )
        A, C = (
            half.to(up.weight.device) for half in frozen_halves(m, n, rank, constant_block, seed, name, tuple(kernel))
        )
        with torch.no_grad():
            up.weight.copy_(torch.cat([A, A.new_zeros(m - m // 2, *A.shape[1:])]))
            down.weight.copy_(torch.cat([C, C.new_zeros(rank, n - n // 2, *kernel)], dim=1))
        for factor, frozen, dim in ((up, A, 0), (down, C, 1)):
            bounded = WeightCompander(compander, compander).to(frozen.device) if compander else None
            parametrize.register_parametrization(factor, "weight", Half(frozen, dim, bounded))
        found.append(Layer(name, up, down))
    halves = {"content": content_half, "style": "up" if content_half == "down" else "down"}
    return PartlyLearnable(denoiser, found, halves, apart=constant_block == "zero")
