"""Fields that are made from keys of the configuration: label, kind, meaning and limits are read off the model."""

from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from pydantic.fields import FieldInfo

from training.bounds import allowed, choices

LINES = 3  # of a field for a list, which has one entry a line


@dataclass(frozen=True)
class Slot:
    """A field of the page, and the place of its value: one for all keys of this name and kind."""

    name: str
    kind: Any  # the type of a value that is entered, not chosen; None: there are only choices
    choices: tuple = ()

    @classmethod
    def of(cls, name: str, key: FieldInfo) -> "Slot":
        if _closed(key):
            return cls(name, None, get_args(key.annotation))
        return cls(name, str, tuple(choices(key))) if choices(key) else cls(name, _kind(key))

    def field(self, table: str, **shown: Any) -> gr.components.Component:
        """A component; the page finds it by its table and name."""
        label = self.name.replace("_", " ").capitalize()
        shown |= {"label": label, "min_width": 200, "elem_id": f"{table}-{self.name.replace('_', '-')}"}
        if self.choices:
            return gr.Dropdown(list(self.choices), allow_custom_value=self.kind is not None, **shown)
        if self.kind is bool:
            return gr.Checkbox(**shown)
        if self.kind in (int, float):
            return gr.Number(**shown)
        lines = LINES if self.kind is list else 1
        return gr.Textbox(lines=lines, max_lines=lines, **shown)


def meaning(key: FieldInfo) -> str:
    """Its description and its range, as sentences; what is chosen or written freely needs no range."""
    bounds = None if _closed(key) or (_kind(key) in (bool, str) and not choices(key)) else allowed(key)
    if bounds and _kind(key) is float:  # that it is a number can be seen
        bounds = bounds.removeprefix("a number, ")
    if _kind(key) is list:
        bounds = "one a line"
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (key.description, bounds) if text)


def _closed(key: FieldInfo) -> bool:
    """Whether its values are named one by one."""
    return get_origin(key.annotation) is Literal


def _kind(key: FieldInfo) -> Any:
    """The type of its values, or of those that there may be none of."""
    if get_origin(key.annotation) is list:
        return list
    members = [member for member in get_args(key.annotation) if member is not NoneType]
    return members[0] if len(members) == 1 else key.annotation
