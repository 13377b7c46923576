"""The settings of the chosen optimizer, as fields made from its own model: none of them is listed here."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from app import figures
from pipelines.errors import UserError
from training.bounds import allowed, choices
from training.optimizers.settings import OPTIMIZERS, Learning
from training.packages import installed, require

SHARED = {"name", "lr", "make_lr"}  # every optimizer has these, and the page shows them first
ABSENT = "absent"  # a class of the style sheet


@dataclass(frozen=True)
class Slot:
    """A field of the page, and the place of its value: one for all optimizers that have a setting of this kind.

    All stay on the page, and the style sheet hides those of the class ABSENT: what Gradio itself makes visible while
    it lies in a closed part of the page may stay hidden.
    """

    name: str
    kind: Any  # the type of a value that is entered, not chosen; None: there are only choices
    choices: tuple = ()

    def field(self, **shown: Any) -> gr.components.Component:
        label = self.name.replace("_", " ").capitalize()
        shown |= {"label": label, "min_width": 200, "elem_id": f"optimizer-{self.name.replace('_', '-')}"}
        if self.choices:
            return gr.Dropdown(list(self.choices), allow_custom_value=self.kind is not None, **shown)
        if self.kind is bool:
            return gr.Checkbox(**shown)
        return gr.Number(**shown) if self.kind in (int, float) else gr.Textbox(max_lines=1, **shown)


def names() -> list[tuple[str, str]]:
    """All optimizers as the dropdown has them: title and name."""
    return [(title(name) + ("" if installed(name) else " (not installed)"), name) for name in OPTIMIZERS]


def title(name: str) -> str:
    return vars(OPTIMIZERS[name]).get("title", name)  # its own: a title that is inherited is another's


def slots() -> list[Slot]:
    """The fields that all optimizers together need; what most of them have stands last."""
    every = [slot for kind in OPTIMIZERS.values() for slot in _own(kind)]
    return sorted(dict.fromkeys(every), key=lambda slot: every.count(slot) > len(OPTIMIZERS) / 2)


def fields(settings: Learning) -> dict[Slot, gr.components.Component]:
    """A field for each slot; those of an optimizer's own settings are shown."""
    return {slot: slot.field(**shown) for slot, shown in _shown(settings).items()}


def show(settings: Learning) -> dict[Slot, dict]:
    """Updates of the fields."""
    return {slot: gr.update(**shown) for slot, shown in _shown(settings).items()}


def entered(name: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    """An optimizer's own settings among the values of all slots."""
    return {slot.name: values[slot] for slot in _own(OPTIMIZERS[name])}


def own(name: str) -> list[Slot]:
    """The fields of an optimizer's own settings."""
    return [*_own(OPTIMIZERS[name])]


def about(name: str) -> str:
    """What an optimizer is, and what must be installed before it can be used."""
    said = f'<p class="about">{escape(vars(OPTIMIZERS[name]).get("__doc__") or "")}</p>'
    try:
        require(name)
    except UserError as error:
        said += figures.note(str(error), "warning")
    return said


def _shown(settings: Learning) -> dict[Slot, dict[str, Any]]:
    own = _own(type(settings))
    return {
        slot: {"value": getattr(settings, slot.name), "info": _meaning(own[slot]), "elem_classes": []}
        if slot in own
        else {"elem_classes": [ABSENT]}
        for slot in slots()
    }


def _own(kind: type[Learning]) -> dict[Slot, FieldInfo]:
    """The settings of an optimizer that a person can change."""
    changeable = {name: one for name, one in kind.model_fields.items() if name not in SHARED and not _fixed(one)}
    return {_slot(name, field): field for name, field in changeable.items()}


def _slot(name: str, field: FieldInfo) -> Slot:
    if _closed(field):
        return Slot(name, None, get_args(field.annotation))
    return Slot(name, str, tuple(choices(field))) if choices(field) else Slot(name, field.annotation)


def _closed(field: FieldInfo) -> bool:
    """Whether its values are named one by one."""
    return get_origin(field.annotation) is Literal


def _fixed(field: FieldInfo) -> bool:
    """Whether only one value is allowed."""
    lowest = [mark.ge for mark in field.metadata if isinstance(mark, Ge)]
    return bool(lowest) and lowest == [mark.le for mark in field.metadata if isinstance(mark, Le)]


def _meaning(field: FieldInfo) -> str:
    """Its description and its range, as sentences; a list of choices needs no range."""
    bounds = None if field.annotation is bool or _closed(field) else allowed(field)
    if bounds and field.annotation is float:  # that it is a number can be seen
        bounds = bounds.removeprefix("a number, ")
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (field.description, bounds) if text)
