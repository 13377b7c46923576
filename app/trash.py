"""What a person deletes is moved, not removed: one way for pictures, projects and runs, and the way back."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UserError

WHEN = "%Y-%m-%d-%H%M%S"
NAME = re.compile(r"(\d{4}-\d\d-\d\d-\d{6})-(.+)")
BINS = {"run": ".trash", "picture": ".pictures/trash", "project": ".projects/*/trash"}  # in a folder of runs


def to_trash(folder: Path, trash: Path, name: str) -> Path:
    """Move a folder into a trash, which is made if need be, and say where it is: under the time and a name."""
    target = trash / f"{time.strftime(WHEN)}-{name}"
    trash.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(folder, target))


@dataclass(frozen=True)
class Thrown:
    """Something in a trash: a run, a picture or a project."""

    kind: str
    name: str
    when: time.struct_time
    folder: Path

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def restore(self) -> Path:
        """Move it back to where it was.

        Raises:
            UserError: there is another one of its name now.
        """
        target = self.folder.parent.parent / self.name
        if target.exists():
            raise UserError(
                f"There is a {self.kind} {self.name} again", "Rename that one first, or leave this in the trash"
            )
        return self.folder.rename(target)


def thrown(runs: Path) -> list[Thrown]:
    """All that is in the trash of a folder of runs, what was deleted last first."""
    found = []
    for kind, place in BINS.items():
        for folder in runs.glob(f"{place}/*"):
            if (said := NAME.fullmatch(folder.name)) and folder.is_dir():
                found.append(Thrown(kind, said[2], time.strptime(said[1], WHEN), folder))
    return sorted(found, key=lambda one: (one.when, one.name), reverse=True)


def empty(runs: Path) -> int:
    """Remove all that is in the trash, and say how many bytes that were."""
    size = 0
    for one in thrown(runs):
        size += one.size
        shutil.rmtree(one.folder)
    return size
