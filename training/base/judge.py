"""Who looks at a picture and says its style and its content: one trunk, two heads. A second one confirms the first."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.errors import UserError
from training import checkpoint
from training.base.data import SPLIT, Pair, Pictures, to_network, to_pixels
from training.base.learning import Schedule, train
from training.base.npm import base_folder
from training.draws import choose, keyed
from training.model import autocast, device

FOLDS = 8  # one of them is left out of a check
SMOOTHING = 0.1  # of the labels
BATCH = 256  # pictures looked at together


class Residual(nn.Module):
    """Convolutions with strides and shortcuts, batch normalization, mean over positions."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.stem = _convolution(3, widths[0], 5, 2)
        self.stages = nn.ModuleList()
        for before, width in pairwise(widths):
            entry = _convolution(before, width, 3, 2)
            block = nn.Sequential(_convolution(width, width, 3, 1), nn.Conv2d(width, width, 3, padding=1, bias=False))
            self.stages.append(nn.ModuleList([entry, block, nn.BatchNorm2d(width)]))
        self.width = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            entry, block, norm = stage.children()
            x = entry(x)
            x = F.relu(x + norm(block(x)))
        return x.mean((2, 3))


class Pooled(nn.Module):
    """Patches of four pixels, then convolutions with pooling between them, group normalization, the largest of each."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), nn.GroupNorm(8, widths[0]), nn.GELU()]
        for i, (before, width) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.GELU()]
            if i % 2 == 0:
                layers.append(nn.MaxPool2d(2))
        self.layers, self.width = nn.Sequential(*layers), widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).amax((2, 3))


TRUNKS: dict[str, type[Residual] | type[Pooled]] = {"residual": Residual, "pooled": Pooled}


def _convolution(in_channels: int, out_channels: int, size: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


class Judge(nn.Module):
    """Scores of styles and contents, and the features between.

    Args:
        trunk: "residual" or "pooled".
        styles, contents: what the heads tell apart, in their order.
    """

    def __init__(self, trunk: str, widths: tuple[int, ...], styles: list[str], contents: list[str]):
        super().__init__()
        self.config = {"trunk": trunk, "widths": list(widths), "styles": list(styles), "contents": list(contents)}
        self.trunk = body = TRUNKS[trunk](tuple(widths))
        self.style, self.content = (nn.Linear(body.width, len(words)) for words in (styles, contents))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, 64, 64) in [-1, 1] -> logits of styles (n, s) and of contents (n, c)."""
        features = self.trunk(x)
        return self.style(features), self.content(features)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """uint8 (n, 64, 64, 3) -> float32 (n, d), on the CPU."""
        return torch.cat([self.trunk(to_network(some.to(device()))).cpu() for some in pixels.split(BATCH)])

    @torch.no_grad()
    def says(self, pixels: Tensor, styles: list[str], contents: list[str]) -> list[Pair]:
        """The likeliest content and the likeliest style among those named, for uint8 (n, 64, 64, 3)."""
        s, c = (
            [self.config[key].index(word) for word in words]
            for key, words in (("styles", styles), ("contents", contents))
        )
        said = []
        for some in pixels.split(BATCH):
            style, content = self(to_network(some.to(device())))
            best = zip(content[:, c].argmax(1).tolist(), style[:, s].argmax(1).tolist(), strict=True)
            said += [(contents[i], styles[j]) for i, j in best]
        return said

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, the weights in float16."""
        weights = {
            key: value.half() if value.is_floating_point() else value for key, value in self.state_dict().items()
        }
        checkpoint.write_tensors(folder / "model.safetensors", weights)
        checkpoint.write_bytes(folder / "config.json", (json.dumps(self.config, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> "Judge":
        """Read what `save` wrote.

        Raises:
            UserError: there is no judge in that folder.
        """
        try:
            judge = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
            weights = load_file(folder / "model.safetensors")
            judge.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in weights.items()})
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder} holds no judge ({error})", "Name models/judge, or make one: python -m training.base judge"
            ) from None
        return judge.to(device()).eval()


def accuracy(said: list[Pair], true: list[Pair]) -> dict[str, float]:
    """Shares of pictures whose content, style, and both are right."""
    contents, styles = ([a[i] == b[i] for a, b in zip(said, true, strict=True)] for i in (0, 1))
    both = [a and b for a, b in zip(contents, styles, strict=True)]
    return {key: sum(v) / len(v) for key, v in (("content", contents), ("style", styles), ("both", both))}


@dataclass(frozen=True)
class JudgeRecipe:
    """How a judge is made. Half of each batch are contents of the split; the rest teach styles alone."""

    trunk: str
    widths: tuple[int, ...]
    schedule: Schedule
    seed: int
    lr: float = 2e-3
    weight_decay: float = 0.05


def left_out(pair: Pair) -> bool:
    """Whether a check leaves this content in this style out of training, one of `FOLDS`, by a hash of its name."""
    return hashlib.sha256("/".join(pair).encode()).digest()[0] % FOLDS == 0


def make(
    name: str, recipe: JudgeRecipe, pictures: Pictures, check: bool = False, stop_after: float = math.inf
) -> Judge | None:
    """Train a judge on all pictures; with `check` on those that are not `left_out`, to see what it does with others.

    Returns:
        the judge, or None if it was left off before the end; the same call goes on.
    """
    contents = [*SPLIT["contents"], *SPLIT["held_out_contents"]]
    styles = sorted({style for _, style in pictures.pairs})
    kept = [i for i, pair in enumerate(pictures.pairs) if not (check and left_out(pair))]
    named = torch.tensor([i for i in kept if pictures.pairs[i][0] in contents])
    others = torch.tensor([i for i in kept if pictures.pairs[i][0] not in contents])
    style_of = torch.tensor([styles.index(style) for _, style in pictures.pairs])
    content_of = torch.tensor([contents.index(c) if c in contents else -1 for c, _ in pictures.pairs])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        judge = Judge(recipe.trunk, recipe.widths, styles, contents).to(device())
    decaying, plain = ([p for p in judge.parameters() if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": decaying, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)

    def loss(step: int) -> Tensor:
        count = recipe.schedule.batch // 2
        picked = torch.cat(
            [
                some[choose(recipe.seed, name, kind, step, count, len(some))]
                for kind, some in (("named", named), ("others", others))
                if len(some)
            ]
        )
        x = augment(pictures.pixels[picked], keyed(recipe.seed, name, "augment", step)).to(device())
        with autocast():
            style, content = judge(x)
        targets = content_of[picked].to(device())
        loss = F.cross_entropy(style.float(), style_of[picked].to(device()), label_smoothing=SMOOTHING)
        return loss + F.cross_entropy(content.float(), targets, ignore_index=-1, label_smoothing=SMOOTHING)

    folder = base_folder() / (f"{name}-check" if check else name)
    identity = json.dumps([asdict(recipe), check, len(pictures.pairs)])
    done = train(name, folder, judge, optimizer, loss, recipe.schedule, len(kept), identity, stop_after=stop_after)
    return judge if done else None


def held_out_accuracy(judge: Judge, pictures: Pictures) -> dict[str, float]:
    """What a judge that was made with `check` says of the pictures it was not shown.

    Returns:
        `style` over the base's styles on all their left-out pictures; `content` over the base's contents on those of
        them that show one; `style_of_contents` on these alone; each with `_augmented` on augmented pictures too.
    """
    known = [pair for pair in pictures.pairs if left_out(pair) and pair[1] in SPLIT["styles"]]
    named = [pair for pair in known if pair[0] in SPLIT["contents"]]
    found: dict[str, float] = {}
    for pairs, keys in ((known, {"style": "style"}), (named, {"content": "content", "style_of_contents": "style"})):
        pixels = pictures.take(pairs).pixels
        moved = to_pixels(augment(pixels, keyed("held out", len(pairs))))
        for suffix, shown in (("", pixels), ("_augmented", moved)):
            right = accuracy(judge.says(shown, SPLIT["styles"], SPLIT["contents"]), pairs)
            found |= {key + suffix: round(right[which], 4) for key, which in keys.items()}
    return found | {"pictures": len(known), "pictures_of_contents": len(named)}


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as they might also have been drawn: moved, turned, mirrored, recoloured a little, softened, noisy.

    Args:
        pixels: uint8 (n, 64, 64, 3).
    Returns:
        float32 (n, 3, 64, 64) in [-1, 1].
    """
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((n, *shape), generator=generator)

    x = to_network(pixels)
    angle, size, flip = uniform(-0.12, 0.12), uniform(0.9, 1.2), uniform(0, 1).round() * 2 - 1
    cos, sin = angle.cos() * size, angle.sin() * size
    shift = uniform(-0.12, 0.12, 2)
    grid = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    grid = F.affine_grid(torch.cat([grid, shift[..., None]], 2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = x * uniform(0.85, 1.1, 1, 1, 1) + uniform(-0.08, 0.08, 3, 1, 1)
    soft = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 3, 1)
    soft = F.avg_pool2d(soft, 3, 1)
    x = x.lerp(soft, uniform(-1.2, 0.9, 1, 1, 1).clamp(min=0))
    noise = torch.randn(x.shape, generator=generator)
    return (x + noise * uniform(-0.06, 0.05, 1, 1, 1).clamp(min=0)).clamp(-1, 1)
