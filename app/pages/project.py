"""Step 1: pictures of a content and of a style, their words, and the few numbers that matter."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app import figures, jobs
from app.checks import check
from app.copies import Copies
from app.form import ProjectForm, files
from app.library import Library
from app.pages import QUICK, optimizer
from pipelines.errors import UserError
from training import Customization, Run
from training.packages import require
from training.pictures import find_pictures
from training.plan import plan

PRESET_NAMES = [
    ("Embedded emoji base, 64 px", "emoji"),
    ("Stable Diffusion 1.5, 512 px", "sd15"),
    ("Stable Diffusion XL, 1024 px", "sdxl"),
]
METHODS = [("An adapter's halves", "plp"), ("The base's own weights", "full")]
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


def build(library: Library, sample: Customization, copies: Copies) -> ProjectPage:
    form = ProjectForm(sample)
    gr.Markdown(
        "Show what a thing looks like, and what a style looks like. Joinery learns each apart and joins them in one "
        "adapter. A sample project is filled in: start it as it is, or put your own pictures in.",
        elem_classes="lead",
    )
    name = gr.Textbox(sample.name, label="Project name", max_lines=1, elem_id="project-name")
    with gr.Row(equal_height=False):
        content = _concept("content", sample, copies, "What is shown: a thing, an animal, a person. 3 to 10 pictures.")
        style = _concept("style", sample, copies, "How it is shown. 1 to 10 pictures in that style.")
    preset = gr.Radio(PRESET_NAMES, value=sample.preset, label="Preset", info="Fits the numbers below to a base model.")
    base, method, rank, layers, compander, scale, break_steps, make_steps, seed, *moves = form.numbers(sample.preset)
    with gr.Accordion("Advanced", open=False):
        advanced = [gr.Textbox(base, label="Base model", info="A diffusers folder, a .safetensors file, or a hub id.")]
        with gr.Row():
            advanced += [
                gr.Dropdown(METHODS, value=method, label="What learns", info="Either way it ends as one adapter."),
                gr.Number(rank, label="Adapter rank", info="Even. Higher learns more detail.", precision=0),
                gr.Dropdown(LAYERS, value=layers, label="Layers", info="Where the adapter sits in the base."),
            ]
        with gr.Row(elem_classes="settings"):
            advanced += [
                gr.Checkbox(compander, label="Weight Compander", info="Keeps what the halves learn within bounds."),
                gr.Number(scale, label="Compander scale", info="Entries stay within 1.57 times this."),
            ]
        with gr.Row():
            advanced += [
                gr.Number(break_steps, label="Steps: apart", info="For each of content and style.", precision=0),
                gr.Number(make_steps, label="Steps: joined", info="Fine-tunes both together.", precision=0),
                gr.Number(seed, label="Seed", info="Same seed, same adapter.", precision=0),
            ]
        with gr.Row():
            which = gr.Dropdown(
                optimizer.names(),
                value=moves[0],
                label="Optimizer",
                info="What moves the weights.",
                elem_id="optimizer",
            )
            rates = [
                gr.Number(moves[1], label="Learning rate: apart", info="Lower it if the loss jumps."),
                gr.Number(moves[2], label="Learning rate: joined", info="Usually lower than the other."),
            ]
        advanced += [which, *rates]
        said = gr.HTML(optimizer.about(moves[0]), padding=False, elem_id="optimizer-about")
        with gr.Accordion("The optimizer's own settings", open=False), gr.Row(elem_classes="settings"):
            settings = optimizer.fields(form.optimizer(sample.preset))
    estimate = gr.HTML(padding=False, elem_id="estimate")
    start = gr.Button("Train", variant="primary", elem_id="start")
    note = gr.HTML(padding=False, elem_id="project-note")

    fields = [name, *content, *style, preset, *advanced, *settings]

    def fit(preset: str) -> tuple:
        return *form.numbers(preset), *optimizer.show(form.optimizer(preset))

    def switch(preset: str, name: str) -> tuple:
        chosen = form.optimizer(preset, name)
        return chosen.lr, chosen.make_lr, *optimizer.show(chosen)

    preset.input(fit, preset, [*advanced, said, *settings], **QUICK)
    which.input(switch, [preset, which], [*rates, said, *settings], **QUICK)

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
    require(config.optimizer.name)
    running = library.running()
    if running:
        raise UserError(f"The run {running.folder.name} is being trained", "Wait for its end, or cancel it")
    for concept, shown in pictures.items():
        for finding in check(concept, [path for path, _ in shown], config.resolution):
            if finding.blocks:
                raise UserError(f"{concept.capitalize()}: {finding.text.rstrip('.')}", "Mend this, then start again")
    run = library.create(config, pictures)
    jobs.start(run)
    return run


def _concept(concept: str, sample: Customization, copies: Copies, info: str) -> list[gr.components.Component]:
    """A column: pictures, what is found in them, and their words."""
    settings = getattr(sample, concept)
    with gr.Column(min_width=320):
        gr.Markdown(f"### {concept.capitalize()}\n{info}")
        shown = [(str(copies.of(path)), _own_caption(path)) for path in find_pictures(settings.pictures)]
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
        return figures.findings(check(concept, [path for path, _ in files(value)], sample.resolution))

    gr.on(None, look, pictures, found, **QUICK)  # when the page loads, and when the pictures change
    return [pictures, word, placeholder, caption]


def _own_caption(picture: Path) -> str | None:
    text = picture.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else None


def _estimate(library: Library, config: Customization) -> str:
    steps = sum(stage.steps for stage in plan(config))
    seconds = library.estimate(config)
    if seconds is None:
        return f"{steps} steps. How long they take on this machine shows within the first few."
    return f"{steps} steps, about {figures.duration(seconds)} at the pace of the last run like it."
