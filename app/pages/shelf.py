"""The runs on the Library page: what each has learned, its name, its adapter to take away, and the trash."""

from pathlib import Path
from urllib.parse import quote, urlencode

import gradio as gr

from app import figures, jobs
from app.fields import Fields
from app.library import Library
from app.pages import QUICK, by_hand
from app.pages.play import PlayPage
from app.pages.project import ProjectPage
from pipelines.errors import UserError
from training.plan import plan

FORMATS = [("What is usual for its base", ""), ("Web UIs (kohya)", "kohya"), ("PEFT", "peft")]
PRECISIONS = [("16 bits (fp16)", "float16"), ("16 bits (bf16)", "bfloat16"), ("32 bits", "float32")]


def build(library: Library, tabs: gr.Tabs, projects: ProjectPage, plays: PlayPage, here: gr.Tab) -> None:
    """A list of runs, and what can be done with the chosen one."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            chosen = gr.Dropdown([], label="Run", info="Newest first.", elem_id="shelf-run")
            facts = gr.HTML(padding=False, elem_id="shelf-facts")
            with gr.Row(elem_classes="projects"):
                name = gr.Textbox(label="New name", max_lines=1, scale=3, min_width=140, elem_id="run-name")
                rename, remove = (
                    gr.Button(words, size="sm", scale=0, min_width=80, elem_id=f"{words.lower()}-run")
                    for words in ("Rename", "Delete")
                )
            with gr.Row():
                play = gr.Button("Play with it", min_width=140, elem_id="shelf-play")
                change = gr.Button("Change and train again", min_width=140, elem_id="shelf-change")
            note = gr.HTML(padding=False, elem_id="shelf-note")
        with gr.Column(min_width=320, visible=False) as exported:
            fields = _export()
            link = gr.HTML(padding=False, elem_id="export")
    words = [fields[key] for key in ("title", "trigger")]

    def show(wanted: str | None) -> dict:
        """A run's facts, and what an export of it is called; of the newest if the wanted one is not there."""
        names = [run.folder.name for run in library.runs()]
        value = wanted if wanted in names else next(iter(names), None)
        listed = gr.Dropdown(names, value=value)
        if value is None:
            empty = figures.note("No run yet. Start one under Project, and it appears here.")
            hidden = dict.fromkeys((exported, play, change), gr.update(visible=False))
            return {chosen: listed, facts: empty, name: ""} | hidden
        run = library.find(value)
        config, finished = library.customization(run), run.adapter.exists()
        placeholders = [concept.placeholder for concept in config.concepts.values()] if config else []
        shown = {
            chosen: listed,
            facts: figures.facts(_facts(library, value)),
            name: value,
            exported: gr.Column(visible=finished),
            play: gr.Button(visible=finished),
            change: gr.Button(visible=config is not None),
        }
        return shown | fields.write({"title": " + ".join(placeholders), "trigger": ", ".join(placeholders)})

    def said(error: UserError) -> dict:
        return {note: figures.note(str(error), "error")}

    def give_name(old: str, new: str) -> dict:
        try:
            run = library.rename(old, new)
        except UserError as error:
            return said(error)
        return show(run.folder.name) | {note: figures.note(f"It is called {run.folder.name} now.")}

    def take_away(old: str) -> dict:
        try:
            where = library.remove(old)
        except UserError as error:
            return said(error)
        return show(None) | {note: figures.note(f"The run is in the trash of the runs' folder now, as {where.name}.")}

    def offer(run: str | None, given: dict) -> str:
        values = {key: value for key, value in fields.read(given).items() if value not in ("", None)}
        return figures.download(f"adapters/{quote(run)}.safetensors?{urlencode(values)}", "Export") if run else ""

    def open_again(old: str, request: gr.Request) -> dict:
        try:
            return projects.open_run(library.find(old), request) | {tabs: gr.Tabs(selected="project"), note: ""}
        except UserError as error:
            return said(error)

    view = [chosen, facts, name, exported, play, change, *words, note]
    here.select(show, chosen, view, **QUICK)
    by_hand(chosen)(lambda name: show(name) | {note: ""}, chosen, view, **QUICK)
    rename.click(give_name, [chosen, name], view, **QUICK)
    remove.click(take_away, chosen, view, **QUICK)
    change.click(open_again, chosen, [tabs, note, *projects.shown], **QUICK)
    play.click(lambda run: (gr.Tabs(selected="play"), *plays.offer(run)), chosen, [tabs, *plays.shown], **QUICK)
    gr.on(
        [field.change for field in (*fields.all, chosen)],
        lambda given: offer(given.pop(chosen), given),
        {*fields.all, chosen},
        link,
        trigger_mode="always_last",
        **QUICK,
    )


def _export() -> Fields:
    """What an exported file may differ in, named as the address of an adapter takes it."""
    fields = Fields()
    with gr.Row():
        fields.add("format", gr.Dropdown(FORMATS, value="", label="For", min_width=150, elem_id="export-format"))
        fields.add("precision", gr.Dropdown(PRECISIONS, value="float16", label="Precision", min_width=150))
    with gr.Row():
        for kind in ("content", "style"):
            label, info = kind.capitalize(), "Its scale, baked in."
            fields.add(kind, gr.Slider(0, 1.5, 1, step=0.05, label=label, info=info, min_width=150))
    fields.add("title", gr.Textbox(label="Title", info="What web UIs list it as.", max_lines=1, elem_id="title"))
    fields.add("trigger", gr.Textbox(label="Trigger words", info="What to write in a prompt.", max_lines=1))
    return fields


def _facts(library: Library, name: str) -> dict[str, str]:
    run = library.find(name)
    job, config = jobs.look(run), library.customization(run)
    facts = {"State": figures.WORDS.get(job.status, job.status)}
    if config is None:
        return facts | {"Project": "written by another version, or damaged"}
    for kind, concept in config.concepts.items():
        facts[kind.capitalize()] = " ".join(filter(None, [concept.placeholder, concept.class_word]))
    facts |= {"Base": Path(config.base).name, "Steps": str(sum(stage.steps for stage in plan(config)))}
    if run.adapter.exists():
        facts["Adapter"] = f"rank {config.adapter.rank}, {run.adapter.stat().st_size / 2**20:.1f} MB"
    return facts
