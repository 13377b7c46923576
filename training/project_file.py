"""A project file in words: every key, what it means, what it allows, and what it is where it is left out.

All of it is read off the models of `config.py`. `python -m training new` writes a project file with it, and
`python -m training.project_file` makes docs/projects.md anew.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.errors import UserError
from training.adapters import METHODS
from training.bounds import allowed
from training.config import HOUSE, PRESETS, Content, Customization, Style
from training.optimizers.settings import DEFAULT, OPTIMIZERS, Learning

PAGE = HOUSE / "docs/projects.md"
GIVEN = {"content": {"pictures": ["content"]}, "style": {"pictures": ["style"]}}  # folders beside the new file
TABLES: dict[str, Any] = {"content": Content, "style": Style} | {
    name: field.annotation
    for name, field in Customization.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
INTRODUCTION = """# A project of Joinery: what is learned, from which pictures, and how.
#
# A line that begins with "#" and a key shows what holds where the key is left out; take the "#" away to change it.
# Without [content] or without [style], the other is learned alone. A key that Joinery does not know is refused.
# docs/projects.md has the same keys, and those of the other optimizers."""
HEAD = """# Every key of a project file

<!-- Made by `python -m training.project_file` from the models in training/config.py. -->

`python -m training new project.toml` writes a file with all of these keys in comments. Only `pictures` of a content or
of a style must be given; without `[content]` or without `[style]`, the other is learned alone. Paths start at the
file's own folder. A key that is not listed here is refused before work starts, like a value that is not allowed."""
OPTIMIZER = """`name` chooses one, `"{name}"` where it is left out; [optimizers.md](optimizers.md) tells when to take
which. {others}"""


def new(path: Path, preset: str = "emoji") -> None:
    """Write a commented project file that learns the pictures in the folders `content` and `style` beside it.

    Raises:
        UserError: the file exists already, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template(preset))
    except FileExistsError:
        raise UserError(f"{path} exists already", "Give another name; a project file is never written over") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Name a file in a folder that exists") from None


def template(preset: str = "emoji") -> str:
    """A project file that gives the pictures alone, with every other key in a comment."""
    config = Customization(**GIVEN, preset=preset)
    given = set() if preset == "emoji" else {"preset"}
    tables = [("", config), *((name, getattr(config, name)) for name in _order())]
    return INTRODUCTION + "\n\n" + "\n".join(_table(name, values, given) for name, values in tables)


def _order() -> list[str]:
    return [name for name in Customization.model_fields if name in TABLES or name == "optimizer"]


def _table(name: str, values: BaseModel, given: set[str]) -> str:
    """One table with its keys' values, each below what it means."""
    heads = [f"# {_about(type(values))}", f"[{name}]"] if name else []
    shown = values.model_dump(mode="json", by_alias=True)
    lines = []
    for key, field in keys(type(values)):
        text = f"{field.description or 'which one'} ({_allowed(key, field)})"
        lines += textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ")
        if shown[key] is None:
            lines.append(f"# {key} is not set")
        else:
            lines.append(f"{'' if field.is_required() or key in given else '#'}{key} = {_toml(shown[key])}")
    return "\n".join([*heads, *lines]) + "\n"


def keys(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a table as a file has them, without the tables in it; by what it is chosen comes first."""
    fields = model.model_fields
    for name in sorted(fields, key=lambda name: name != "name"):
        if model is not Customization or name not in {*TABLES, "optimizer"}:
            yield fields[name].alias or name, fields[name]


def _allowed(key: str, field: FieldInfo) -> str:
    """An optimizer's own name allows the others', which bring other keys."""
    chooses = key == "name" and field.annotation is not str
    return f"one of {', '.join(OPTIMIZERS)}" if chooses else allowed(field)


def _toml(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        names = (key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml(key) for key in value)
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in zip(names, value.values(), strict=True)) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"": value}).removeprefix('"" = ').strip()


def _about(model: type[BaseModel]) -> str:
    return vars(model)["__doc__"].splitlines()[0]


def page() -> str:
    """docs/projects.md."""
    parts = [HEAD, "## At the top", _rows(keys(Customization))]
    for name in _order():
        if name == "optimizer":
            parts += ["## [optimizer]", OPTIMIZER.format(name=DEFAULT, others=_by_method())]
            parts += _optimizers()
        else:
            parts += [f"## [{name}]", _about(TABLES[name]), _rows(keys(TABLES[name]))]
    parts += ["## What the presets set", "Where the file says nothing else:", _presets()]
    return "\n\n".join(parts) + "\n"


def _rows(entries: Iterable[tuple[str, FieldInfo]]) -> str:
    lines = ["| key | where it is left out | allowed | meaning |", "|---|---|---|---|"]
    for key, field in entries:
        default = "must be given" if field.is_required() else _value(field.default)
        lines.append(f"| `{key}` | {default} | {allowed(field)} | {field.description} |")
    return "\n".join(lines)


def _value(value: Any) -> str:
    return "" if value is None else "empty" if value in ("", [], {}) else f"`{_toml(value)}`"


def _optimizers() -> Iterator[str]:
    """A part for each class of settings: the keys that it brings or changes, and which optimizers have them."""
    classes = dict.fromkeys(
        one for kind in OPTIMIZERS.values() for one in reversed(kind.__mro__) if issubclass(one, Learning)
    )
    for one in classes:
        names = [name for name, kind in OPTIMIZERS.items() if issubclass(kind, one)]
        own = [(key, field) for key, field in keys(one) if key in vars(one)["__annotations__"] and key != "name"]
        if own:
            which = "All of them" if len(names) == len(OPTIMIZERS) else _listed(names)
            yield f"{which}:"
            yield _rows(own)


def _by_method() -> str:
    """What a method of learning has in place of an optimizer's own defaults."""
    found = {
        (method, key, value): [name for name in OPTIMIZERS if kind.optimizer_defaults(name).get(key) == value]
        for method, kind in METHODS.items()
        for optimizer in OPTIMIZERS
        for key, value in kind.optimizer_defaults(optimizer).items()
    }
    return "\n".join(
        f"With `adapter.method = {_toml(method)}`, the default of `{key}` is {_value(value)} for {_listed(names)}."
        for (method, key, value), names in found.items()
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _presets() -> str:
    found = {name: dict(_flat(preset)) for name, preset in PRESETS.items() if preset}
    lines = ["| key | " + " | ".join(f"`{name}`" for name in found) + " |", "|---|" + "---|" * len(found)]
    for key in dict.fromkeys(key for preset in found.values() for key in preset):
        lines.append(f"| `{key}` | " + " | ".join(_value(preset.get(key)) for preset in found.values()) + " |")
    return "\n".join(lines)


def _flat(table: dict, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
