"""What the page may show of the machine's files: copies of pictures, written anew from their pixels."""

import hashlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from training import checkpoint
from training.pictures import open_picture


@dataclass(frozen=True)
class Copies:
    """A folder of the studio's own. No byte of a file is in its copy: no metadata, no script, no other format."""

    folder: Path

    def of(self, path: Path) -> Path:
        """A PNG with the pixels that training sees, under the file's name. Made once for each state of the file.

        Raises:
            UserError: it is no picture, is damaged, is too small or too large.
        """
        state = path.stat() if path.exists() else None
        identity = [str(path.resolve()), state and state.st_mtime_ns, state and state.st_size]
        folder = self.folder / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        copy = folder / f"{path.stem}.png"
        if not copy.exists():
            buffer = io.BytesIO()
            open_picture(path).save(buffer, "PNG")
            checkpoint.write_bytes(copy, buffer.getvalue(), lasting=False)  # several pages may ask at once
        return copy

    def add(self, path: Path) -> Path:
        """Take in a file that was just made, under its name, in a folder named by its bytes: equal files are one."""
        folder = self.folder / hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(path, folder / path.name))
