"""The settings of the chosen optimizer, as fields made from its own model: none of them is listed here."""

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from app import figures
from app.pages.setting import Slot, meaning
from pipelines.errors import UserError
from training.optimizers.settings import OPTIMIZERS, Learning
from training.packages import installed, require

SHARED = {"name", "lr", "make_lr"}  # every optimizer has these, and the page shows them first
ABSENT = "absent"  # of the style sheet, which hides it: what Gradio shows in a closed part of a page may stay hidden


def names() -> list[tuple[str, str]]:
    """All optimizers as the dropdown has them: title and name."""
    return [(title(name) + ("" if installed(name) else " (not installed)"), name) for name in OPTIMIZERS]


def title(name: str) -> str:
    return vars(OPTIMIZERS[name]).get("title", name)  # its own: a title that is inherited is another's


def slots() -> list[Slot]:
    """The fields that all optimizers together need; what most of them have stands last. All stay on the page."""
    every = [slot for kind in OPTIMIZERS.values() for slot in _own(kind)]
    return sorted(dict.fromkeys(every), key=lambda slot: every.count(slot) > len(OPTIMIZERS) / 2)


def fields(settings: Learning) -> dict[Slot, gr.components.Component]:
    """A field for each slot; those of an optimizer's own settings are shown."""
    return {slot: slot.field("optimizer", **shown) for slot, shown in _shown(settings).items()}


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
        slot: {"value": getattr(settings, slot.name), "info": meaning(own[slot]), "elem_classes": []}
        if slot in own
        else {"elem_classes": [ABSENT]}
        for slot in slots()
    }


def _own(kind: type[Learning]) -> dict[Slot, FieldInfo]:
    """The settings of an optimizer that a person can change."""
    changeable = {name: one for name, one in kind.model_fields.items() if name not in SHARED and not _fixed(one)}
    return {Slot.of(name, field): field for name, field in changeable.items()}


def _fixed(field: FieldInfo) -> bool:
    """Whether only one value is allowed."""
    lowest = [mark.ge for mark in field.metadata if isinstance(mark, Ge)]
    return bool(lowest) and lowest == [mark.le for mark in field.metadata if isinstance(mark, Le)]
