"""What the page may show of the machine's files: copies of pictures, written anew from their pixels."""

import hashlib
import io
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from training import checkpoint
from training.pictures import open_picture


@dataclass(frozen=True)
class Copies:
    """A folder of the studio's own. No byte of another's file is in its copy: no metadata, no script."""

    folder: Path

    def of(self, path: Path, longest: int | None = None) -> Path:
        """A PNG with the pixels that training sees, under the file's name. Made once for each state of the file.

        Args:
            longest: pixels of its longer side, for a small one.
        Raises:
            UserError: it is no picture, is damaged, is too small or too large.
        """
        if not os.path.exists(path):  # unlike Path's own it takes a name that none can have
            open_picture(path)  # says what is wrong
        state = path.stat()
        identity = [str(path.resolve()), state.st_mtime_ns, state.st_size, longest]
        folder = self.folder / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        copy = folder / f"{path.stem}.png"
        if not copy.exists():
            buffer, picture = io.BytesIO(), open_picture(path)
            if longest:
                picture.thumbnail((longest, longest))
            picture.save(buffer, "PNG")
            checkpoint.write_bytes(copy, buffer.getvalue(), lasting=False)  # several pages may ask at once
        return copy

    def add(self, path: Path) -> Path:
        """Take in a file that the studio has made, as it is, in a folder named by its bytes: equal files are one."""
        data = path.read_bytes()
        copy = self.folder / hashlib.sha256(data).hexdigest()[:32] / path.name
        if not copy.exists():
            checkpoint.write_bytes(copy, data, lasting=False)
        return copy


def address(copy: Path) -> str:
    """Where a page finds a copy, as an attribute of HTML."""
    return f"gradio_api/file={escape(quote(str(copy)))}"
