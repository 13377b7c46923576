"""Fields that are made from keys of the configuration: label, kind, meaning and limits are read off the model."""

from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from pydantic.fields import FieldInfo

from training.bounds import allowed, choices

SHORT = {"lr": "LR", "snr": "SNR"}  # words of keys that are written otherwise
LINES = 3  # of a field for a list or a table, which has one entry a line


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
        label = " ".join(SHORT.get(word, word) for word in self.name.split("_"))
        label = label[0].upper() + label[1:]
        shown |= {"label": label, "min_width": 200, "elem_id": f"{table}-{self.name.replace('_', '-')}"}
        if self.choices:
            return gr.Dropdown(list(self.choices), allow_custom_value=self.kind is not None, **shown)
        if self.kind is bool:
            return gr.Checkbox(**shown)
        if self.kind in (int, float):
            return gr.Number(**shown)
        lines = LINES if self.kind in (list, dict) else 1
        return gr.Textbox(lines=lines, max_lines=lines, **shown)


def meaning(key: FieldInfo) -> str:
    """Its description and its range, as sentences; what is chosen or written freely needs no range."""
    bounds = None if _closed(key) or (_kind(key) in (bool, str) and not choices(key)) else allowed(key)
    if bounds and _kind(key) is float:  # that it is a number can be seen
        bounds = bounds.removeprefix("a number, ")
    if _kind(key) in WRITTEN:
        bounds = WRITTEN[_kind(key)]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (key.description, bounds) if text)


WRITTEN = {  # kinds that are entered as text, and how
    list: "one a line",
    dict: "one a line: the name, =, and which",
    tuple: "the numbers with a comma between",
}


def as_text(value: Any) -> Any:
    """A value as its field shows it: lists and tables one entry a line, pairs of numbers with a comma."""
    if isinstance(value, dict):
        return "\n".join(f"{name} = {one}" for name, one in value.items())
    if isinstance(value, list | tuple):
        numbers = value and all(isinstance(one, int | float) for one in value)
        return ", ".join(f"{one:g}" for one in value) if numbers else "\n".join(value)
    return value


def of_text(text: Any, key: FieldInfo) -> Any:
    """What a field of this key holds; the reverse of `as_text`."""
    kind = _kind(key)
    if kind not in WRITTEN:
        return (text or "").strip() if kind is str or isinstance(text, str) else text
    entries = (text or "").split(",") if kind is tuple else (text or "").splitlines()
    entries = [entry.strip() for entry in entries if entry.strip()]
    if kind is dict:
        return {name.strip(): one.strip() for name, _, one in (entry.partition("=") for entry in entries)}
    return entries


def _closed(key: FieldInfo) -> bool:
    """Whether its values are named one by one."""
    return get_origin(key.annotation) is Literal


def _kind(key: FieldInfo) -> Any:
    """The type of its values, or of those that there may be none of."""
    if get_origin(key.annotation) in WRITTEN:
        return get_origin(key.annotation)
    members = [member for member in get_args(key.annotation) if member is not NoneType]
    return members[0] if len(members) == 1 else key.annotation
