"""Seconds of an optimizer's step, side by side: python -m benchmarks.optimizers.speed [--steps 120] [--gap 30]

The weights are the linear layers of one transformer block of SD 1.5, 640 wide, float32, with given gradients;
the rank is an eighth. The optimizers take turns, one step each, so that whatever else the machine does strikes all
alike. The first window is left out, in whose first step every optimizer draws all its bases; later refreshes are in.
torchao, which compiles some 20 s for each shape, steps on one matrix only, beside others. Writes results/speed.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchao.optim import AdamW8bit

from benchmarks.common.environment import environment
from benchmarks.optimizers.contestants import Contestant, build, kept

RESULT = Path(__file__).parent / "results/speed.json"
WIDTH, TEXT = 640, 768
SHAPES = [(WIDTH, WIDTH)] * 6 + [(WIDTH, TEXT)] * 2 + [(8 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
LR = 1e-4


def rows(gap: int) -> dict[str, Contestant]:
    """What is timed. Projections of ours in product settings: the quick basis, refreshes spread over the window."""
    ours = {"rank": 0.125, "side": "right", "update_proj_gap": gap, "basis": "randomized", "stagger": True}
    return {
        "AdamW, fused": Contestant("full", "adamw"),
        "AdamW, 8-bit (bitsandbytes)": Contestant("full", "adamw-8bit"),
        "Adafactor": Contestant("full", "adafactor", {"clip": 1.0}),
        "GaLore (galore-torch)": Contestant(
            "full", "galore_torch.GaLoreAdamW", {"update_proj_gap": gap, "scale": 0.25, "proj_type": "std"}
        ),
        "Projected AdamW": Contestant("full", "projected-adamw", ours),
        "GradNormLoRP": Contestant("full", "gradnorm-lorp", ours),
        "GradNormLoRP, 8-bit": Contestant("full", "gradnorm-lorp", ours | {"bits": 8}),
        "GradNormLoRP, 8-bit, svd, all at once": Contestant(
            "full", "gradnorm-lorp", ours | {"bits": 8, "basis": "svd", "stagger": False}
        ),
    }


def products(steps: int = 30) -> dict[str, float]:
    """Median seconds of a step's two products with the basis alone, which no projection can do without."""
    generator, taken = torch.Generator().manual_seed(0), {}
    for dtype in (torch.float32, torch.bfloat16):
        parts = []
        for m, n in SHAPES:
            k = min(m, n) // 8
            weight, basis, moved = (torch.randn(shape, generator=generator) for shape in ((m, n), (k, n), (m, k)))
            parts.append((weight, basis.to(dtype), moved.to(dtype)))
        paces = []
        for _ in range(steps):
            began = time.perf_counter()
            for weight, basis, moved in parts:
                weight.to(dtype) @ basis.T
                if dtype == torch.float32:
                    weight.addmm_(moved, basis, alpha=1e-6)
                else:
                    weight.add_(moved @ basis, alpha=1e-6)
            paces.append(time.perf_counter() - began)
        taken[str(dtype).removeprefix("torch.")] = round(float(np.median(paces)), 5)
    return taken


def one_matrix(gap: int, steps: int = 20) -> dict[str, dict]:
    """State and seconds of a step on one matrix of 640 x 640; the first, in which torchao compiles, by itself."""
    chosen = ("AdamW, fused", "AdamW, 8-bit (bitsandbytes)", "GaLore (galore-torch)", "GradNormLoRP, 8-bit")
    everyone = {name: rows(gap)[name] for name in chosen}
    everyone["AdamW, 8-bit (torchao)"] = Contestant("full", "torchao.optim.AdamW8bit")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(WIDTH, WIDTH, generator=generator)
    contestants = {}
    for name, who in everyone.items():
        own = nn.Parameter(weight.clone())
        ao = who.optimizer.startswith("torchao")
        contestants[name] = own, AdamW8bit([own], lr=LR) if ao else build(who, [own], LR)
    paces: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(steps + 1):
        gradient = torch.randn(WIDTH, WIDTH, generator=generator)
        for name, (own, optimizer) in contestants.items():
            own.grad = gradient.clone()
            began = time.perf_counter()
            optimizer.step()
            paces[name].append(time.perf_counter() - began)
    return {
        name: {"first": round(seconds[0], 5), "median": round(float(np.median(seconds[1:])), 5)}
        | {"state": kept(contestants[name][1])}
        for name, seconds in paces.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--gap", type=int, default=30, help="steps between two bases")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    # Gradients with a spectrum that falls, and a little of their own at every step, as those of a network.
    low = [(torch.randn(m, 32, generator=generator), torch.randn(32, n, generator=generator)) for m, n in SHAPES]
    noise = [torch.randn(shape, generator=generator) for shape in SHAPES]
    weights = [torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in SHAPES]
    contestants = {}
    for name, who in rows(arguments.gap).items():
        own = [nn.Parameter(w.clone()) for w in weights]
        contestants[name] = own, build(who, own, LR)
    paces: dict[str, list[float]] = {name: [] for name in contestants}
    for k in range(arguments.steps):
        gradients = [
            (u * (1 + 0.1 * torch.sin(torch.tensor(k / 7)))) @ v + 0.3 * noise[i].roll(k, 0)
            for i, (u, v) in enumerate(low)
        ]
        for name, (own, optimizer) in contestants.items():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient.clone()
            began = time.perf_counter()
            optimizer.step()
            paces[name].append(time.perf_counter() - began)
    rows_found = {}
    for name, seconds in paces.items():
        seconds = seconds[arguments.gap :]
        median, p99 = np.percentile(seconds, 50), np.percentile(seconds, 99)
        rows_found[name] = {
            "median": round(float(median), 5),
            "mean": round(float(np.mean(seconds)), 5),
            "p99": round(float(p99), 5),
            "p99_over_median": round(float(p99 / median), 2),
        }
    for row in rows_found.values():
        row["mean_over_galore"] = round(row["mean"] / rows_found["GaLore (galore-torch)"]["mean"], 3)
        row["median_over_galore"] = round(row["median"] / rows_found["GaLore (galore-torch)"]["median"], 3)
        row["median_over_adamw_8bit"] = round(row["median"] / rows_found["AdamW, 8-bit (bitsandbytes)"]["median"], 3)
    result = environment() | {"shapes": SHAPES, "steps": arguments.steps, "gap": arguments.gap, "rows": rows_found}
    result["products alone"] = products()
    result["one matrix"] = one_matrix(arguments.gap)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows_found, indent=1))


if __name__ == "__main__":
    main()
