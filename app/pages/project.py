"""Step 1: pictures of a content and of a style, their words, and the few numbers that matter."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app import bases, figures, jobs
from app.checks import check, check_words
from app.copies import Copies
from app.fields import Fields
from app.form import CONCEPTS, ProjectForm, files
from app.library import Library
from app.pages import QUICK, by_hand, goes_with, optimizer
from pipelines.errors import UserError
from training import Customization, Run, captions
from training.adapters import METHODS
from training.formats import SUFFIXES, find_pictures
from training.packages import require
from training.plan import plan

PRESET_NAMES = [
    ("Embedded emoji base, 64 px", "emoji"),
    ("Stable Diffusion 1.5, 512 px", "sd15"),
    ("Stable Diffusion XL, 1024 px", "sdxl"),
]
WHAT = {
    "content": "What is shown: a thing, an animal, a person. 3 to 10 pictures.",
    "style": "How it is shown. 1 to 10 pictures in that style.",
}
LAYERS = [
    ("Cross-attention only", "cross-attention"),
    ("All attention", "attention"),
    ("Attention and feed-forward", "attention+feedforward"),
    ("These and convolutions", "all"),
]


@dataclass(frozen=True)
class ProjectPage:
    fields: Fields  # named as `ProjectForm.read` takes their values
    start: gr.Button
    note: gr.HTML


def build(library: Library, form: ProjectForm, copies: Copies) -> ProjectPage:
    sample, fields = form.sample, Fields()
    gr.Markdown(
        "Show what a thing looks like, and what a style looks like. Joinery learns each apart and joins them in one "
        "adapter. A sample project is filled in: start it as it is, or put your own pictures in.",
        elem_classes="lead",
    )
    fields.add("name", gr.Textbox(sample.name, label="Project name", max_lines=1, elem_id="project-name"))
    with gr.Row(equal_height=False):
        columns = {concept: _concept(fields, concept, form, copies, info) for concept, info in WHAT.items()}
    preset = gr.Radio(PRESET_NAMES, value=sample.preset, label="Preset", info="Fits the numbers below to a base model.")
    fields.add("preset", preset)

    def look(concept: str, value: list | None, preset: str) -> str:
        return figures.findings(check(concept, [path for path, _ in files(value)], form.resolution(preset)))

    # When the page loads, and when the pictures or their resolution change.
    for concept, (findings, _) in columns.items():
        gr.on(None, partial(look, concept), [fields[f"{concept}.pictures"], preset], findings, **QUICK)
    starts = form.start(sample.preset)

    def add(key: str, kind: type[gr.components.Component], label: str, info: str, **settings: Any) -> None:
        fields.add(key, kind(value=starts[key], label=label, info=info, **settings))

    with gr.Accordion("Advanced", open=False):
        listed = {"choices": list(form.bases), "allow_custom_value": True, "elem_id": "base"}
        add(
            "base",
            gr.Dropdown,
            "Base model",
            "From the list, or a diffusers folder, a .safetensors file, a hub id.",
            **listed,
        )
        known = gr.HTML(padding=False, elem_id="base-about")
        with gr.Row():
            add("adapter.method", gr.Dropdown, "What learns", "Either way it ends as one adapter.", choices=_methods())
            add("adapter.rank", gr.Number, "Adapter rank", "Even. Higher learns more detail.", precision=0)
            add("adapter.layers", gr.Dropdown, "Layers", "Where the adapter sits in the base.", choices=LAYERS)
        with gr.Row(elem_classes="settings"):
            add("adapter.compander", gr.Checkbox, "Weight Compander", "Keeps what the halves learn within bounds.")
            add("adapter.compander_scale", gr.Number, "Compander scale", "Entries stay within 1.57 times this.")
        with gr.Row():
            add("steps.break", gr.Number, "Steps: apart", "For each of content and style.", precision=0)
            add("steps.make", gr.Number, "Steps: joined", "Fine-tunes both together.", precision=0)
            add("seed", gr.Number, "Seed", "Same seed, same adapter.", precision=0)
        with gr.Row():
            named = {"choices": optimizer.names(), "elem_id": "optimizer"}
            add("optimizer.name", gr.Dropdown, "Optimizer", "What moves the weights.", **named)
            add("optimizer.lr", gr.Number, "Learning rate: apart", "Lower it if the loss jumps.")
            add("optimizer.make_lr", gr.Number, "Learning rate: joined", "Usually lower than the other.")
        said = gr.HTML(optimizer.about(starts["optimizer.name"]), padding=False, elem_id="optimizer-about")
        with gr.Accordion("The optimizer's own settings", open=False), gr.Row(elem_classes="settings"):
            for slot, field in optimizer.fields(form.optimizer(sample.preset)).items():
                fields.add(slot, field, key=f"optimizer.{slot.name}")
    estimate = gr.HTML(padding=False, elem_id="estimate")
    words = gr.HTML(padding=False, elem_id="word-findings")
    start = gr.Button("Train", variant="primary", elem_id="start")
    note = gr.HTML(padding=False, elem_id="project-note")

    which, rates = fields["optimizer.name"], ("optimizer.lr", "optimizer.make_lr")

    def fit(preset: str) -> dict:
        """What a preset brings, into the fields that follow it."""
        fresh = {key: value for key, value in form.start(preset).items() if key in fields}
        chosen = form.optimizer(preset)
        return fields.write(fresh | optimizer.show(chosen)) | {said: optimizer.about(chosen.name)}

    def switch(preset: str, name: str) -> dict:
        chosen = form.optimizer(preset, name)
        fresh = dict(zip(rates, (chosen.lr, chosen.make_lr), strict=True))
        return fields.write(fresh | optimizer.show(chosen)) | {said: optimizer.about(name)}

    def say_estimate(given: dict) -> str:
        try:
            config, _ = form.read(fields.read(given))
            return figures.note(_estimate(library, config))
        except UserError:
            return ""  # said in full when training starts

    def look_up(name: str | None) -> dict:
        """What is known of a base, and the words that it knows."""
        base = form.base(name or "")
        taught = bases.words(base)
        lists = {f"{concept}.class_word": gr.update(choices=taught.get(concept, [])) for concept in CONCEPTS}
        return fields.write(lists) | {known: figures.note(bases.about(base))}

    base, class_words = fields["base"], [fields[f"{concept}.class_word"] for concept in CONCEPTS]
    gr.on(None, look_up, base, [*class_words, known], **QUICK)  # when the page loads, and when the base changes
    for concept, word in zip(CONCEPTS, class_words, strict=True):
        gr.on(None, partial(_unknown, form, concept), [base, word], columns[concept][1], **QUICK)

    def say_words(given: dict) -> str:
        try:
            return figures.warnings(check_words(*form.read(fields.read(given))))
        except UserError:
            return ""

    by_hand(preset)(fit, preset, [*fields.all, said], **QUICK)
    by_hand(which)(switch, [preset, which], [*fields.all, said], **QUICK)
    gr.on(None, say_estimate, fields.all, estimate, **QUICK)  # when the page loads, and when a field changes
    gr.on(None, say_words, fields.all, words, **QUICK)
    goes_with(note, fields.all)
    return ProjectPage(fields, start, note)


def start_run(library: Library, form: ProjectForm, values: Mapping[Hashable, Any]) -> Run:
    """Check everything, put the project in a run folder of its own, and start to train it.

    Raises:
        UserError: for all that can be seen to be wrong before the start.
    """
    config, pictures = form.read(values)
    require(config.optimizer.name)
    config.recognised_base()
    running = library.running()
    if running:
        raise UserError(f"The run {running.folder.name} is being trained", "Wait for its end, or cancel it")
    for concept, shown in pictures.items():
        for finding in check(concept, [path for path, _ in shown], config.resolution):
            if finding.blocks:
                raise UserError(f"{concept.capitalize()}: {finding.text.rstrip('.')}", "Mend this, then start again")
    run = jobs.launch(library, config, pictures)
    return run


def _concept(fields: Fields, concept: str, form: ProjectForm, copies: Copies, info: str) -> tuple[gr.HTML, gr.HTML]:
    """A column: pictures, and their words. Returns the notes on the pictures and on the class word."""
    settings = form.concept(concept)
    with gr.Column(min_width=320):
        gr.Markdown(f"### {concept.capitalize()}\n{info}")
        given = find_pictures(settings.pictures) if concept in form.sample.concepts else []
        pictures = gr.Gallery(
            [(str(copies.of(path)), captions.beside(path) or None) for path in given],
            label=f"Pictures of the {concept}",
            show_label=False,  # the heading says it, and a label would lie over the first picture
            height="auto",
            object_fit="contain",
            interactive=True,
            sources=["upload", "clipboard"],
            file_types=["image", *sorted(SUFFIXES)],  # what is none of ours is refused in words
            buttons=[],
            elem_classes="gallery",
            elem_id=f"{concept}-pictures",
        )
        fields.add(f"{concept}.pictures", pictures)
        found = gr.HTML(padding=False, elem_id=f"{concept}-findings")

        def add(name: str, kind: type[gr.components.Component], label: str, info: str, **shown: Any) -> None:
            field = kind(value=getattr(settings, name), label=label, info=info, **shown)
            fields.add(f"{concept}.{name}", field, of=f"the {concept}")

        with gr.Row():
            listed = {"choices": bases.words(form.sample.base).get(concept, []), "allow_custom_value": True}
            add("class_word", gr.Dropdown, "Class word", "The nearest that the base knows.", min_width=120, **listed)
            add("placeholder", gr.Textbox, "Placeholder", "Stands for it in prompts.", max_lines=1, min_width=120)
        asked = gr.HTML(padding=False, elem_id=f"{concept}-word")
        add("caption", gr.Textbox, "Caption", "For pictures that bring no caption of their own.", max_lines=2)
    return found, asked


def _methods() -> list[tuple[str, str]]:
    return [(f"{kind.title[0].upper()}{kind.title[1:]}", name) for name, kind in METHODS.items()]


def _unknown(form: ProjectForm, concept: str, base: str | None, word: str | None) -> str:
    return figures.note(bases.unknown_word(form.base(base or ""), concept, word or ""), "warning")


def _estimate(library: Library, config: Customization) -> str:
    steps = sum(stage.steps for stage in plan(config))
    seconds = library.estimate(config)
    if seconds is None:
        return f"{steps} steps. How long they take on this machine shows within the first few."
    return f"{steps} steps, about {figures.duration(seconds)} at the pace of the last run like it."
