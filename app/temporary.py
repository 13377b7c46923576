"""A studio's own folder, for what is uploaded, drawn and copied. It is gone when the studio is, however that ended.

It lies where the system has such folders, not in the data folder: pages name its files, and should tell no more of a
machine than that.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.errors import UserError

PREFIX = "joinery-"
LOCK = ".lock"  # in the folder; held as long as the studio runs


class TemporaryFolder:
    """A new folder. What studios that were killed have left is removed first.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self) -> None:
        try:
            _clean(Path(tempfile.gettempdir()))
            self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
            self._lock = FileLock(self.path / LOCK)
            self._lock.acquire()
        except OSError as error:
            raise UserError(
                f"No temporary folder can be made ({error.strerror or error})", "Name a place for it with TMPDIR"
            ) from None

    @property
    def path(self) -> Path:
        return Path(self._folder.name)

    def remove(self) -> None:
        self._lock.release()
        self._folder.cleanup()


def _clean(place: Path) -> None:
    """Remove the folders of this user's that no studio holds. One without a lock is being made, or is not ours."""
    for lock in place.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(Timeout, OSError):
            if os.name == "posix" and lock.parent.lstat().st_uid != os.getuid():
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
