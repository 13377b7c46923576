"""What was deleted, on the Library page: put back, or removed for good."""

import time

import gradio as gr

from app import figures
from app.library import Library
from app.pages import QUICK
from app.trash import Thrown, empty, thrown
from pipelines.errors import UserError


def build(library: Library, here: gr.Tab) -> None:
    """The trash of a library, and what all of it takes, in the tab `here`, which looks anew when that is opened."""
    runs = library.folder
    used = gr.HTML(padding=False, elem_id="used")
    with gr.Accordion("Trash", open=False):
        chosen = gr.Dropdown([], multiselect=True, label="Deleted", info="The last first.", elem_id="thrown")
        with gr.Row():
            back = gr.Button("Put back", min_width=120, elem_id="put-back")
            away = gr.Button("Empty the trash", min_width=120, elem_id="empty-trash")
            sure = gr.Button("", variant="stop", visible=False, min_width=120, elem_id="empty-really")
        note = gr.HTML(padding=False, elem_id="trash-note")

    def listed() -> gr.Dropdown:
        return gr.Dropdown([(_said(one), str(one.folder.relative_to(runs))) for one in thrown(runs)], value=[])

    def put_back(names: list[str]) -> tuple:
        there, faults, done = {str(one.folder.relative_to(runs)): one for one in thrown(runs)}, [], 0
        for one in filter(None, map(there.get, names or [])):
            try:
                one.restore()
                done += 1
            except UserError as error:
                faults.append(str(error))
        said = f"Put back: {done}." if done else "Choose what to put back."
        return listed(), figures.note(" ".join(faults) or said, "error" if faults else "good" if done else "info")

    def ask() -> gr.Button:
        size = sum(one.size for one in thrown(runs))
        return gr.Button(f"Really remove {figures.size(size)} for good", visible=size > 0)

    def remove() -> tuple:
        said = f"The trash is empty: {figures.size(empty(runs))} are free again."
        library.quota.measure()
        return listed(), figures.note(said, "good"), gr.Button(visible=False), figures.used(library.quota)

    here.select(lambda: (listed(), figures.used(library.quota)), None, [chosen, used], **QUICK)
    back.click(put_back, chosen, [chosen, note], **QUICK)
    away.click(ask, None, sure, **QUICK)
    sure.click(remove, None, [chosen, note, sure, used], **QUICK)


def _said(one: Thrown) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", one.when)
    name = one.name[:8] if one.kind == "picture" else one.name  # which is a hash
    return f"{one.kind.capitalize()} {name}, deleted {when}, {figures.size(one.size)}"
