"""Step 1: pictures of a content and of a style, their words, and the few numbers that matter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import figures, jobs
from app.checks import check
from app.library import Library
from app.pages import QUICK
from pipelines.errors import UserError
from training import Customization, Run
from training.config import PRESETS
from training.optimizers.settings import DEFAULT, OPTIMIZERS
from training.packages import installed
from training.pictures import find_pictures
from training.plan import plan

PRESET_NAMES = [
    ("Embedded emoji base, 64 px", "emoji"),
    ("Stable Diffusion 1.5, 512 px", "sd15"),
    ("Stable Diffusion XL, 1024 px", "sdxl"),
]
OPTIMIZER_NAMES = {
    "adamw": "AdamW",
    "adamw-8bit": "AdamW, 8-bit",
    "lora-plus": "LoRA+",
    "adafactor": "Adafactor",
    "schedule-free": "Schedule-free AdamW",
    "prodigy": "Prodigy",
    "projected-adamw": "Projected AdamW (GaLore)",
    "gradnorm-lorp": "GradNormLoRP",
    "owlore": "OwLore",
}
LAYERS = [
    ("Cross-attention only", "cross-attention"),
    ("All attention", "attention"),
    ("Attention and feed-forward", "attention+feedforward"),
    ("These and convolutions", "all"),
]


@dataclass(frozen=True)
class ProjectPage:
    fields: list[gr.components.Component]  # in the order in which `ProjectForm.read` takes their values
    start: gr.Button
    note: gr.HTML


@dataclass(frozen=True)
class ProjectForm:
    """Between the page's fields and a customization."""

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
        rank: float,
        layers: str,
        break_steps: float,
        make_steps: float,
        optimizer: str,
        lr: float,
        make_lr: float,
        seed: float,
    ) -> tuple[Customization, dict[str, list[tuple[Path, str | None]]]]:
        """The customization that the fields describe, and its pictures with their own captions.

        Raises:
            UserError: a value is out of range.
        """
        pictures = {"content": _files(content_pictures), "style": _files(style_pictures)}
        if not any(pictures.values()):
            raise UserError("There are no pictures yet", "Add some of a content, of a style, or of both")
        # What the page does not show comes from the sample project, or from another preset's own defaults.
        data: dict[str, Any] = self.sample.model_dump(by_alias=True) if preset == self.sample.preset else {}
        for table in ("adapter", "steps", "optimizer"):
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
        data["adapter"] |= {"rank": rank, "layers": layers}
        data["steps"] |= {"break": break_steps, "make": make_steps}
        if optimizer != data["optimizer"].get("name", DEFAULT):
            data["optimizer"] = {"name": optimizer}  # another's settings are its own
        data["optimizer"] |= {"lr": lr, "make_lr": make_lr}
        return Customization(**data), {concept: files for concept, files in pictures.items() if files}

    def numbers(self, preset: str) -> tuple:
        """What the advanced fields start with, from `base` on."""
        config = self.sample
        if preset != self.sample.preset:
            config = Customization(
                preset=preset, content={"pictures": ["content"]}, style={"pictures": ["style"]}, **PRESETS[preset]
            )
        steps, optimizer = config.steps, config.optimizer
        return (
            _short(config),
            config.adapter.rank,
            config.adapter.layers,
            steps.break_,
            steps.make,
            optimizer.name,
            optimizer.lr,
            optimizer.make_lr,
            config.seed,
        )

    def rates(self, preset: str, optimizer: str) -> tuple[float, float]:
        """The learning rates with which an optimizer starts: those of the preset, if they suit it."""
        own = OPTIMIZERS[optimizer]()
        return self.numbers(preset)[6:8] if own.lr == OPTIMIZERS[DEFAULT]().lr else (own.lr, own.make_lr)


def build(library: Library, sample: Customization) -> ProjectPage:
    form = ProjectForm(sample)
    gr.Markdown(
        "Show what a thing looks like, and what a style looks like. Joinery learns each apart and joins them in one "
        "adapter. A sample project is filled in: start it as it is, or put your own pictures in.",
        elem_classes="lead",
    )
    name = gr.Textbox(sample.name, label="Project name", max_lines=1, elem_id="project-name")
    with gr.Row(equal_height=False):
        content = _concept("content", sample, "What is shown: a thing, an animal, a person. 3 to 10 pictures.")
        style = _concept("style", sample, "How it is shown. 1 to 10 pictures in that style.")
    preset = gr.Radio(PRESET_NAMES, value=sample.preset, label="Preset", info="Fits the numbers below to a base model.")
    base, rank, layers, break_steps, make_steps, optimizer, lr, make_lr, seed = form.numbers(sample.preset)
    with gr.Accordion("Advanced", open=False):
        advanced = [gr.Textbox(base, label="Base model", info="A diffusers folder, a .safetensors file, or a hub id.")]
        with gr.Row():
            advanced += [
                gr.Number(rank, label="Adapter rank", info="Even. Higher learns more detail.", precision=0),
                gr.Dropdown(LAYERS, value=layers, label="Layers", info="Where the adapter sits in the base."),
                gr.Number(seed, label="Seed", info="Same seed, same adapter.", precision=0),
            ]
        with gr.Row():
            advanced += [
                gr.Number(break_steps, label="Steps: apart", info="For each of content and style.", precision=0),
                gr.Number(make_steps, label="Steps: joined", info="Fine-tunes both together.", precision=0),
            ]
            names = [(label, name) for name, label in OPTIMIZER_NAMES.items() if installed(name)]
            which = gr.Dropdown(names, value=optimizer, label="Optimizer", info="What moves the weights.")
            rates = [
                gr.Number(lr, label="Learning rate: apart", info="Lower it if the loss jumps."),
                gr.Number(make_lr, label="Learning rate: joined", info="Usually lower than the other."),
            ]
        # In the order of ProjectForm.read: the seed stands last.
        base_field, rank_field, layers_field, seed_field, *steps = advanced
        advanced = [base_field, rank_field, layers_field, *steps, which, *rates, seed_field]
    estimate = gr.HTML(padding=False, elem_id="estimate")
    start = gr.Button("Train", variant="primary", elem_id="start")
    note = gr.HTML(padding=False, elem_id="project-note")

    fields = [name, *content, *style, preset, *advanced]
    preset.input(form.numbers, preset, advanced, **QUICK)
    which.input(form.rates, [preset, which], rates, **QUICK)

    def say_estimate(*values) -> str:
        try:
            config, _ = form.read(*values)
        except UserError:
            return ""  # said in full when training starts
        return figures.note(_estimate(library, config))

    gr.on(None, say_estimate, fields, estimate, **QUICK)  # when the page loads, and when a field changes
    return ProjectPage(fields, start, note)


def start_run(library: Library, form: ProjectForm, values: tuple) -> Run:
    """Check everything, put the project in a run folder of its own, and start to train it.

    Raises:
        UserError: for all that can be seen to be wrong before the start.
    """
    config, pictures = form.read(*values)
    running = library.running()
    if running:
        raise UserError(f"The run {running.folder.name} is being trained", "Wait for its end, or cancel it")
    for concept, files in pictures.items():
        for finding in check(concept, [path for path, _ in files], config.resolution):
            if finding.blocks:
                raise UserError(f"{concept.capitalize()}: {finding.text.rstrip('.')}", "Mend this, then start again")
    run = library.create(config, pictures)
    jobs.start(run)
    return run


def _concept(concept: str, sample: Customization, info: str) -> list[gr.components.Component]:
    """A column: pictures, what is found in them, and their words."""
    settings = getattr(sample, concept)
    with gr.Column(min_width=320):
        gr.Markdown(f"### {concept.capitalize()}\n{info}")
        shown = [(str(path), _own_caption(path)) for path in find_pictures(settings.pictures)]
        pictures = gr.Gallery(
            shown,
            label=f"Pictures of the {concept}",
            show_label=False,  # the heading says it, and a label would lie over the first picture
            height="auto",
            object_fit="contain",
            interactive=True,
            sources=["upload", "clipboard"],
            file_types=["image"],
            buttons=[],
            elem_classes="gallery",
            elem_id=f"{concept}-pictures",
        )
        found = gr.HTML(padding=False, elem_id=f"{concept}-findings")
        with gr.Row():
            word = gr.Textbox(
                settings.class_word,
                label="Class word",
                info="The nearest that the base knows.",
                max_lines=1,
                min_width=120,
            )
            placeholder = gr.Textbox(
                settings.placeholder, label="Placeholder", info="Stands for it in prompts.", max_lines=1, min_width=120
            )
        caption = gr.Textbox(
            settings.caption,
            label="Caption",
            info="For pictures that bring no caption of their own.",
            max_lines=2,
        )

    def look(value: list | None) -> str:
        return figures.findings(check(concept, [path for path, _ in _files(value)], sample.resolution))

    gr.on(None, look, pictures, found, **QUICK)  # when the page loads, and when the pictures change
    return [pictures, word, placeholder, caption]


def _files(value: list | None) -> list[tuple[Path, str | None]]:
    return [(Path(path), caption) for path, caption in value or []]


def _own_caption(picture: Path) -> str | None:
    text = picture.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else None


def _short(config: Customization) -> str:
    """The base as a person would type it."""
    path = Path(config.base)
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix() if path.is_absolute() else config.base
    except ValueError:
        return config.base


def _estimate(library: Library, config: Customization) -> str:
    steps = sum(stage.steps for stage in plan(config))
    seconds = library.estimate(config)
    if seconds is None:
        return f"{steps} steps. How long they take on this machine shows within the first few."
    return f"{steps} steps, about {figures.duration(seconds)} at the pace of the last run like it."
