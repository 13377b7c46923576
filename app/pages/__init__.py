"""The studio's pages, one for each thing a person does. Each has a `build` that returns what others wire to."""

from collections.abc import Iterable

import gradio as gr

# What takes no time goes past the queue: its event stream closes after the last event, and one that is sent in that
# moment is never answered. Only drawing waits in line.
QUICK = {"api_visibility": "private", "show_progress": "hidden", "queue": False}


def goes_with(note: gr.HTML, fields: Iterable[gr.components.Component]) -> None:
    """A note goes as soon as a person changes one of the fields that it may be about."""
    events = [getattr(field, "input", None) or field.change for field in fields]
    gr.on(events, None, None, note, js="() => ''", **QUICK)
