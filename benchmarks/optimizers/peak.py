"""Peak memory of training SD 1.5's and SDXL's UNets, simulated: python -m benchmarks.optimizers.peak [--only NAME ...]

Random weights in bf16, batch 1, two steps. Storages are counted while they live, on tensors without data
(`live.LiveBytes`): weights, gradients, what the backward pass keeps, optimizer state and what a step needs for a while.
Not in the figures: what a kernel or an allocator takes for itself, and, but for the presets, text encoders and
autoencoder. The method is checked against what processes really take that train small networks whole. Writes
results/peak.json.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.common.environment import environment
from benchmarks.optimizers.live import InPlace, call, simulated
from benchmarks.optimizers.state import ACTIVE, ARCHITECTURES, unets
from benchmarks.optimizers.whole import CHECKS, check
from training.adapters import METHODS, PartlyLearnable
from training.config import Customization
from training.families.diffusion import LAYERS
from training.memory import ROWS as MEMORY
from training.optimizers.backward import StepInBackward
from training.optimizers.outlier import OutlierLayerSampler, blocks_of
from training.optimizers.registry import make_optimizer
from training.optimizers.size import state_bytes
from training.others import AT_ONCE, at_once
from training.plan import plan
from training.previews import SEEDS

RESULT = Path(__file__).parent / "results/peak.json"
SIZES = {"SD 1.5": (512,), "SDXL": (512, 1024)}
SWITCHES = 20
MODELS = {"sd15": "SD 1.5", "sdxl": "SDXL"}
AUTOENCODER_SIZE = 83_653_863  # parameters
# Parameters beside the UNet: CLIP ViT-L/14 and the autoencoder; SD 1.5's safety checker; SDXL's OpenCLIP ViT-bigG/14.
BESIDE = {"sd15": 123_060_480 + AUTOENCODER_SIZE + 303_981_588, "sdxl": 123_060_480 + AUTOENCODER_SIZE + 694_659_840}
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
DRIVER = 0.5  # GB of a GPU that are not ours


@dataclass(frozen=True)
class Row:
    learns: str  # "all", "blocks", "lora", "plp", or "full" for what the method of that name learns
    optimizer: str
    settings: dict = field(default_factory=dict)
    rank: int = 64  # of the adapter
    in_backward: bool = False
    layers: str = "attention"  # of the adapter or the method
    dtype: torch.dtype = torch.bfloat16


PROJECTED = {"rank": 128, "update_proj_gap": 200}
ROWS = {
    "AdamW": Row("all", "adamw"),
    "AdamW, 8-bit": Row("all", "adamw-8bit"),
    "AdamW, 8-bit, steps in the backward pass": Row("all", "adamw-8bit", in_backward=True),
    "GradNormLoRP, 8-bit, rank 128, steps in the backward pass": Row(
        "all", "gradnorm-lorp", PROJECTED | {"bits": 8}, in_backward=True
    ),
    "OwLore, 5 blocks, rank 128, steps in the backward pass": Row("blocks", "owlore", PROJECTED, in_backward=True),
    "LoRA, rank 64, AdamW": Row("lora", "adamw"),
    "PLP, rank 64, GradNormLoRP 8-bit": Row("plp", "gradnorm-lorp", {"rank": 0.25, "bits": 8, "magnitude_lr": "row"}),
}
FULL_WEIGHT = "GradNormLoRP, 8-bit, rank 128, steps in the backward pass"  # the headline's
OWLORE = "OwLore, 5 blocks, rank 128, steps in the backward pass"


class Sampler(OutlierLayerSampler):
    """Draws with numbers, which a simulation has not."""

    def draw(self, number: int) -> list[str]:
        with torch.device("cpu"):
            return super().draw(number)


def build(row: Row, unet: UNet2DConditionModel) -> tuple[Optimizer, Callable[[int], object]]:
    """A row's optimizer on a UNet, and what comes before each step."""
    unet.requires_grad_(row.learns == "all")
    match row.learns:
        case "all":
            weights = list(unet.parameters())
        case "blocks":
            weights = [p for block in blocks_of(unet).values() for p in block.parameters()]
        case "lora":
            unet.add_adapter(LoraConfig(r=row.rank, lora_alpha=row.rank, target_modules=LAYERS[row.layers]))
            weights = [p for p in unet.parameters() if p.requires_grad]
            for p in weights:
                p.data = p.data.float()
        case "plp":
            adapter = PartlyLearnable(unet, row.rank, row.layers)
            weights = adapter.parameters("content") + adapter.parameters("style")
        case "full":
            pattern, kinds = re.compile(LAYERS[row.layers]), (nn.Linear, nn.Conv2d)
            layers = [m for name, m in unet.named_modules() if isinstance(m, kinds) and pattern.fullmatch(name)]
            weights = [layer.weight.requires_grad_() for layer in layers]
    if row.optimizer in ("adamw", "adamw-8bit"):
        optimizer: Optimizer = InPlace(weights, row.optimizer)
    else:
        optimizer = make_optimizer(row.optimizer, [{"params": weights, "lr": 1e-4}], **row.settings)
    if row.in_backward:
        StepInBackward(optimizer)
    if row.optimizer != "owlore":
        return optimizer, lambda step: None
    learned, blocks = set(weights), blocks_of(unet)
    blocks = {name: block for name, block in blocks.items() if not learned.isdisjoint(block.parameters())}
    return optimizer, Sampler(optimizer, blocks, dict.fromkeys(blocks, 1.0), ACTIVE, every=1).before_step


def kept(state: object) -> int:
    """Bytes of the tensors in an optimizer's state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(map(kept, state.values())) if isinstance(state, dict) else 0


def simulate(
    model: str, resolution: int, row: Row, checkpointing: bool, batch: int = 1, steps: int = 2, drawn: int = 0
) -> list[dict[str, int]]:
    """Bytes after each step of a training.

    Args:
        drawn: pictures that the UNet then draws at once, with guidance.
    Returns:
        for each step the weights, those of an adapter with them, the optimizer's state, all that is kept, and the peak
        so far; the last one's `drawing` is the peak of drawing.
    """
    found = []
    with simulated() as live:
        unet = UNet2DConditionModel(**ARCHITECTURES[model]).to(row.dtype)
        optimizer, before_step = build(row, unet)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        weights = live.peak = live.now
        for k in range(steps):
            before_step(k)
            call(unet, batch, resolution).float().square().mean().backward()
            if not row.in_backward:
                optimizer.step()
                optimizer.zero_grad()
            found.append({"weights": weights, "state": kept(optimizer.state), "rest": live.now, "peak": live.peak})
        if drawn:
            live.peak = live.now
            with torch.no_grad():
                call(unet, 2 * drawn, resolution)
            found[-1]["drawing"] = live.peak
    return found


def switches() -> dict:
    """OwLore on SD 1.5 with new blocks at every step: bytes of state after each, and of the largest blocks together."""
    row = ROWS[OWLORE]
    each = [
        sum(state_bytes("owlore", tuple(p.shape), rank=row.settings["rank"]) for p in block.parameters())
        for block in blocks_of(unets()["SD 1.5"]).values()
    ]
    steps = simulate("SD 1.5", 512, row, True, steps=SWITCHES + 1)
    return {
        "state": [step["state"] for step in steps],
        "beside_weights": [step["rest"] - step["weights"] for step in steps],
        "largest": sum(sorted(each)[-ACTIVE:]),
        "all": sum(each),
    }


def autoencoding(resolution: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that the autoencoder of SD 1.5 and SDXL takes beside its weights, to encode a picture in float32, as
    pictures are prepared, and to decode one."""
    found = []
    for kind, side, channels in ((torch.float32, resolution, 3), (dtype, resolution // 8, 4)):
        with simulated() as live, torch.no_grad():
            autoencoder = AutoencoderKL(**AUTOENCODER).to(kind)
            weights = live.peak = live.now
            part = autoencoder.encode if channels == 3 else autoencoder.decode
            part(torch.randn(1, channels, side, side, dtype=kind))
            found.append(live.peak - weights)
    return found[0], found[1]


def draws_others(config: Customization) -> bool:
    """Whether the base draws pictures of other concepts before it learns, which are more than a strip's."""
    return any(part.concept.startswith("other") for stage in plan(config) for part in stage.parts)


def preset(name: str, method: str, memory: int | str) -> dict[str, int]:
    """Bytes of a row of the table of presets, with everything that is loaded then.

    Returns:
        peaks of encoding, when the autoencoder alone is on the GPU, and before it all that is loaded; of training,
        when what encodes rests in ordinary memory, which is the same memory where there is no GPU; and of drawing.
    """
    config = Customization(
        preset=name, memory=memory, adapter={"method": method}, content={"pictures": "c"}, style={"pictures": "s"}
    )
    own, dtype = config.optimizer, {"bf16": torch.bfloat16, "fp32": torch.float32}[config.precision]
    alone = METHODS[method].steps_in_backward and own.independent and config.steps.accumulation == 1
    row = Row(method, own.name, own.own_settings(), config.adapter.rank, alone, config.adapter.layers, dtype)
    settings, drawn = config.steps, len(SEEDS)
    if draws_others(config):
        drawn = max(drawn, min(AT_ONCE, at_once(config.resolution)))
    last = simulate(
        MODELS[name], config.resolution, row, settings.gradient_checkpointing, settings.batch_size, drawn=drawn
    )[-1]
    beside = BESIDE[name] * dtype.itemsize
    encoded, decoded = autoencoding(config.resolution, dtype)
    everything, resting = beside + last["weights"], beside if memory == "cpu" else 0
    encoding = 4 * AUTOENCODER_SIZE + encoded + (everything - AUTOENCODER_SIZE * dtype.itemsize if resting else 0)
    return {
        "encoding": max(everything, encoding),
        "training": resting + last["peak"],
        "drawing": beside + max(last["drawing"], last["rest"] + decoded),
        "state": last["state"],
        "room": None if memory == "cpu" else int((memory - DRIVER) * 2**30),
    }


def table(result: dict) -> str:
    """The peaks as a Markdown table, in gigabytes; without and with gradient checkpointing."""
    columns = [(model, size) for model, sizes in SIZES.items() for size in sizes]
    lines = ["| GB, simulated | " + " | ".join(f"{model}, {size} px" for model, size in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for name in ROWS:
        cells = [[result["peaks"][cell_name(name, m, s, c)]["peak"] for c in (False, True)] for m, s in columns]
        lines.append(f"| {name} | " + " | ".join(f"{a / 1e9:.1f}, {b / 1e9:.1f}" for a, b in cells) + " |")
    return "\n".join(lines)


def check_table(result: dict) -> str:
    """Simulated and real peaks of small networks as a Markdown table, in gigabytes."""
    lines = ["| GB | simulated | real | ratio |", "|---|---|---|---|"]
    for name in CHECKS:
        row = result["check"][name]
        lines.append(f"| {name} | {row['simulated'] / 1e9:.2f} | {row['real'] / 1e9:.2f} | {row['ratio']} |")
    return "\n".join(lines)


def preset_table(result: dict) -> str:
    """The presets by memory as a Markdown table, in gigabytes: encoding, training, drawing, room."""
    shown = ("encoding", "training", "drawing", "room")
    lines = [f"| preset | method | memory, GB | {' | '.join(shown)} |", "|---|---|---|" + "---|" * len(shown)]
    for key in MEMORY:
        row = result["presets"][", ".join(map(str, key))]
        cells = ["" if row[name] is None else f"{row[name] / 1e9:.1f}" for name in shown]
        lines.append(f"| {' | '.join([*map(str, key), *cells])} |")
    return "\n".join(lines)


def cell_name(row: str, model: str, resolution: int, checkpointing: bool) -> str:
    return f"{row} | {model}, {resolution} px" + (", gradient checkpointing" if checkpointing else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("check", "peaks", "presets", "switches")
    parser.add_argument("--only", nargs="*", default=parts, choices=parts)
    only = parser.parse_args().only
    torch.set_num_threads(1)

    def result(part: str, key: str, make: Callable[[], dict]) -> None:
        """One entry, unless an earlier call has made it."""
        found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        if key in found.get(part, {}):
            return
        began, made = time.monotonic(), make()
        print(part, key, made, f"{time.monotonic() - began:.0f} s", flush=True)
        found = environment() | (json.loads(RESULT.read_text()) if RESULT.exists() else {})
        found.setdefault(part, {})[key] = made
        headline = found.get("peaks", {}).get(cell_name(FULL_WEIGHT, "SDXL", 512, True))
        if headline:
            found["sdxl_fullweight_peak_gb"] = round(headline["peak"] / 1e9, 2)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")

    if "check" in only:
        for name in CHECKS:
            result("check", name, lambda: check(name))  # noqa: B023
    if "peaks" in only:
        for model, sizes in reversed(SIZES.items()):
            for size, checkpointing, name in product(sizes, (True, False), ROWS):
                key = cell_name(name, model, size, checkpointing)
                result("peaks", key, lambda: simulate(model, size, ROWS[name], checkpointing)[-1])  # noqa: B023
    if "presets" in only:
        for key in MEMORY:
            result("presets", ", ".join(map(str, key)), lambda: preset(*key))  # noqa: B023
    if "switches" in only:
        result("switches", "OwLore, SD 1.5", switches)


if __name__ == "__main__":
    main()
