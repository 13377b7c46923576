"""A step of training beside that of diffusers' own LoRA script: python -m benchmarks.training.speed

The script's loop, as examples/dreambooth/train_dreambooth_lora.py of diffusers has it, and ours: the same base, batch,
rank, layers and precision, and cached latents and embeddings on both sides, which the script as shipped computes anew
in each step. The contestants take turns, one step each, so that whatever else the machine does strikes all alike. Bases
are the embedded one, and an SDXL-shaped UNet of a fifth of its width with weights by chance, pictures of 256 pixels.
Writes results/speed.json and the table in docs/training.md.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from diffusers import DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from torch import nn

from benchmarks.common import document
from benchmarks.common.environment import environment
from tests.tiny import TEXT_WIDTH, tiny_pipeline
from training import Customization, Run
from training.families import denoiser_of, family_of
from training.loop import Work, begin_stage, prepare_work, train_step
from training.state import State

HERE = Path(__file__).parent
RESULT = HERE / "results/speed.json"
DOCUMENT = HERE.parents[1] / "docs/training.md"
RANK, LAYERS = 32, "all"
SCRIPT = "diffusers' LoRA script"
OURS = {  # row -> stage, and tables of the project
    "break, AdamW": ("content", {"optimizer": {"name": "adamw"}}),
    "break, GradNormLoRP": ("content", {}),
    "make, AdamW": ("make", {"optimizer": {"name": "adamw"}}),
    "make, GradNormLoRP": ("make", {}),
}
Step = Callable[[], object]


@dataclass(frozen=True)
class Base:
    """A base, and how much is learned from it at once."""

    folder: str
    resolution: int
    batch_size: int
    rounds: int


def sdxl_shaped(folder: Path) -> Path:
    """A base with SDXL's blocks at a fifth of their width, and encoders that only have its shapes' names."""
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(HERE.parents[1] / "training/configs/sdxl/unet")
    config |= {
        "block_out_channels": [64, 128, 256],
        "attention_head_dim": [1, 2, 4],  # heads, each 64 wide as there
        "cross_attention_dim": 2 * TEXT_WIDTH,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * 8,
    }
    pipe = tiny_pipeline(StableDiffusionXLPipeline)
    pipe.register_modules(unet=UNet2DConditionModel.from_config(config))
    pipe.save_pretrained(folder)
    return folder


def ours(base: Base, folder: Path, stage: str, tables: dict) -> tuple[Work, Step]:
    """Joinery's loop on a stage of a project without others, whose concept learns half of a PLP in all layers."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for i in range(base.batch_size):
        Image.effect_noise((base.resolution,) * 2, 60 + i).convert("RGB").save(pictures / f"{i}.png")
    everywhere = {"content_in": "everywhere", "style_in": "everywhere", "rank": RANK, "layers": LAYERS}
    config = Customization(
        base=base.folder,
        resolution=base.resolution,
        content={"pictures": [pictures], "variants": {}},
        style={"pictures": [pictures], "mirror": False},
        others={"count": 0},
        adapter=everywhere,
        steps={"break": 1000, "make": 1000, "batch_size": base.batch_size, "gradient_checkpointing": False},
        samples={"every": 0},
        precision="fp32",
        **tables,
    )
    run = Run(folder / "run")
    run.begin(config)
    work = prepare_work(config, run, lambda: False)
    at = next(one for one in work.stages if one.name == stage)
    state = State(step=at.first, done={c: work.adapter.fresh() for c in config.concepts})
    begin_stage(work, state, at)

    def step() -> None:
        train_step(work, state, at)
        state.step += 1

    return work, step


def script(work: Work, denoiser: nn.Module, layers: list[str], batch_size: int) -> Step:
    """A step of diffusers' script, from what our run has cached."""
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=layers))
    learned = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    schedule = DDPMScheduler.from_config(work.pipe.scheduler.config)
    concept, family = work.concepts["content"], family_of(work.pipe)

    def step() -> None:
        index = torch.randperm(len(concept))[:batch_size]
        latents, conditions = concept[index]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),))
        noisy = schedule.add_noise(latents, noise, timesteps)
        predicted = denoiser(noisy, timesteps, **family.inputs(conditions), return_dict=False)[0]
        kind = schedule.config.prediction_type
        target = noise if kind == "epsilon" else schedule.get_velocity(latents, noise, timesteps)
        F.mse_loss(predicted.float(), target.float(), reduction="mean").backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()

    return step


def measure(base: Base, folder: Path) -> dict:
    """Median seconds of a step for each contestant, and its ratio to the script's."""
    steps: dict[str, Step] = {}
    first = None
    for name, (stage, tables) in OURS.items():
        work, steps[name] = ours(base, folder / name.replace(" ", "-").replace(",", ""), stage, tables)
        first = first or work
    denoiser = type(denoiser_of(first.pipe)).from_pretrained(base.folder, subfolder="unet")
    steps = {SCRIPT: script(first, denoiser, [layer.name for layer in first.adapter.layers], base.batch_size)} | steps
    paces: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(base.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if k:
                paces[name].append(time.perf_counter() - began)
    ratios = {name: [a / b for a, b in zip(paces[name], paces[SCRIPT], strict=True)] for name in paces}
    return {
        name: {"seconds": round(statistics.median(paces[name]), 3), "ratio": round(statistics.median(ratios[name]), 3)}
        for name in paces
    }


def main(bases: tuple[Literal["embedded", "SDXL-shaped"], ...] = ("embedded", "SDXL-shaped"), rounds: int = 0) -> None:
    """Measure bases, and keep what was measured of the others.

    Args:
        bases: which.
        rounds: steps of each contestant; 0: 40 of the embedded base, 12 of the other.
    """
    torch.set_num_threads(1)
    result: dict = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in bases:
        with tempfile.TemporaryDirectory() as folder:
            if name == "embedded":
                base = Base("models/emoji-composing", 64, 8, rounds or 40)
            else:
                base = Base(str(sdxl_shaped(Path(folder) / "sdxl")), 256, 2, rounds or 12)
            rows = measure(base, Path(folder) / name)
        result |= environment() | {name: {"batch_size": base.batch_size, "rounds": base.rounds, "rows": rows}}
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(document.put(DOCUMENT.read_text(encoding="utf-8"), speed=table(result)), encoding="utf-8")


def table(result: dict) -> str:
    bases = [name for name in result if isinstance(result[name], dict) and "rows" in result[name]]
    heads = [f"{name}, batch {result[name]['batch_size']}: seconds" for name in bases]
    rows = [["a step of", *(cell for head in heads for cell in (head, "ratio"))]]
    for name in (SCRIPT, *OURS):
        cells = [result[base]["rows"][name] for base in bases]
        rows.append([name, *(text for cell in cells for text in (f"{cell['seconds']:.2f}", f"{cell['ratio']:.2f}"))])
    return document.table(rows)


if __name__ == "__main__":
    tyro.cli(main)
