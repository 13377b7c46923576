"""What a base model can do: python -m benchmarks.base.measure [--model models/emoji] [--count 512] [--name emoji]

Draws `count` prompts at each guidance scale, four fifths of them trained pairs and the others left-out ones, and has
both judges look at them beside the real pictures of the same pairs. Pictures are kept in data/base/measured, so that
the same command goes on where the last one ended. Writes results/NAME.json and the sheets docs/pictures/base-*.png.
"""

import json
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from benchmarks.common.distances import frechet_distance, kernel_distance, kernel_interval, principal
from benchmarks.common.drawing import CAPTION, STEPS, both_judges, draw, prompts, rounded
from benchmarks.common.environment import environment
from pipelines import CFG
from pipelines.adapters import fingerprint
from training import checkpoint, sheet
from training.base import data, join
from training.base.autoencoder import signal_to_noise, through
from training.base.data import SPLIT, Pair, Pictures
from training.base.judge import Judge, accuracy
from training.base.npm import base_folder
from training.config import HOUSE
from training.draws import keyed
from training.model import open_base
from training.sampling import guided_pipeline

HERE = Path(__file__).parent
SCALES = (1.0, 2.0, 3.0, 5.0)
PLAIN = CFG()
SHOWN = 2.0  # guidance scale of the sheets
CONTENT, STYLE = "fox", "twemoji"  # of the sheets with one content or one style


@dataclass
class Measure:
    """What a base model can do."""

    model: Path = HOUSE / "models/emoji"
    """The model's folder."""
    count: int = 512
    """Prompts at each guidance scale."""
    name: str = "emoji"
    """Of the result file."""

    def __call__(self) -> None:
        torch.manual_seed(0)
        pictures = data.load()
        trained, left_out = prompts(pictures, self.count)
        pairs = trained + left_out
        pipe = guided_pipeline(open_base(str(self.model)), "emoji")
        folder = base_folder() / "measured" / f"{self.name}-{fingerprint(pipe.unet)[:12]}-{self.count}"
        drawn = {scale: draw(pipe, pairs, scale, folder) for scale in SCALES}
        judges = both_judges()
        real = pictures.take(pairs).pixels
        n = len(trained)

        results = environment() | {
            "model": fingerprint(pipe.unet),
            "seeds": f"0 to {len(pairs) - 1}",
            "steps": STEPS,
            "prompts": {"trained": n, "left out": len(left_out)},
            "seconds for 16 pictures": seconds(pipe, pairs[:16]),
            "autoencoder, dB": autoencoder(pipe, pictures),
        }
        floor, limit = through(pipe.vae, real), held_out(pictures, n)
        for name, judge in judges.items():
            says = partial(judge.says, styles=SPLIT["styles"], contents=SPLIT["contents"])

            def distances(pixels: Tensor, judge: Judge = judge, truth: Tensor = real[:n]) -> dict:
                a, b = judge.features(truth).numpy(), judge.features(pixels).numpy()
                return {
                    "kernel": kernel_distance(a, b),
                    "kernel, 95 %": kernel_interval(a, b),
                    "fd_32": frechet_distance(*principal(a, b)),
                }

            ceiling = shares(says(real), pairs, n)
            results[name] = {
                "real": ceiling,
                "autoencoder alone": {
                    "accuracy": shares(says(floor), pairs, n),
                    "distance": distances(floor[:n]),
                },
                "held-out contents": {"distance": distances(limit)},
            }
            for scale, pixels in drawn.items():
                said = says(pixels)
                found = shares(said, pairs, n)
                of_real = {
                    kind: {key: value / ceiling[kind][key] for key, value in row.items()} for kind, row in found.items()
                }
                row = {"accuracy": found, "share of real": of_real, "distance": distances(pixels[:n])}
                row["trained, by style"] = by_style(said[:n], trained)
                results[name][f"w {scale:g}"] = row
            print(name, json.dumps(rounded(results[name]), indent=1))
        path = HERE / f"results/{self.name}.json"
        checkpoint.write_bytes(path, (json.dumps(rounded(results), indent=1) + "\n").encode())
        sheets(pipe, pictures, pairs, drawn[SHOWN], n, folder)


def shares(said: list[Pair], pairs: list[Pair], n: int) -> dict[str, dict[str, float]]:
    """What is judged rightly of the first n, which are trained pairs, and of the others."""
    return {"trained": accuracy(said[:n], pairs[:n]), "left out": accuracy(said[n:], pairs[n:])}


def by_style(said: list[Pair], pairs: list[Pair]) -> dict[str, dict[str, float]]:
    found = {}
    for style in SPLIT["styles"]:
        of_style = [i for i, pair in enumerate(pairs) if pair[1] == style]
        if of_style:
            found[style] = accuracy([said[i] for i in of_style], [pairs[i] for i in of_style])
    return found


def seconds(pipe: DiffusionPipeline, pairs: list[Pair]) -> dict[str, float]:
    """Median of three, guided and not."""
    found = {}
    for scale in (1.0, 2.0):
        taken = []
        for _ in range(3):
            began = time.monotonic()
            sheet.draw(pipe, [CAPTION.format(*p) for p in pairs], tuple(range(16)), data.SIZE, scale, STEPS, PLAIN)
            taken.append(time.monotonic() - began)
        found[f"w {scale:g}"] = statistics.median(taken)
    return found


def autoencoder(pipe: DiffusionPipeline, pictures: Pictures) -> dict[str, float]:
    """Peak signal to noise of what it was not trained on, a mean over pictures."""
    unseen = data.load("unseen")
    sets = {"held-out contents": pictures.take(data.held_out_pairs(pictures)).pixels}
    for style in SPLIT["held_out_styles"]:
        source = unseen if style in join.SHARE_ALIKE else pictures
        sets[style] = source.take([p for p in source.pairs if p[1] == style and p[0] in SPLIT["contents"]]).pixels
    found = {}
    for name, pixels in sets.items():
        found[name] = signal_to_noise(pipe.vae, pixels)
    found["held-out styles"] = statistics.mean(found[style] for style in SPLIT["held_out_styles"])
    return found


def held_out(pictures: Pictures, count: int) -> Tensor:
    """As many real pictures of held-out contents in known styles."""
    pairs = data.held_out_pairs(pictures)
    order = torch.randperm(len(pairs), generator=keyed("held out"))[:count].tolist()
    return pictures.take([pairs[i] for i in order]).pixels


def sheets(pipe: DiffusionPipeline, pictures: Pictures, pairs: list[Pair], drawn: Tensor, n: int, folder: Path) -> None:
    """Trained pairs, left-out pairs, one content in all styles, one style on many contents; real ones above."""
    docs = HOUSE / "docs/pictures"

    def rows(pairs: list[Pair], images: list[Image.Image], across: int) -> Image.Image:
        real, parts = [pictures.image(pair) if pair in pictures.where else BLANK for pair in pairs], []
        for i in range(0, len(pairs), across):
            part = {"real": real[i : i + across], "drawn": images[i : i + across]}
            parts.append(sheet.compose(part, cell=data.SIZE + 4))
        return sheet.stack(parts)

    def image(i: int) -> Image.Image:
        return Image.fromarray(drawn[i].numpy())

    sheet.save(rows(pairs[:48], [image(i) for i in range(48)], 12), docs / "base-trained-pairs.png")
    distinct = range(n, min(len(pairs), n + 23))
    sheet.save(rows([pairs[i] for i in distinct], [image(i) for i in distinct], 12), docs / "base-left-out-pairs.png")
    for name, wanted in (
        ("content", [(CONTENT, style) for style in SPLIT["styles"]]),
        ("style", [(content, STYLE) for content in SPLIT["contents"]]),
    ):
        images = draw(pipe, wanted, SHOWN, folder / name)
        sheet.save(rows(wanted, [Image.fromarray(x.numpy()) for x in images], 11), docs / f"base-one-{name}.png")


BLANK = Image.new("RGB", (data.SIZE, data.SIZE), "white")  # a pair that no set has


if __name__ == "__main__":
    tyro.cli(Measure)()
