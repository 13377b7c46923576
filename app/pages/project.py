"""Step 1: pictures of a content and of a style, their words, and the few numbers that matter."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app import bases, budgets, figures, jobs
from app.checks import check, check_words
from app.copies import Copies
from app.drafts import Drafts
from app.fields import Fields
from app.form import CONCEPTS, MEMORY, ProjectForm, by_key
from app.given import Given, pictures_of
from app.library import Library
from app.measuring import measure, nearest
from app.pages import QUICK, about, by_hand, concept, expert, goes_with, optimizer
from pipelines.errors import UserError
from training import Customization, Run
from training.adapters import METHODS
from training.formats import names as names_of
from training.optimizers.settings import OPTIMIZERS
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
    ("Krea 2, 1024 px", "krea2"),
    ("Sana, 1024 px", "sana"),
]
EVERY_OTHER = "Every other setting"
LAYERS = [
    ("Cross-attention only", "cross-attention"),
    ("All attention", "attention"),
    ("Attention and feed-forward", "attention+feedforward"),
    ("These and convolutions", "all"),
]


@dataclass(frozen=True)
class ProjectPage:
    fields: Fields  # named as `ProjectForm.read` takes their values
    draft: gr.Textbox  # the number of the one that they show
    entered: Callable[[dict], dict]  # from the values of both, what `start_run` takes
    start: gr.Button
    note: gr.HTML
    shown: list[gr.components.Component]  # what `open` fills: all fields, as the newest draft has them
    open: Callable
    open_run: Callable[[Run, gr.Request], dict]  # as a new draft
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
    known_to: dict[tuple[str | None, str], dict] = {}  # (page, draft) -> the values that the page was shown or has sent
    gone: deque[str | None] = deque(maxlen=1000)  # pages that were closed or loaded anew
    with gr.Row(equal_height=False):
        columns = {one: concept.build(form, drafts, copies, one, fields) for one in CONCEPTS}
    info = "Fits the numbers below to a base model."
    preset = gr.Radio(PRESET_NAMES, value=sample.preset, label="Preset", info=info)
    info = "Fits them to this much of a GPU's, as each choice says. More memory takes less time."
    budget = budgets.choices(sample.preset, sample.adapter.method)
    memory = gr.Dropdown(budget, value=sample.memory or "", label="Memory", info=info, elem_id="memory")
    fields.add("preset", preset)
    fields.add("memory", memory)

    starts = form.start(sample.preset)

    def add(key: str, kind: type[gr.components.Component], label: str, info: str, **settings: Any) -> None:
        fields.add(key, kind(value=starts[key], label=label, info=info, **settings))

    with gr.Accordion("Advanced", open=False):
        free = {"choices": list(form.bases), "allow_custom_value": True, "elem_id": "base"}
        add(
            "base",
            gr.Dropdown,
            "Base model",
            "From the list, or a diffusers folder, a .safetensors file, a hub id.",
            **free,
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
            add("steps.break", gr.Number, "Steps: apart", "For the content, and the style.", precision=0)
            add("style.steps", gr.Number, "Steps: style", "0: as many as the content.", precision=0)
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
        with gr.Accordion(EVERY_OTHER, open=False, elem_id="expert") as others:
            other_keys = expert.build(fields, starts)
        again = gr.Button("All as the preset has it", size="sm", elem_id="as-preset")
    estimate = gr.HTML(padding=False, elem_id="estimate")
    words = gr.HTML(padding=False, elem_id="word-findings")
    with gr.Row(elem_classes="starting"):
        start = gr.Button("Train", variant="primary", scale=3, min_width=160, elem_id="start")
        try_out = gr.Button("What will it take?", scale=1, min_width=160, elem_id="measure")
    note = gr.HTML(padding=False, elem_id="project-note")

    which, rates = fields["optimizer.name"], ("optimizer.lr", "optimizer.make_lr")

    def fit(preset: str, memory: int | str, method: str | None = None) -> dict:
        """What a preset brings, into the fields that follow it."""
        try:
            fresh = {key: value for key, value in form.start(preset, memory, method).items() if key in fields}
            chosen = form.optimizer(preset, memory=memory, method=method)
        except UserError as error:
            return {note: figures.note(str(fields.in_labels(error)), "error")}
        return fields.write(fresh | optimizer.show(chosen)) | {said: optimizer.about(chosen.name), note: ""}

    def try_first_steps(given: dict) -> Iterator[str]:
        """What the project takes, from its first steps."""
        asked = about(given)
        try:
            config, pictures = checked(form, entered(given))
            if any(jobs.look(run).live for run in library.runs()):
                raise UserError("A run is being trained, which takes memory and time of its own", "Wait for its end")
            for found in measure(library, config, pictures):
                if isinstance(found, float):
                    yield figures.note(f"Doing the first steps of each stage ({found:.0f} s) ...", about=asked)
                else:
                    yield figures.note(figures.taken(found), "good" if found.fits else "warning", asked)
        except UserError as error:
            yield figures.note(str(fields.in_labels(error)), "error", asked)

    def compare(concept: str) -> Callable:
        def handler(given: dict) -> Iterator[dict]:
            """The nearest word that the base knows becomes the class word."""
            note, word = columns[concept].nearest, fields[f"{concept}.class_word"]
            try:
                config, pictures = form.read(entered(given))
                own = {concept: pictures[concept]} if concept in pictures else {}
                if not own:
                    raise UserError(f"There are no pictures of a {concept}", "Add some first")
                alone = config.model_copy(update=dict.fromkeys(CONCEPTS.keys() - own.keys()))
                known = bases.words(config.base).get(concept, [])
                for found in nearest(alone, own, concept, known):
                    if isinstance(found, float):
                        yield {note: figures.note(f"Comparing the words that the base knows ({found:.0f} s) ...")}
                    else:
                        said = f"Of the words that the base knows, {found[0]!r} is nearest to these pictures"
                        others = f", then {', '.join(map(repr, found[1:4]))}" if found[1:] else ""
                        yield {note: figures.note(f"{said}{others}.", "good"), word: found[0]}
            except UserError as error:
                yield {note: figures.note(str(fields.in_labels(error)), "error")}

        return handler

    def refit(preset: str, memory: int | str, method: str) -> dict:
        """What another method brings where the memory decides."""
        return fit(preset, memory, method) if memory else {note: gr.skip()}

    def switch(preset: str, name: str, memory: int | str) -> dict:
        chosen = form.optimizer(preset, name, memory)
        fresh = dict(zip(rates, (chosen.lr, chosen.make_lr), strict=True))
        return fields.write(fresh | optimizer.show(chosen)) | {said: optimizer.about(name)}

    def follow(given: dict, request: gr.Request) -> dict:
        """Keep what has changed, and say what follows from it."""
        name = given[draft]
        shown: dict[Any, Any] = {}
        changed = keep(name, fields.read(given), request.session_hash) if name else {}
        if "name" in changed:
            shown[project] = listed(name)
        if changed.keys() & {"preset", MEMORY, *other_keys}:
            shown[others] = count_others(drafts.read(name))
        try:
            return shown | {estimate: figures.note(_estimate(library, form.read(entered(given))[0]))}
        except UserError:
            return shown | {estimate: ""}  # said in full when training starts

    def keep(name: str, values: Mapping[Hashable, Any], page: str | None) -> dict[str, Any]:
        """Write what a page has changed since it was shown the draft; what another page changed meanwhile stays."""
        if page in gone:  # its last words may come late, and others have written since
            return {}
        own = {*optimizer.own(values["optimizer.name"])}
        now = {_key(field): value for field, value in values.items() if isinstance(field, str) or field in own}
        before = known_to.get((page, name)) or kept_in(name)[0]
        changed = {key: value for key, value in now.items() if value != before.get(key)}
        if changed:
            drafts.write(name, changed, usual)
        known_to[page, name] = before | changed
        return changed

    def say_words(given: dict) -> str:
        try:
            return figures.warnings(check_words(*form.read(entered(given))))
        except UserError:
            return ""

    def entered(given: dict) -> dict:
        """The values of the fields, and the pictures of the draft."""
        return fields.read(given) | pictures(given[draft])

    def pictures(name: str) -> dict[str, list[Given]]:
        return {column.key: column.pictures(name) if name else column.begin for column in columns.values()}

    begins = {name: fields[name].value for name in fields if isinstance(name, str)}

    def usual(kept: dict[str, Any]) -> dict[str, Any]:
        """What the fields show, by key, where a draft says nothing else: as its preset has it."""
        preset, memory, which = (kept.get(key, begins[key]) for key in ("preset", MEMORY, "adapter.method"))
        method = which if memory else None
        try:
            fresh = form.start(preset, memory, method)
        except UserError:  # what it would take is not known, which is said where it is chosen
            memory = method = None
            fresh = form.start(preset)
        own = form.optimizer(preset, kept.get("optimizer.name", fresh["optimizer.name"]), memory or "", method)
        of_own = {f"optimizer.{name}": getattr(own, name) for name in ("lr", "make_lr")}
        of_own |= {_key(slot): getattr(own, slot.name) for slot in optimizer.own(own.name)}
        return begins | {key: fresh[key] for key in fresh.keys() & begins.keys() - {MEMORY}} | of_own

    def count_others(kept: Mapping[str, Any]) -> gr.Accordion:
        """How many of the settings that are folded away differ from the preset."""
        count = len(kept.keys() & {*other_keys})
        return gr.Accordion(label=f"{EVERY_OTHER} ({count} changed)" if count else EVERY_OTHER)

    def names() -> dict[str, str]:
        return {name: drafts.read(name).get("name", sample.name) for name in drafts.names()}

    def listed(value: str) -> gr.Dropdown:
        return gr.Dropdown([(shown, name) for name, shown in names().items()], value=value)

    def kept_in(name: str) -> tuple[dict[Any, Any], dict[Any, dict]]:
        """The values of a draft by key, and what shows the settings of its optimizer."""
        kept = drafts.read(name)
        values = usual(kept)
        values |= {key: kept[key] for key in values.keys() & kept.keys()}
        updates = optimizer.show(OPTIMIZERS[values["optimizer.name"]]())
        for slot in optimizer.own(values["optimizer.name"]):
            updates[slot] |= {"value": values[_key(slot)]}
        return values, updates

    def show(name: str, request: gr.Request) -> dict:
        """A draft into all fields."""
        values, updates = kept_in(name)
        known_to[request.session_hash, name] = values
        into = {field: values[field] for field in begins} | updates
        about = optimizer.about(values["optimizer.name"])
        cards: dict[Any, Any] = {}
        for column in columns.values():
            cards |= column.show(name, values)
        counted = {others: count_others(drafts.read(name))}
        return fields.write(into) | cards | counted | {said: about, project: listed(name), draft: name, note: ""}

    def of_draft(name: str) -> dict[Hashable, Any]:
        """What `ProjectForm.read` takes, without the page."""
        values, updates = kept_in(name)
        slots = {slot: update.get("value") for slot, update in updates.items()}
        return {key: values[key] for key in begins} | slots | pictures(name)

    def start_kept(name: str) -> Run:
        return start_run(library, form, of_draft(name))

    def open_newest(request: gr.Request) -> dict:
        return show(drafts.names()[0], request)

    def make_new(request: gr.Request) -> dict:
        """An empty one."""
        empty: dict[str, Any] = {column.key: [] for column in columns.values()}
        empty |= {f"{one}.class_word": "" for one in CONCEPTS}
        return show(drafts.make(empty | {"name": "my project"}), request)

    def make_copy(name: str, request: gr.Request) -> dict:
        values = drafts.read(name)
        return show(drafts.make(values | {"name": f"{values.get('name', sample.name)} copy"}), request)

    def open_run(run: Run, request: gr.Request) -> dict:
        """What a run was made from, as a new project.

        Raises:
            UserError: none of its pictures is there any more.
        """
        config = run.customization()
        shown = {*begins, *(f"optimizer.{slot.name}" for slot in optimizer.own(config.optimizer.name))}
        values = {key: value for key, value in form.write(config).items() if key in shown}
        concepts = {column.key: config.concepts.get(one) for one, column in columns.items()}
        given = {key: pictures_of(concept) if concept else [] for key, concept in concepts.items()}
        gone = [one.path.name for shown in given.values() for one in shown if not one.path.is_file()]
        given = {key: [one for one in shown if one.path.is_file()] for key, shown in given.items()}
        if not any(given.values()):
            raise UserError(f"The pictures of {run.folder.name} are not there any more", "Begin a new project")
        name = drafts.make(given)
        drafts.write(name, values, usual)
        again = by_key(form.read(of_draft(name))[0])
        other = [key for key, value in by_key(config).items() if again.get(key) != value]
        said = f"This is what {run.folder.name} was made from."
        if gone:
            said += f" Not there any more: {names_of(gone)}."
        if other:
            said += f" The page has no field for {', '.join(other)}: there it is as the sample project says."
        return show(name, request) | {note: figures.note(said)}

    def take_away(name: str, request: gr.Request) -> dict:
        where = drafts.remove(name)
        return open_newest(request) | {
            note: figures.note(f"The project is in the trash of the runs' folder now, as {where.name}.")
        }

    def leave(request: gr.Request) -> None:
        for key in [key for key in known_to if key[0] == request.session_hash]:
            known_to.pop(key, None)
        gone.append(request.session_hash)

    def look_up(name: str | None) -> dict:
        """What is known of a base, and the words that it knows."""
        base = form.base(name or "")
        taught = bases.words(base)
        lists = {f"{one}.class_word": gr.update(choices=taught.get(one, [])) for one in CONCEPTS}
        return fields.write(lists) | {known: figures.note(bases.about(base))}

    def say_memories(preset: str, method: str) -> gr.Dropdown:
        return gr.Dropdown(budgets.choices(preset, method, budgets.found()))

    base, class_words = fields["base"], [fields[f"{one}.class_word"] for one in CONCEPTS]
    gr.on(None, look_up, base, [*class_words, known], **QUICK)  # when the page loads, and when the base changes
    for (one, column), word in zip(columns.items(), class_words, strict=True):
        gr.on(None, partial(_unknown, form, one), [base, word], column.asked, **QUICK)
        column.listen(fields, draft, preset, note)

    for field in (preset, memory):
        by_hand(field)(fit, [preset, memory], [*fields.all, said, note], **QUICK)
    again.click(fit, [preset, memory], [*fields.all, said, note], **QUICK)
    method = fields["adapter.method"]
    gr.on(None, say_memories, [preset, method], memory, **QUICK)
    by_hand(method)(refit, [preset, memory, method], [*fields.all, said, note], **QUICK)
    by_hand(which)(switch, [preset, which, memory], [*fields.all, said], **QUICK)
    asking: dict[str, Any] = {"trigger_mode": "once", "show_progress": "hidden", "api_visibility": "private"}
    asking |= {"concurrency_id": "device", "concurrency_limit": 1}  # a drawing meanwhile would count
    try_out.click(try_first_steps, {*fields.all, draft}, note, **asking)
    for one, column in columns.items():
        word = fields[f"{one}.class_word"]
        column.compare.click(compare(one), {*fields.all, draft}, [column.nearest, word], **asking)
        goes_with(column.nearest, [word, base])
    views = [part for column in columns.values() for part in column.shown]
    shown = [*fields.all, *views, others, said, project, draft, note]
    by_hand(project)(show, project, shown, **QUICK)
    anew.click(make_new, None, shown, **QUICK)
    copy.click(make_copy, draft, shown, **QUICK)
    remove.click(take_away, draft, shown, **QUICK)
    # When the page loads, and when a field changes; of many changes at once the last is what counts.
    latest = {"trigger_mode": "always_last"} | QUICK
    changes = [field.change for field in (*fields.all, *views[::2], draft)]
    gr.on(changes, follow, {*fields.all, draft}, [estimate, project, others], **latest)
    gr.on(changes, say_words, {*fields.all, draft}, words, **latest)
    goes_with(note, fields.all)
    return ProjectPage(fields, draft, entered, start, note, shown, open_newest, open_run, leave, names, start_kept)


def start_run(library: Library, form: ProjectForm, values: Mapping[Hashable, Any]) -> Run:
    """Check everything, put the project in a run folder of its own, and start to train it.

    Raises:
        UserError: as `checked`.
    """
    return jobs.launch(library, *checked(form, values))


def checked(form: ProjectForm, values: Mapping[Hashable, Any]) -> tuple[Customization, dict[str, list[Given]]]:
    """What `ProjectForm.read` gives, with nothing that would keep it from being trained.

    Raises:
        UserError: for all that can be seen to be wrong before the start.
    """
    config, pictures = form.read(values)
    require(config.optimizer.name)
    config.recognised_base()
    for name, shown in pictures.items():
        for finding in check(name, shown, config.resolution):
            if finding.blocks:
                raise UserError(f"{name.capitalize()}: {finding.text.rstrip('.')}", "Mend this, then start again")
    return config, pictures


def _key(name: Any) -> str:
    return name if isinstance(name, str) else f"optimizer.{name.name}"


def _methods() -> list[tuple[str, str]]:
    return [(f"{kind.title[0].upper()}{kind.title[1:]}", name) for name, kind in METHODS.items()]


def _unknown(form: ProjectForm, name: str, base: str | None, word: str | None) -> str:
    return figures.note(bases.unknown_word(form.base(base or ""), name, word or ""), "warning")


def _estimate(library: Library, config: Customization) -> str:
    steps = sum(stage.steps for stage in plan(config))
    seconds = library.estimate(config)
    if seconds is None:
        return f"{steps} steps. How long they take on this machine shows within the first few."
    return f"{steps} steps, about {figures.duration(seconds)} at the pace of the last run like it."
