"""Whether the studio can do its work, for who watches over it: nothing of it names a run or a machine.

`python -m app.health` asks the studio on this machine, for a container's health check.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.port import chosen_port
from pipelines.errors import UserError

if TYPE_CHECKING:
    from app.quota import Quota

STALE = 60  # seconds without a look at the line, which is looked at every second


@dataclass
class Health:
    """Of the studio that keeps its runs in a folder. `looked` is when it last looked at the line of runs."""

    folder: Path
    quota: Quota
    looked: float = field(default_factory=time.monotonic)

    def look(self) -> dict[str, Any]:
        """The status, "ok" or "failing", and what it comes from."""
        # Here, since the check of a container needs none of it, is done often, and has to be quick.
        from app import jobs
        from training.checkpoint import RESERVE

        free = shutil.disk_usage(self.folder).free
        alive = time.monotonic() - self.looked < STALE
        return {
            "status": "ok" if alive and free > RESERVE else "failing",
            "line": "alive" if alive else "dead",
            "waiting": len(jobs.waiting(self.folder)),
            "disk_free_mb": free // 2**20,
            "used_mb": self.quota.used // 2**20,
        } | ({"quota_mb": self.quota.limit // 2**20} if self.quota.limit else {})


def main() -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{chosen_port()}/healthz", timeout=5) as answer:
            print(json.load(answer))
    except urllib.error.HTTPError as error:  # it answers, and is not well
        print(error.read().decode())
        return 1
    except (OSError, ValueError, UserError) as error:
        print(f"The studio does not answer: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
