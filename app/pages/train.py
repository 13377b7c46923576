"""Step 2: watch a run, cancel it, resume it. The page only looks: training goes on without it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr

from app import figures, jobs, remedies
from app.copies import Copies
from app.library import Library
from app.pages import QUICK, by_hand, mix
from app.painter import Painter
from app.strips import SCRIPT, strips
from pipelines.errors import UserError
from training import Run

SECONDS = 1.5  # between two looks


@dataclass(frozen=True)
class TrainPage:
    run: gr.Dropdown
    play: gr.Button  # shown where the run has an adapter
    mix: mix.MixPage


def build(
    library: Library, copies: Copies, timer: gr.Timer, spell: Callable[[str], str], painter: Painter
) -> TrainPage:
    """The page. `spell` puts the project page's labels in place of the configuration's keys."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            chosen = gr.Dropdown([], label="Run", info="Newest first.", elem_id="run")
            progress = gr.HTML(padding=False, elem_id="progress")
            cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
            resume = gr.Button("Resume", variant="primary", visible=False, elem_id="resume")
            mend = gr.Button("", variant="primary", visible=False, elem_id="mend")
            sample = gr.Button("Draw samples now", visible=False, elem_id="sample")
            play = gr.Button("Play with it", variant="primary", visible=False, elem_id="play")
            note = gr.HTML(padding=False, elem_id="train-note")
            line = gr.HTML(padding=False, elem_id="line")
        with gr.Column(min_width=320):
            curve = gr.HTML(padding=False, elem_id="curve")
    samples = gr.HTML(js_on_load=SCRIPT, apply_default_css=False, padding=False, elem_id="strips")
    seen, seen_strips = gr.State(None), gr.State(None)
    buttons = (cancel, resume, mend, sample, play)
    view = [progress, curve, *buttons, note, line, seen]

    def look(name: str | None, before: list | None, said: str) -> dict:
        """The view of a run; nothing is sent while nothing has changed."""
        run, hidden = _find(library, name), dict.fromkeys(buttons, gr.Button(visible=False))
        if run is None or name is None:
            empty = figures.note("No run yet. Start one under Project, and it appears here.")
            return {progress: empty, curve: "", seen: None} | hidden
        job = jobs.look(run)
        # Both notes are about a run that is being trained: this one, or the one that another waits for.
        shown = {note: ""} if said and not job.live and not library.running() else {}
        ahead = jobs.ahead(run) if job.status == jobs.QUEUED else 0
        waiting = [one.folder.name for one in jobs.waiting(library.folder)]
        now = [name, repr(job), ahead, waiting]
        if now == before:
            return shown or gr.skip()
        try:
            stages, remedy = library.stages(run), remedies.mended(run)
        except UserError as error:  # its configuration was changed by hand, or is from another version
            return shown | {progress: figures.note(str(error), "error"), curve: "", seen: now} | hidden
        return shown | {
            line: figures.line(waiting, name),
            progress: figures.progress(name, replace(job, message=spell(job.message)), stages, ahead),
            curve: figures.loss_curve(run.read_metrics()),
            cancel: gr.Button(visible=job.live or job.status == jobs.QUEUED),
            resume: gr.Button(visible=job.status in jobs.RESUMABLE),
            mend: gr.Button(remedy[0] if remedy else "", visible=remedy is not None),
            sample: gr.Button(visible=job.status == "running"),
            play: gr.Button(visible=job.status == "done"),
            seen: now,
        }

    def look_at_strips(name: str | None, before: list | None) -> tuple:
        run = _find(library, name)
        paths = _strips(run) if run else []
        now = [name, [path.name for path in paths]]
        if now == before:
            return gr.skip(), gr.skip()
        return strips(name or "", [shown for path in paths for shown in _shown(copies, path)]), now

    def ask_to_cancel(name: str) -> str:
        try:
            jobs.cancel(library.find(name))
        except UserError as error:
            return figures.note(str(error), "error")
        return figures.note("It stops after the step it is in, and keeps what was learned.")

    def go_on(name: str) -> str:
        try:
            jobs.start(library.find(name))
        except UserError as error:
            return figures.note(str(error), "error")
        return ""

    def start_again(name: str) -> tuple:
        try:
            again = remedies.start_again(library, library.find(name))
        except UserError as error:
            return gr.skip(), figures.note(str(error), "error")
        return choices(library, again.folder.name), figures.note(f"Started anew, as {again.folder.name}.")

    def ask_for_sample(name: str) -> str:
        try:
            library.find(name).ask_for_sample()
        except UserError as error:
            return figures.note(str(error), "error")
        return figures.note("Samples are drawn after the step that it is in.")

    for event in (timer.tick, chosen.change):
        event(look, [chosen, seen, note], view, **QUICK)
        event(look_at_strips, [chosen, seen_strips], [samples, seen_strips], **QUICK)
    by_hand(chosen)(lambda: "", None, note, **QUICK)
    cancel.click(ask_to_cancel, chosen, note, **QUICK)
    resume.click(go_on, chosen, note, **QUICK).then(look, [chosen, seen, note], view, **QUICK)
    mend.click(start_again, chosen, [chosen, note], **QUICK)
    sample.click(ask_for_sample, chosen, note, **QUICK)
    return TrainPage(chosen, play, mix.build(library, chosen, choices, painter, copies))


def choices(library: Library, value: str | None = None) -> gr.Dropdown:
    """The dropdown of runs; by default it shows the one that is being trained, else the newest."""
    names = [run.folder.name for run in library.runs()]
    running = library.running()
    value = value or (running.folder.name if running else names[0] if names else None)
    return gr.Dropdown(names, value=value)


def _find(library: Library, name: str | None) -> Run | None:
    try:
        return library.find(name) if name else None
    except UserError:  # its folder was removed meanwhile
        return None


def _strips(run: Run) -> list[Path]:
    """The sample sheets in the order in which they were drawn."""
    strips = (path for path in run.samples.glob("step-*.png") if _step(path).isdecimal())
    return sorted(strips) + [path for path in [run.sheet] if path.exists()]


def _shown(copies: Copies, path: Path) -> list[tuple[Path, str]]:
    """A sheet's copy and title; nothing of one that is damaged."""
    try:
        return [(copies.of(path), _title(path))]
    except UserError:
        return []


def _title(path: Path) -> str:
    return "finished" if path.stem == "sheet" else f"step {int(_step(path))}"


def _step(path: Path) -> str:
    return path.stem.removeprefix("step-")
