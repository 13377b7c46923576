"""Bytes of optimizer state for the real UNets of SD 1.5 and SDXL: python -m benchmarks.optimizers.state

The architectures are built without memory for their weights; the formulas are those whose results the tests compare
with measured state. Writes results/state.json; `benchmarks.optimizers.report` makes the table of it.
"""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from benchmarks.common.environment import environment
from training.optimizers.outlier import blocks_of
from training.optimizers.size import state_bytes

HERE = Path(__file__).parent / "results"
RANK, ACTIVE = 128, 5
ROWS = {
    "AdamW": ("adamw", {}),
    "AdamW, moments in bf16": ("adamw", {"dtype": torch.bfloat16}),
    "AdamW, 8-bit": ("adamw-8bit", {}),
    "Adafactor": ("adafactor", {}),
    "Schedule-free AdamW": ("schedule-free", {}),
    "Prodigy": ("prodigy", {}),
    f"Projected AdamW, rank {RANK}": ("projected-adamw", {"rank": RANK}),
    f"GradNormLoRP, 8-bit, rank {RANK}": ("gradnorm-lorp", {"rank": RANK, "bits": 8}),
    f"GradNormLoRP, 8-bit, rank {RANK}, basis in fp32": (
        "gradnorm-lorp",
        {"rank": RANK, "bits": 8, "basis_dtype": torch.float32},
    ),
}
OWLORE = f"OwLore, {ACTIVE} blocks at a time, rank {RANK}"


ARCHITECTURES = {
    "SD 1.5": {"cross_attention_dim": 768},
    "SDXL": {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def unets() -> dict[str, UNet2DConditionModel]:
    """The two architectures, on the meta device."""
    with torch.device("meta"):
        return {name: UNet2DConditionModel(**config) for name, config in ARCHITECTURES.items()}


def linear_shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(m.weight.shape) for m in module.modules() if isinstance(m, nn.Linear)]


def measure(unet: UNet2DConditionModel) -> dict:
    """Parameters, and bytes of state by set of weights and optimizer."""
    blocks = blocks_of(unet)
    per_block = [linear_shapes(block) for block in blocks.values()]
    sets = {
        "linear layers of the transformer blocks": [shape for shapes in per_block for shape in shapes],
        "all weights": [tuple(p.shape) for p in unet.parameters()],
    }
    result: dict = {"parameters": sum(p.numel() for p in unet.parameters()), "blocks": len(blocks)}
    for title, shapes in sets.items():
        row = {name: sum(state_bytes(kind, s, **own) for s in shapes) for name, (kind, own) in ROWS.items()}
        if title != "all weights":
            each = [sum(state_bytes("projected-adamw", s, rank=RANK) for s in shapes) for shapes in per_block]
            row[OWLORE] = sum(sorted(each)[-ACTIVE:])  # the largest that can be drawn
        result[title] = {
            "tensors": len(shapes),
            "parameters": sum(torch.Size(s).numel() for s in shapes),
            "bytes": row,
            "below_bf16_adamw": {n: round(1 - b / row["AdamW, moments in bf16"], 4) for n, b in row.items()},
        }
    return result


def table(results: dict) -> str:
    """The figures as a Markdown table, in gigabytes."""
    results = {name: results[name] for name in ARCHITECTURES}
    columns = [(model, title) for model, r in results.items() for title in r if isinstance(r[title], dict)]
    lines = ["| GB | " + " | ".join(f"{model}, {title}" for model, title in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for name in [*ROWS, OWLORE]:
        cells = [results[model][title]["bytes"].get(name) for model, title in columns]
        lines.append(f"| {name} | " + " | ".join("" if b is None else f"{b / 1e9:.2f}" for b in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    results = {name: measure(unet) for name, unet in unets().items()}
    HERE.mkdir(parents=True, exist_ok=True)
    (HERE / "state.json").write_text(json.dumps(environment() | results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
