"""What can be made of finished runs: any content with any style, or more steps."""

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from app import figures
from app.fields import Fields
from app.library import Library
from app.mixing import go_further, having, mix
from app.pages import QUICK, about, goes_with
from pipelines.errors import UserError
from training import Run

KINDS = ("content", "style")


@dataclass(frozen=True)
class MixPage:
    shown: list[gr.Dropdown]  # what `offer` fills
    offer: Callable


def build(library: Library, chosen: gr.Dropdown, choices: Callable[[Library, str], gr.Dropdown]) -> MixPage:
    """Two ways to start a run from finished ones.

    Args:
        chosen: the run that the page shows, which may go further; then it shows what was started.
        choices: the list of runs, with one of them chosen.
    """
    fields = Fields()

    def steps(name: str, label: str, info: str) -> None:
        fields.add(name, gr.Number(0, label=label, info=info, precision=0, minimum=0, min_width=120))

    with gr.Accordion("Mix the content of one run with the style of another", open=False):
        gr.Markdown("Joined at once, without training. A short training of both together betters it.")
        with gr.Row():
            for kind in KINDS:
                fields.add(kind, gr.Dropdown([], label=f"{kind.capitalize()} of", elem_id=f"mix-{kind}"))
            steps("make", "Steps: joined", "0 joins them as they are.")
        join = gr.Button("Join", elem_id="join")
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

    def joined(values: dict, _: str | None) -> Run:
        return mix(library, values["content"], values["style"], values["make"])

    def continued(values: dict, name: str | None) -> Run:
        return go_further(library, name, values["more"], values["more_make"])

    for button, run_of in ((join, joined), (on, continued)):
        button.click(starting(run_of), {*fields.all, chosen}, [note, chosen], trigger_mode="once", **QUICK)
    goes_with(note, fields.all)

    def offer() -> list[gr.Dropdown]:
        return [gr.Dropdown(having(library, kind)) for kind in KINDS]

    return MixPage([fields[kind] for kind in KINDS], offer)
