"""What a person deletes is moved, not removed: one place for pictures, projects and runs."""

import shutil
import time
from pathlib import Path


def to_trash(folder: Path, trash: Path, name: str) -> Path:
    """Move a folder into a trash, which is made if need be, and say where it is: under the time and a name."""
    target = trash / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{name}"
    trash.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(folder, target))
