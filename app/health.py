"""Whether the studio can do its work, for who watches over it: nothing of it names a run or a machine."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app import jobs
from training.checkpoint import RESERVE

STALE = 60  # seconds without a look at the line, which is looked at every second


@dataclass
class Health:
    """Of the studio that keeps its runs in a folder. `looked` is when it last looked at the line of runs."""

    folder: Path
    looked: float = field(default_factory=time.monotonic)

    def look(self) -> dict[str, Any]:
        """The status, "ok" or "failing", and what it comes from."""
        free = shutil.disk_usage(self.folder).free
        alive = time.monotonic() - self.looked < STALE
        return {
            "status": "ok" if alive and free > RESERVE else "failing",
            "line": "alive" if alive else "dead",
            "waiting": len(jobs.waiting(self.folder)),
            "disk_free_mb": free // 2**20,
        }
