"""Whether simulated peaks are real: small networks trained whole, counted, and in processes of their own.

`peak` puts the figures into results/peak.json.
"""

import os
import subprocess
import sys
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel, ZImageTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.optim import Optimizer

from benchmarks.optimizers.live import InPlace, call, simulated
from benchmarks.optimizers.state import ARCHITECTURES
from training.adapters import PartlyLearnable
from training.optimizers.registry import make_optimizer

BLOCK_BATCH, BLOCK_TOKENS, BLOCK_WIDTH = 4, 4096, 320  # SD 1.5's first level at 512 px


def block(build: Callable) -> None:
    """Train one transformer block of SD 1.5 in float32.

    Args:
        build: makes an optimizer of parameters.
    """
    network = BasicTransformerBlock(BLOCK_WIDTH, 8, BLOCK_WIDTH // 8, cross_attention_dim=768)
    tokens, text = (BLOCK_BATCH, BLOCK_TOKENS, BLOCK_WIDTH), (BLOCK_BATCH, 77, 768)
    _steps(build(network), lambda: network(torch.randn(tokens), encoder_hidden_states=torch.randn(text)))


def small_unet(build: Callable) -> None:
    """Train a UNet of SD 1.5's layers, a quarter as wide, at 512 px, in float32."""
    config = {"block_out_channels": (80, 160, 320, 320), "norm_num_groups": 16, "attention_head_dim": 2}
    network = UNet2DConditionModel(cross_attention_dim=768, **config)
    _steps(build(network), lambda: call(network, 2, 512))


def small_sdxl(build: Callable) -> None:
    """Train a UNet of SDXL's layers, a quarter as wide, at 512 px, in float32."""
    config = {"block_out_channels": (80, 160, 320), "norm_num_groups": 16, "attention_head_dim": (5, 10, 20)}
    network = UNet2DConditionModel(**ARCHITECTURES["SDXL"] | config)
    _steps(build(network), lambda: call(network, 2, 512))


def small_transformer(build: Callable) -> None:
    """Train a transformer of Z-Image's layers, a quarter as wide and as deep, at 512 px, in float32."""
    network = ZImageTransformer2DModel(dim=960, n_layers=8, n_heads=30, n_kv_heads=30, axes_dims=[8, 12, 12])
    latents, text = [torch.randn(16, 1, 64, 64)], [torch.randn(77, 2560)]
    _steps(build(network), lambda: network(latents, torch.full((1,), 0.5), text, return_dict=False)[0][0])


def _steps(optimizer: Optimizer, forward: Callable[[], torch.Tensor], count: int = 2) -> None:
    for _ in range(count):
        forward().float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def adapted(network: nn.Module, name: str = "gradnorm-lorp") -> Optimizer:
    """The product's way: an adapter of rank 16 on the attention, GradNormLoRP."""
    adapter = PartlyLearnable(network, 16, "attention")
    learned = adapter.parameters("content") + adapter.parameters("style")
    return make_optimizer(name, [{"params": learned, "lr": 1e-4}], rank=0.25)


# What is trained, and by what: all weights by AdamW, whose kernels do not allocate, or an adapter.
CHECKS = {
    "transformer block": (block, False),
    "UNet of SD 1.5's layers": (small_unet, False),
    "UNet of SD 1.5's layers, adapter": (small_unet, True),
    "UNet of SDXL's layers, adapter": (small_sdxl, True),
    "transformer of Z-Image's layers, adapter": (small_transformer, True),
}


def check(name: str) -> dict[str, float]:
    """A network's peak by simulation, and in a process that trains it: how far its resident memory grew."""
    train, adapter = CHECKS[name]
    with simulated() as live:
        train(adapted if adapter else lambda network: InPlace(network.parameters(), "adamw"))
    # Freed memory goes back to the system at once, so that the process holds what lives.
    given = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    build = "whole.adapted" if adapter else "lambda network: whole.torch.optim.AdamW(network.parameters())"
    code = (
        "import psutil, resource; from benchmarks.optimizers import whole\n"
        "before = psutil.Process().memory_info().rss\n"
        f"whole.{train.__name__}({build})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=given, check=True, capture_output=True, text=True)
    real = int(done.stdout.split()[-1])
    return {"simulated": live.peak, "real": real, "ratio": round(live.peak / real, 3)}
