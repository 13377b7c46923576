"""Keys of a project file, changed on a command line."""

import tomllib
from collections.abc import Iterable

from pipelines.errors import UserError


def parsed(changes: Iterable[str]) -> dict:
    """Each "table.key=value" with the value as in TOML, as tables of a project file.

    Raises:
        UserError: one has no value.
    """
    tables: dict = {}
    for change in changes:
        path, found, value = change.partition("=")
        if not found:
            raise UserError(f"{change!r} is no change", "Write key=value, for example optimizer.lr=5e-3")
        *parents, key = path.split(".")
        place = tables
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            place[key] = value
    return tables
