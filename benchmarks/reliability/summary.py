"""What was measured of failure, attack and load, in results/summary.json, and the table of docs/reliability.md.

python -m benchmarks.reliability.summary
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.common.document import put, table

SUMMARY = Path(__file__).parent / "results/summary.json"
DOC = Path(__file__).parents[2] / "docs/reliability.md"
OPEN = "open"  # of a number that was not measured yet
ROWS = {  # what, its script, what it counts, and the target
    "kills": ("kills", "times that a run was killed with SIGKILL", "200"),
    "kills_bit_equal": ("kills", "of these, after which it ended with the same bytes", "all"),
    "disk_full_points": ("kills", "operations on files at which the disk was full", "every one"),
    "disk_full_safe": ("kills", "of these, one sentence, and afterwards the same bytes", "all"),
    "hostile_inputs": ("hostile", "hostile inputs", "500"),
    "hostile_clear": ("hostile", "of these, one sentence or the right result, and nothing else changed", "all"),
    "clients": ("load", "clients at once", "50"),
    "server_errors": ("load", "answers of the kind 5xx", "0"),
    "page_ms_median": ("load", "milliseconds until a page is there, the median", "300"),
    "memory_growth_300": ("load", "share by which memory grew over 300 drawings", "less than 0.02"),
}


def read() -> dict[str, Any]:
    return json.loads(SUMMARY.read_text(encoding="utf-8")) if SUMMARY.exists() else {}


def keep(**found: Any) -> None:
    """Put numbers in place of earlier ones; those of the other scripts stay."""
    from benchmarks.common.environment import environment  # which the table does without

    SUMMARY.parent.mkdir(exist_ok=True)
    SUMMARY.write_text(json.dumps(environment() | read() | found, indent=1) + "\n", encoding="utf-8")
    print(found, flush=True)


def numbers() -> str:
    found = read()
    rows = [["what", "measured", "target", "by"]]
    for name, (script, what, target) in ROWS.items():
        rows.append([what, str(found.get(name, OPEN)), target, f"`benchmarks/reliability/{script}.py`"])
    return table(rows)


def filled(text: str) -> str:
    """The document with its table made anew."""
    return put(text, numbers=numbers())


if __name__ == "__main__":
    DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
