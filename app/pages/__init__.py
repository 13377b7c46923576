"""The studio's pages, one for each thing a person does. Each has a `build` that returns what others wire to."""

import functools
import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import gradio as gr

from pipelines.errors import UserError

log = logging.getLogger("joinery")

# What takes no time goes past the queue: its event stream closes after the last event, and one that is sent in that
# moment is never answered. Only drawing waits in line.
QUICK: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}


def by_hand(field: Any) -> Callable:
    """The event of a person changing a field. A list also says `input` when it merely closes, with nothing chosen."""
    if isinstance(field, gr.Dropdown) and not field.allow_custom_value:
        return field.select
    return getattr(field, "input", None) or field.change


def goes_with(note: gr.HTML, fields: Iterable[gr.components.Component]) -> None:
    """A note goes as soon as a person changes one of the fields that it may be about.

    Events may come late and out of order, so one that says `about` the very values that are there now stays.
    """
    fields = [*fields]

    def look(given: dict[gr.components.Component, Any]) -> Any:
        said = given.pop(note)
        # An event from before the note was there must not take it away when it comes late.
        return "" if said and about(given) not in said else gr.skip()

    gr.on([by_hand(field) for field in fields], look, {note, *fields}, note, **QUICK)


def about(given: dict[gr.components.Component, Any]) -> str:
    """A short word for the values of fields, which a note carries that is about them."""
    values = sorted((field._id, repr(value)) for field, value in given.items())
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def in_words(handler: Callable) -> Callable:
    """The handler, with a sentence for whatever it raises: Gradio would show a fault's own text, as HTML."""

    @functools.wraps(handler)
    def whole(*given: Any) -> Any:
        with _said():
            return handler(*given)

    @functools.wraps(handler)
    def piece_by_piece(*given: Any) -> Any:
        with _said():
            yield from handler(*given)

    return piece_by_piece if inspect.isgeneratorfunction(handler) else whole


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
        return
    except UserError as error:
        said = str(error)
    except OSError as error:
        log.exception("A file could not be read or written")
        said = f"A file could not be read or written: {error.strerror or error}. Mend this, then try again."
    except Exception:
        log.exception("A fault of the studio's own")
        said = "The studio made a fault. Its terminal says which; what was trained is safe."
    raise gr.Error(escape(said, quote=False), print_exception=False)
