"""Seconds of a training step by threads, idle and beside another program: python -m benchmarks.customization.threads

Starts the sample project anew for each setting, for half a minute. Writes results/threads.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common.environment import environment

HERE = Path(__file__).parent
SETTINGS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads that sleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "two threads that spin": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
}
SECONDS = 30
BUSY = "while True: pass"
STEPS = """
import sys, time, training.loop as loop
from training import Customization
loop.SMALL = 0  # so that the threads stay as the environment says
end = time.monotonic() + float(sys.argv[3])
loop.customize(Customization.load(sys.argv[1]), sys.argv[2], should_stop=lambda: time.monotonic() > end)
"""


def median_step(environment: dict[str, str]) -> float | None:
    """Seconds of a step; None if there were fewer than three."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", STEPS, "samples/project.toml", folder, str(SECONDS)]
        subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    paces = [json.loads(line)["seconds_per_step"] for line in lines]
    return round(statistics.median(paces), 3) if len(paces) >= 3 else None


def main() -> None:
    rows = {name: {"idle": median_step(settings)} for name, settings in SETTINGS.items()}
    other = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        for name, settings in SETTINGS.items():
            rows[name]["beside another program"] = median_step(settings)
    finally:
        other.kill()
    result = environment() | {"cores": os.cpu_count(), "seconds_per_step": rows}
    (HERE / "results" / "threads.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
