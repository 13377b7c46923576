"""What a person has entered on the project page, kept from the first keystroke: a reload or another tab shows it again.

A draft holds what was changed, by key; all else is as the studio's sample project has it. Its folder has `draft.json`
and the pictures, as they were given.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.given import Given
from app.trash import to_trash
from pipelines.errors import UserError
from training import Customization, checkpoint
from training.formats import NO_JSON

FILE = "draft.json"
TRASH = "trash"

_writing = threading.Lock()  # tabs may write at once


@dataclass(frozen=True)
class Drafts:
    """A folder of drafts that begin with one sample project. They are named by numbers, and are never mixed up."""

    folder: Path

    @classmethod
    def of(cls, sample: Customization, folder: Path) -> "Drafts":
        """Those that begin with this sample: another's would change their meaning. A key that came later does not."""
        data = json.dumps(sample.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=True)
        return cls(folder / hashlib.sha256(data.encode()).hexdigest()[:16])

    def names(self) -> list[str]:
        """All drafts but damaged ones, the one that was changed last first; one is made if there is none."""
        with _writing:
            files = sorted(self.folder.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            found = [path.parent.name for path in files if path.parent.name.isdecimal()]
            return [name for name in found if self._values(name) is not None] or [self._make({})]

    def read(self, name: str) -> dict[str, Any]:
        """What was changed, by key.

        Raises:
            UserError: there is no such draft, or it is damaged.
        """
        if (values := self._values(name)) is None:
            raise _gone()
        return values | {key: self._found(name, shown) for key, shown in values.items() if isinstance(shown, list)}

    def write(
        self, name: str, changed: Mapping[str, Any], usual: Callable[[dict[str, Any]], dict[str, Any]] = lambda kept: {}
    ) -> dict[str, Any]:
        """Keep values beside those that are kept, and give all of them. Lists of pictures are copied as they are.

        Args:
            usual: what holds beside these values where nothing is kept; what does not differ from that is not.
        Raises:
            UserError: there is no such draft, or it could not be written.
        """
        with _writing:
            values = self.read(name) | dict(changed)
            usually = usual(values)
            values = {key: value for key, value in values.items() if key not in usually or value != usually[key]}
            self._save(name, values)
            return values

    def change(self, name: str, key: str, change: Callable[[list[Given]], list[Given]], begin: list[Given]) -> None:
        """Change some pictures. `begin` are those that there are where none are kept.

        Raises:
            UserError: there is no such draft, or it could not be written.
        """
        with _writing:
            values = self.read(name)
            self._save(name, values | {key: change(values.get(key, begin))})

    def make(self, values: Mapping[str, Any]) -> str:
        """The name of a new draft."""
        with _writing:
            return self._make(values)

    def remove(self, name: str) -> Path:
        """Move a draft into the trash, a folder beside the drafts, and say where it is.

        Raises:
            UserError: there is no such draft.
        """
        with _writing:
            if not os.path.isfile(self._file(name)):
                raise _gone()
            return to_trash(self._file(name).parent, self.folder / TRASH, name)

    def _values(self, name: str) -> dict[str, Any] | None:
        try:
            found = dict(json.loads(self._file(name).read_text(encoding="utf-8"))["values"])
            return found if all(map(_sound, found.values())) else None
        except (OSError, *NO_JSON, TypeError, KeyError):
            return None

    def _make(self, values: Mapping[str, Any]) -> str:
        taken = [int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()]
        trash = [int(path.name.split("-")[-1]) for path in self.folder.glob(f"{TRASH}/*-*")]
        name = str(max(taken + trash, default=0) + 1)
        self._save(name, values)
        return name

    def _save(self, name: str, values: Mapping[str, Any]) -> None:
        folder = self.folder / name
        kept = {key: self._take_in(folder, shown) if isinstance(shown, list) else shown
                for key, shown in values.items()}  # fmt: skip
        data = json.dumps({"version": 1, "values": kept}, indent=1)
        checkpoint.write_bytes(folder / FILE, data.encode())
        entries = [entry for shown in kept.values() if isinstance(shown, list) for entry in shown]
        used = {place for name, _, _, mask in entries for place in (name, mask)}
        for path in folder.glob("pictures/*/*"):
            if str(path.relative_to(folder)) not in used and _lies_in(path, folder):
                path.unlink(missing_ok=True)

    def _take_in(self, folder: Path, pictures: list[Given]) -> list[tuple[str, str | None, float, str | None]]:
        """Pictures as they stand in the file: under a folder named by their bytes, so that equal names do not clash."""

        def place(path: Path) -> str:
            if folder not in Path(path).parents:
                data = Path(path).read_bytes()
                copy = folder / "pictures" / hashlib.sha256(data).hexdigest()[:16] / Path(path).name
                if not copy.exists():
                    checkpoint.write_bytes(copy, data)
                path = copy
            return str(Path(path).relative_to(folder))

        return [(place(path), caption, crop, place(mask) if mask else None) for path, caption, crop, mask in pictures]

    def _found(self, name: str, shown: list) -> list[Given]:
        folder = self.folder / name

        def there(place: str | Path | None) -> Any:
            path = folder / place if place else None
            return path if path and os.path.isfile(path) and _lies_in(path, folder) else None

        pictures = [Given(there(place), *others) for place, *others in shown]
        return [one._replace(mask=there(one.mask)) for one in pictures if one.path]

    def _file(self, name: str) -> Path:
        if not name.isdecimal():  # a name from outside reaches no other folder
            raise UserError(f"There is no project {name!r}", "Choose another one")
        return self.folder / name / FILE


def _gone() -> UserError:
    return UserError("That project is not there any more", "Choose another one")


def _sound(value: Any) -> bool:
    """Whether a value of a file is one that this version reads: lists are of pictures."""
    return not isinstance(value, list) or all(map(_is_picture, value))


def _is_picture(entry: Any) -> bool:
    match entry:
        case [str(), str() | None] | [str(), str() | None, int() | float()]:  # the crop and the mask came later
            return True
        case [str(), str() | None, int() | float(), str() | None]:
            return True
    return False


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether no link leads out of the folder."""
    return path.resolve().is_relative_to(folder.resolve())
