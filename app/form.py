"""Between the project page's fields and a customization."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.pages.optimizer import entered
from pipelines.errors import UserError
from training import Customization
from training.config import PRESETS
from training.optimizers.settings import OPTIMIZERS, Learning


@dataclass(frozen=True)
class ProjectForm:
    """Reads the fields, and says what they start with."""

    sample: Customization

    def read(
        self,
        name: str,
        content_pictures: list | None,
        content_word: str,
        content_placeholder: str,
        content_caption: str,
        style_pictures: list | None,
        style_word: str,
        style_placeholder: str,
        style_caption: str,
        preset: str,
        base: str,
        method: str,
        rank: float,
        layers: str,
        compander: bool,
        compander_scale: float,
        break_steps: float,
        make_steps: float,
        seed: float,
        optimizer: str,
        lr: float,
        make_lr: float,
        *settings: Any,
    ) -> tuple[Customization, dict[str, list[tuple[Path, str | None]]]]:
        """The customization that the fields describe, and its pictures with their own captions.

        Args:
            settings: the values of all the optimizers' slots.

        Raises:
            UserError: a value is out of range.
        """
        pictures = {"content": files(content_pictures), "style": files(style_pictures)}
        if not any(pictures.values()):
            raise UserError("There are no pictures yet", "Add some of a content, of a style, or of both")
        # What the page does not show comes from the sample project, or from another preset's own defaults.
        data: dict[str, Any] = self.sample.model_dump(by_alias=True) if preset == self.sample.preset else {}
        for table in ("adapter", "steps"):
            data.setdefault(table, {})
        concepts = {
            "content": (self.sample.content, content_word, content_placeholder, content_caption),
            "style": (self.sample.style, style_word, style_placeholder, style_caption),
        }
        for concept, (sample, word, placeholder, caption) in concepts.items():
            if not pictures[concept]:  # the other is learned alone
                data[concept] = None
                continue
            own = word.strip() != sample.class_word  # what suits the sample's concept may not suit another
            if own or placeholder.strip() != sample.placeholder:
                data.get("samples", {}).pop("prompt", None)  # the sample project's prompt names its own
            data[concept] = sample.model_dump(exclude={"mirror", "short_captions"} if own else None) | {
                "pictures": [path for path, _ in pictures[concept]],
                "class_word": word.strip(),
                "placeholder": placeholder.strip(),
                "caption": caption.strip(),
            }
        data |= {"name": name.strip() or "my project", "preset": preset, "base": base.strip(), "seed": seed}
        data["adapter"] |= {"method": method, "rank": rank, "layers": layers}
        data["adapter"] |= {"compander": compander, "compander_scale": compander_scale}
        data["steps"] |= {"break": break_steps, "make": make_steps}
        data["optimizer"] = {"name": optimizer, "lr": lr, "make_lr": make_lr} | entered(optimizer, settings)
        return Customization(**data), {concept: shown for concept, shown in pictures.items() if shown}

    def numbers(self, preset: str) -> tuple:
        """What the advanced fields start with, from `base` on; the optimizer's own settings are `optimizer`'s."""
        config = self._start(preset)
        adapter, steps, optimizer = config.adapter, config.steps, config.optimizer
        return (
            _short(config),
            adapter.method,
            adapter.rank,
            adapter.layers,
            adapter.compander,
            adapter.compander_scale,
            steps.break_,
            steps.make,
            config.seed,
            optimizer.name,
            optimizer.lr,
            optimizer.make_lr,
        )

    def optimizer(self, preset: str, name: str | None = None) -> Learning:
        """What an optimizer starts with: the preset's settings if they are its, else its own.

        The rates are the preset's wherever they suit it. Without a name, the preset's optimizer.
        """
        planned = self._start(preset).optimizer
        if name in (None, planned.name):
            return planned
        own = OPTIMIZERS[name]()
        suited = own.lr == OPTIMIZERS[planned.name]().lr
        return OPTIMIZERS[name](lr=planned.lr, make_lr=planned.make_lr) if suited else own

    def _start(self, preset: str) -> Customization:
        """The sample project, or what another preset brings."""
        if preset == self.sample.preset:
            return self.sample
        return Customization(
            preset=preset, content={"pictures": ["content"]}, style={"pictures": ["style"]}, **PRESETS[preset]
        )


def files(value: list | None) -> list[tuple[Path, str | None]]:
    """A gallery's pictures, each with the caption that is its own."""
    return [(Path(path), caption) for path, caption in value or []]


def _short(config: Customization) -> str:
    """The base as a person would type it."""
    path = Path(config.base)
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix() if path.is_absolute() else config.base
    except ValueError:
        return config.base
