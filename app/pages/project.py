"""Step 1: pictures of a content and of a style, their words, and the few numbers that matter."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app import bases, figures, jobs
from app.checks import check, check_words
from app.copies import Copies
from app.drafts import Drafts, Pictures
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
    ("Z-Image, 1024 px", "z-image"),
    ("FLUX.2 klein, 1024 px", "flux2-klein"),
    ("Qwen-Image, 1024 px", "qwen-image"),
    ("FLUX.1 dev, 1024 px", "flux1"),
    ("Stable Diffusion 3.5, 1024 px", "sd3"),
    ("Chroma, 1024 px", "chroma"),
    ("Sana, 1024 px", "sana"),
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


Shown = list[tuple[str, str | None]]  # pictures as a gallery has them, each with the caption that is its own


@dataclass(frozen=True)
class ProjectPage:
    fields: Fields  # named as `ProjectForm.read` takes their values
    start: gr.Button
    note: gr.HTML
    shown: list[gr.components.Component]  # what `open` fills: all fields, as the newest draft has them
    open: Callable
    leave: Callable  # for a page that is gone
    names: Callable[[], dict[str, str]]  # of the drafts, by their numbers
    start_kept: Callable[[str], Run]  # from a draft, without the page


def build(library: Library, form: ProjectForm, copies: Copies) -> ProjectPage:
    sample, fields = form.sample, Fields()
    gr.Markdown(
        "Show what a thing looks like, and what a style looks like. Joinery learns each apart and joins them in one "
        "adapter. A sample project is filled in: start it as it is, or put your own pictures in. What you enter is "
        "kept as you type.",
        elem_classes="lead",
    )
    drafts = Drafts.of(sample, library.folder / ".projects")
    with gr.Row(equal_height=False, elem_classes="projects"):
        project = gr.Dropdown([], label="Project", scale=3, min_width=200, elem_id="project")
        name = gr.Textbox(sample.name, label="Its name", max_lines=1, scale=3, min_width=200, elem_id="project-name")
        anew, copy, remove = (
            gr.Button(words, size="sm", scale=0, min_width=80, elem_id=f"{words.lower()}-project")
            for words in ("New", "Copy", "Delete")
        )
    fields.add("name", name)
    draft = gr.Textbox("", visible="hidden")  # which one the fields show; none while the page opens
    known_to: dict[tuple[str, str], dict] = {}  # (page, draft) -> the values that the page was shown or has sent
    with gr.Row(equal_height=False):
        given = {concept: _given(form, copies, concept) for concept in CONCEPTS}
        columns = {concept: _concept(fields, concept, form, given[concept], info) for concept, info in WHAT.items()}
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

    def follow(given: dict, request: gr.Request) -> dict:
        """Keep what has changed, and say what follows from it."""
        name, values, shown = given.pop(draft), fields.read(given), {}
        if name and "name" in keep(name, values, request.session_hash):
            shown[project] = listed(name)
        try:
            return shown | {estimate: figures.note(_estimate(library, form.read(values)[0]))}
        except UserError:
            return shown | {estimate: ""}  # said in full when training starts

    def keep(name: str, values: Mapping[Hashable, Any], page: str) -> dict[str, Any]:
        """Write what a page has changed since it was shown the draft; what another page changed meanwhile stays."""
        own = {*optimizer.own(values["optimizer.name"])}
        now = {_key(field): value for field, value in values.items() if isinstance(field, str) or field in own}
        before = begins | drafts.read(name) if (page, name) not in known_to else known_to[page, name]
        changed = {key: value for key, value in now.items() if _seen(value) != _seen(before.get(key))}
        if changed:
            drafts.write(name, {key: files(v) if isinstance(v, list) else v for key, v in changed.items()})
        known_to[page, name] = before | changed
        return changed

    def say_words(given: dict) -> str:
        try:
            return figures.warnings(check_words(*form.read(fields.read(given))))
        except UserError:
            return ""

    begins = {name: fields[name].value for name in fields if isinstance(name, str)} | {
        f"{concept}.pictures": pictures for concept, pictures in given.items()
    }

    def names() -> dict[str, str]:
        return {name: drafts.read(name).get("name", sample.name) for name in drafts.names()}

    def listed(value: str) -> gr.Dropdown:
        return gr.Dropdown([(shown, name) for name, shown in names().items()], value=value)

    def kept_in(name: str) -> tuple[dict[str, Any], dict[Hashable, dict]]:
        """The values of a draft by key, and what shows the settings of its optimizer."""
        kept = drafts.read(name)
        values = begins | {key: value for key, value in kept.items() if key in begins}
        updates = optimizer.show(form.optimizer(values["preset"], values["optimizer.name"]))
        for slot in optimizer.own(values["optimizer.name"]):
            values[_key(slot)] = kept.get(_key(slot), updates[slot]["value"])
            updates[slot] |= {"value": values[_key(slot)]}
        return values, updates

    def show(name: str, request: gr.Request) -> dict:
        """A draft into all fields."""
        values, updates = kept_in(name)
        values |= {key: _copied(copies, files(value)) for key, value in values.items() if isinstance(value, list)}
        known_to[request.session_hash, name] = values
        into = {field: values[field] for field in begins} | updates
        about = optimizer.about(values["optimizer.name"])
        return fields.write(into) | {said: about, project: listed(name), draft: name, note: ""}

    def start_kept(name: str) -> Run:
        values, updates = kept_in(name)
        slots = {slot: update.get("value") for slot, update in updates.items()}
        return start_run(library, form, {key: values[key] for key in begins} | slots)

    def open_newest(request: gr.Request) -> dict:
        return show(drafts.names()[0], request)

    def make_new(request: gr.Request) -> dict:
        """An empty one."""
        empty = {f"{concept}.pictures": [] for concept in CONCEPTS}
        empty |= {f"{concept}.class_word": "" for concept in CONCEPTS}
        return show(drafts.make(empty | {"name": "my project"}), request)

    def make_copy(name: str, request: gr.Request) -> dict:
        values = drafts.read(name)
        return show(drafts.make(values | {"name": f"{values.get('name', sample.name)} copy"}), request)

    def take_away(name: str, request: gr.Request) -> dict:
        where = drafts.remove(name)
        return open_newest(request) | {
            note: figures.note(f"The project is in the trash of the runs' folder now, as {where.name}.")
        }

    def leave(request: gr.Request) -> None:
        for key in [key for key in known_to if key[0] == request.session_hash]:
            known_to.pop(key, None)

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

    by_hand(preset)(fit, preset, [*fields.all, said], **QUICK)
    by_hand(which)(switch, [preset, which], [*fields.all, said], **QUICK)
    shown = [*fields.all, said, project, draft, note]
    by_hand(project)(show, project, shown, **QUICK)
    anew.click(make_new, None, shown, **QUICK)
    copy.click(make_copy, draft, shown, **QUICK)
    remove.click(take_away, draft, shown, **QUICK)
    # When the page loads, and when a field changes; of many changes at once the last is what counts.
    gr.on(None, follow, {*fields.all, draft}, [estimate, project], trigger_mode="always_last", **QUICK)
    gr.on(None, say_words, fields.all, words, trigger_mode="always_last", **QUICK)
    goes_with(note, fields.all)
    return ProjectPage(fields, start, note, shown, open_newest, leave, names, start_kept)


def start_run(library: Library, form: ProjectForm, values: Mapping[Hashable, Any]) -> Run:
    """Check everything, put the project in a run folder of its own, and start to train it.

    Raises:
        UserError: for all that can be seen to be wrong before the start.
    """
    config, pictures = form.read(values)
    require(config.optimizer.name)
    config.recognised_base()
    for concept, shown in pictures.items():
        for finding in check(concept, [path for path, _ in shown], config.resolution):
            if finding.blocks:
                raise UserError(f"{concept.capitalize()}: {finding.text.rstrip('.')}", "Mend this, then start again")
    return jobs.launch(library, config, pictures)


def _concept(fields: Fields, concept: str, form: ProjectForm, given: Shown, info: str) -> tuple[gr.HTML, gr.HTML]:
    """A column: the given pictures, and their words. Returns the notes on the pictures and on the class word."""
    settings = form.concept(concept)
    with gr.Column(min_width=320):
        gr.Markdown(f"### {concept.capitalize()}\n{info}")
        pictures = gr.Gallery(
            given,
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
        with gr.Accordion("Captions of the pictures", open=False):
            _captions(pictures, given, concept)

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


def _captions(pictures: gr.Gallery, given: Shown, concept: str) -> None:
    """A table of the pictures' own captions, which are the gallery's; it begins with `given`."""

    def rows(value: list | None) -> list[list[str]]:
        return [[path.name, caption or ""] for path, caption in files(value)]

    gr.Markdown("Say what else a picture shows, or that is learned too. Without one of its own it has that below.")
    table = gr.Dataframe(
        rows(given),
        headers=["Picture", "Caption"],
        datatype="str",
        type="array",
        column_count=2,
        column_widths=["35%", "65%"],
        static_columns=[0],
        interactive=True,
        wrap=True,
        buttons=[],
        label=f"Captions of the {concept}",
        show_label=False,
        elem_id=f"{concept}-captions",
    )

    def show(value: list | None, shown: list[list[str]]) -> Any:
        return gr.skip() if shown == rows(value) else rows(value)  # a cell that is being edited stays open

    def take(value: list | None, shown: list[list[str]]) -> Any:
        """What was entered, unless the pictures are others by now."""
        given = files(value)
        if [path.name for path, _ in given] != [name for name, _ in shown]:
            return gr.skip()
        return [(str(path), (caption or "").strip() or None)
                for (path, _), (_, caption) in zip(given, shown, strict=True)]  # fmt: skip

    pictures.change(show, [pictures, table], table, **QUICK)
    table.input(take, [pictures, table], pictures, trigger_mode="always_last", **QUICK)


def _given(form: ProjectForm, copies: Copies, concept: str) -> Shown:
    """The sample project's pictures of a concept, with captions of their own, as the page shows them."""
    given = find_pictures(form.concept(concept).pictures) if concept in form.sample.concepts else []
    return [(str(copies.of(path)), captions.beside(path) or None) for path in given]


def _copied(copies: Copies, pictures: Pictures) -> Shown:
    """Pictures as the page may show them; it cannot show one that is damaged."""
    found = []
    for path, caption in pictures:
        with suppress(UserError):
            found.append((str(copies.of(path)), caption))
    return found


def _key(name: Hashable) -> str:
    return name if isinstance(name, str) else f"optimizer.{name.name}"


def _seen(value: Any) -> Any:
    """Equal for values that a person sees as the same: a page moves pictures from place to place."""
    if not isinstance(value, list):
        return value
    return [(path.name, path.stat().st_size, caption) for path, caption in files(value)]


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
