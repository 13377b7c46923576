"""What guidance does to pictures: python -m benchmarks.guidance.proof [--count 192] [--only NAME ...]

Draws trained pairs of the embedded base under every rule at every guidance scale, equal prompts and seeds for each
point, and compares the pictures with the real ones of the same pairs: by both judges (distances on their features,
precision and recall, style and content told right) and by their colours. Every kept picture is in data/base/guidance,
so that the same command goes on where the last one ended; --draw stops once all is drawn. Writes results/proof.json,
of which `python -m benchmarks.guidance.report` makes tables, curves and sheet.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from PIL import Image
from torch import Tensor

from benchmarks.common.distances import frechet_distance, kernel_distance, kernel_interval, precision_recall, principal
from benchmarks.common.drawing import both_judges, draw, looks, prompts, rounded
from benchmarks.common.environment import environment
from pipelines import APG, CFG, FDG, TCFG, CFGRescale, CFGZeroStar, GuidanceRule
from pipelines.adapters import fingerprint
from pipelines.guidance import GuidanceState
from training import checkpoint
from training.base import data
from training.base.autoencoder import through
from training.base.data import SPLIT
from training.base.judge import Judge, accuracy
from training.base.npm import base_folder
from training.config import HOUSE
from training.model import open_base
from training.sampling import guided_pipeline

RESULT = Path(__file__).parent / "results/proof.json"
SCALES = (2.0, 4.0, 7.0, 10.0, 15.0)  # and 1, where all rules are one
STEPS = 12
MORE_STEPS = (8, 16)  # at which the rules of COMPARED are drawn at their best scales, too
MIDDLE, QUARTER, EARLY = (0.25, 0.75), (0.25, 0.5), (0.0, 0.5)


@dataclass(frozen=True)
class DiffusersAPG(GuidanceRule):
    """The function behind diffusers' AdaptiveProjectedGuidance, on what the network returns, as diffusers has it."""

    eta: float = 1.0
    norm: float = 15.0  # largest L2 norm of the direction
    momentum: float | None = None

    on_outputs = True
    uses_scale = True

    def direction(self, conditional: Tensor, unconditional: Tensor, state: GuidanceState) -> Tensor:
        buffer = None if self.momentum is None else MomentumBuffer(self.momentum)
        if buffer and state.running_direction is not None:
            buffer.running_average = state.running_direction
        w = state.guidance_scale
        guided = normalized_guidance(conditional.float(), unconditional.float(), w, buffer, self.eta, self.norm)
        if buffer:
            state.running_direction = buffer.running_average
        return (guided - conditional) / (w - 1)


PRESET = APG.preset("emoji")
RADIUS = PRESET.norm_threshold * (4 * 16 * 16) ** 0.5  # the preset's limit as an L2 norm
RULES: dict[str, GuidanceRule] = {
    "CFG": CFG(),
    "CFG, rescale 0.7": CFGRescale(),
    "APG": PRESET,
    "APG, no limit": replace(PRESET, norm_threshold=None),
    "APG, no projection": replace(PRESET, eta=1.0),
    "APG, eta 0.5": replace(PRESET, eta=0.5),
    "APG, no momentum": replace(PRESET, momentum=0.0),
    "APG, limit 0.03": replace(PRESET, norm_threshold=0.03),
    "APG, limit 0.03, momentum -0.5": APG(norm_threshold=0.03, momentum=-0.5),
    "APG, limit 0.06, momentum -0.5": APG(norm_threshold=0.06, momentum=-0.5),
    "CFG-Zero*, no zero steps": CFGZeroStar(zero_steps=0),
    "TCFG": TCFG(),
    "FDG": FDG(),
    "CFG, middle half": CFG(interval=MIDDLE),
    "APG, middle half": replace(PRESET, interval=MIDDLE),
    "APG, first half": replace(PRESET, interval=EARLY),
    "APG, a quarter": replace(PRESET, interval=QUARTER),
    "APG, a quarter, limit 0.03": replace(PRESET, norm_threshold=0.03, interval=QUARTER),
    "diffusers' APG, its defaults": DiffusersAPG(),
    "diffusers' APG, our settings": DiffusersAPG(eta=PRESET.eta, norm=RADIUS, momentum=PRESET.momentum),
}
COMPARED = {"CFG": (2.0, 4.0), "APG": (7.0, 10.0), "APG, middle half": (7.0, 10.0)}


def points() -> list[tuple[str, float, int]]:
    """Rule, guidance scale, steps."""
    found = [("CFG", 1.0, STEPS)]
    found += [(name, w, STEPS) for name in RULES for w in SCALES]
    return found + [(name, w, steps) for name, scales in COMPARED.items() for w in scales for steps in MORE_STEPS]


def place_of(name: str, steps: int) -> str:
    """Of a rule's pictures; a rule whose settings have changed has another."""
    settings = hashlib.sha256(repr(RULES[name]).encode()).hexdigest()[:8]
    return f"{name}, {steps} steps, {settings}".replace(", ", "-").replace(" ", "-")


@dataclass
class Proof:
    """What guidance does to pictures."""

    count: int = 192
    """Pictures at each point."""
    only: list[str] = field(default_factory=list)
    """Rules to draw; all if none is named."""
    draw: bool = False
    """Draw and keep, without comparing."""
    threads: int = 1
    """Of the processor."""

    def __call__(self) -> None:
        torch.set_num_threads(self.threads)
        pictures = data.load()
        pairs = prompts(pictures, -(-self.count * 5 // 4))[0][: self.count]
        pipe = guided_pipeline(open_base(str(HOUSE / "models/emoji")), "emoji")
        folder = base_folder() / "guidance" / f"{fingerprint(pipe.unet)[:12]}-{self.count}"
        drawn = {}
        for name, w, steps in points():
            if not self.only or name in self.only:
                place = folder / place_of(name, steps)
                drawn[name, w, steps] = draw(pipe, pairs, w, place, RULES[name], steps)
        if self.draw:
            return
        real = pictures.take(pairs).pixels
        results = environment() | {"model": fingerprint(pipe.unet), "pictures": self.count, "scheduler": "DPM++ 2M"}
        results["rules"] = {name: repr(rule) for name, rule in RULES.items()}
        judges = both_judges()
        truth = {name: judge.features(real).numpy() for name, judge in judges.items()}

        def right(judge: Judge, pixels: Tensor) -> dict[str, float]:
            return accuracy(judge.says(pixels, SPLIT["styles"], SPLIT["contents"]), pairs)

        told = {name: right(judge, real) for name, judge in judges.items()}

        def figures(pixels: Tensor) -> dict:
            found: dict = {"looks": looks([Image.fromarray(x.numpy()) for x in pixels])}
            for name, judge in judges.items():
                a, b = truth[name], judge.features(pixels).numpy()
                precision, recall = precision_recall(a, b)
                says = right(judge, pixels)
                found[name] = {
                    "kernel": kernel_distance(a, b),
                    "kernel, 95 %": kernel_interval(a, b),
                    "fd_32": frechet_distance(*principal(a, b)),
                    "precision": precision,
                    "recall": recall,
                    "style": says["style"] / told[name]["style"],
                    "content": says["content"] / told[name]["content"],
                }
            return found

        results["real"] = looks([Image.fromarray(x.numpy()) for x in real])
        results["autoencoder alone"] = figures(through(pipe.vae, real))
        results["points"] = []
        for (name, w, steps), pixels in drawn.items():
            share = sum(RULES[name].covers(k, steps) for k in range(steps)) if w > 1 else 0
            point = {"rule": name, "w": w, "steps": steps, "evaluations": steps + share, **figures(pixels)}
            results["points"].append(rounded(point))
            print(json.dumps(results["points"][-1]), flush=True)
        checkpoint.write_bytes(RESULT, (json.dumps(rounded(results), indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(Proof)()
