"""What can be made of finished runs: any content with any style, or more steps."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr

from app import figures
from app.copies import Copies
from app.fields import Fields
from app.library import Library
from app.mixing import go_further, having, mix
from app.pages import QUICK, about, goes_with
from app.painter import Painter
from app.pairs import SCRIPT, as_table, drawn
from pipelines.errors import UserError
from training import Run

KINDS = ("content", "style")


@dataclass(frozen=True)
class MixPage:
    shown: list[gr.Dropdown]  # what `offer` fills
    offer: Callable
    leave: Callable  # for a page that is gone


def build(
    library: Library,
    chosen: gr.Dropdown,
    choices: Callable[[Library, str], gr.Dropdown],
    painter: Painter,
    copies: Copies,
) -> MixPage:
    """Two ways to start a run from finished ones.

    Args:
        chosen: the run that the page shows, which may go further; then it shows what was started.
        choices: the list of runs, with one of them chosen.
    """
    fields, at_work = Fields(), {}

    def steps(name: str, label: str, info: str) -> None:
        fields.add(name, gr.Number(0, label=label, info=info, precision=0, minimum=0, min_width=120))

    with gr.Accordion("Mix the content of one run with the style of another", open=False):
        gr.Markdown("Joined at once, without training. A short training of both together betters it.")
        with gr.Row():
            for kind in KINDS:
                fields.add(kind, gr.Dropdown([], label=f"{kind.capitalize()} of", elem_id=f"mix-{kind}"))
            steps("make", "Steps: joined", "0 joins them as they are.")
        with gr.Row():
            join = gr.Button("Join", elem_id="join", min_width=120)
            every = gr.Button("Show all pairs", elem_id="pairs", min_width=120)
            enough = gr.Button("Stop", elem_id="pairs-stop", visible=False, min_width=80)
        table = gr.HTML(js_on_load=SCRIPT, apply_default_css=False, padding=False, elem_id="pairs-table")
    with gr.Accordion("Go further with this run", open=False):
        gr.Markdown("It learns on where it has ended, as a new run; this one stays as it is.")
        with gr.Row():
            steps("more", "Steps: apart", "More for each of content and style.")
            steps("more_make", "Steps: joined", "More of both together.")
        on = gr.Button("Go further", elem_id="further")
    note = gr.HTML(padding=False, elem_id="mix-note")

    def starting(run_of: Callable[[dict, str | None], Run]) -> Callable:
        def start(given: dict) -> dict:
            values = {name: value or 0 for name, value in fields.read(given).items()}
            try:
                run = run_of(values, given[chosen])
            except UserError as error:
                asked = about({field: given[field] for field in fields.all})
                return {note: figures.note(str(fields.in_labels(error)), "error", asked)}
            return {note: "", chosen: choices(library, run.folder.name)}

        return start

    def show_all(request: gr.Request) -> Iterator[dict]:
        """Each content in each style, as they would be joined; a click on one chooses it."""
        stop = at_work[request.session_hash] = threading.Event()
        try:
            for now in drawn(library, painter, stop):
                if not now or not now[0]:
                    yield {note: figures.note("There is no pair yet: it takes a content and a style.")}
                    return
                yield {table: as_table(now, copies), enough: gr.Button(visible=True)}
            yield {enough: gr.Button(visible=False)}
        finally:
            at_work.pop(request.session_hash, None)

    def leave(request: gr.Request) -> None:
        if stop := at_work.get(request.session_hash):
            stop.set()

    def end(request: gr.Request) -> dict:
        leave(request)
        return {enough: gr.Button(visible=False)}

    def choose(event: gr.EventData) -> dict:
        return fields.write({kind: str(event._data.get(kind)) for kind in KINDS})

    def joined(values: dict, _: str | None) -> Run:
        return mix(library, values["content"], values["style"], values["make"])

    def continued(values: dict, name: str | None) -> Run:
        return go_further(library, name, values["more"], values["more_make"])

    for button, run_of in ((join, joined), (on, continued)):
        button.click(starting(run_of), {*fields.all, chosen}, [note, chosen], trigger_mode="once", **QUICK)
    every.click(
        show_all,
        None,
        [table, note, enough],
        trigger_mode="once",
        concurrency_id="device",
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    )
    enough.click(end, None, [enough], **QUICK)
    table.input(choose, None, [fields[kind] for kind in KINDS], **QUICK)
    goes_with(note, fields.all)

    def offer() -> list[gr.Dropdown]:
        return [gr.Dropdown(having(library, kind)) for kind in KINDS]

    return MixPage([fields[kind] for kind in KINDS], offer, leave)
