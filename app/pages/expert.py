"""Every other key of the configuration's tables, as fields made from its models: none of them is listed here."""

from collections.abc import Container, Iterator
from types import NoneType
from typing import Any, get_args

import gradio as gr
from pydantic.fields import FieldInfo

from app.fields import Fields
from app.pages.setting import Slot, meaning
from training import Customization
from training.config import CONCEPTS
from training.optimizers.settings import Strict

TABLES = {  # every key of these has a field; and what tells it from others with the same label
    "content": "the content",
    "style": "the style",
    "steps": "the steps",
    "samples": "the samples",
    "others": "the others",
    "adapter": "the adapter",
    "make": "joining",
    "loss": "the loss",
}
FILES = {"pictures", "crops", "others"}  # of a concept, what names files: its cards show them
UNSHOWN = FILES | {"run", "further"}  # Mix and further runs are for these


def model_of(table: str) -> type[Strict]:
    """What is said of a table, which may be missing; of a choice of tables, the first."""
    annotation: Any = Customization.model_fields[table].annotation
    return next((member for member in get_args(annotation) if member is not NoneType), annotation)


def keys(shown: Container) -> Iterator[tuple[str, str, FieldInfo]]:
    """Table, name and model of each key that no field has yet."""
    for table in TABLES:
        for name, key in model_of(table).model_fields.items():
            unshown = table in CONCEPTS and name in UNSHOWN
            if f"{table}.{key.alias or name}" not in shown and not unshown:
                yield table, name, key


def build(fields: Fields, starts: dict) -> list[str]:
    """Lay the fields out under what each table is, and name them.

    Args:
        fields: those that there are; the new ones are added to them.
        starts: values by key.
    """
    found = [*keys(fields)]
    gr.Markdown("What suits the preset is filled in, and only what differs from that is kept.")
    for table, of in TABLES.items():
        about = (model_of(table).__doc__ or "").splitlines()[0].replace("`", "")
        gr.Markdown(f"**{table.capitalize()}.** {fields.spell(about)}")
        with gr.Row(elem_classes="settings"):
            for _, name, key in (one for one in found if one[0] == table):
                words = {"value": starts[f"{table}.{name}"], "info": fields.spell(meaning(key))}
                fields.add(f"{table}.{name}", Slot.of(name, key).field(table, **words), of=of)
    return [f"{table}.{name}" for table, name, _ in found]
