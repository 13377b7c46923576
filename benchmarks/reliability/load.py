"""Many clients of one studio, on loopback: python -m benchmarks.reliability.load [--clients 50] [--seconds 300]

Each client, again and again, opens the page, reads its configuration, asks for the runs, and what one is doing. One of
them also draws, as often as the studio lets it. Counts the answers of the kind 5xx, the milliseconds until the page is
there, and by how much the studio's memory grows over its drawings. Writes results/summary.json.
"""

import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import tyro

from benchmarks.common.studio import studio_process
from benchmarks.reliability.summary import keep

WARM = 10  # drawings, after which nothing more is opened or kept that stays
PATIENCE = 300  # seconds until the studio answers


class Load:
    """What clients have seen of a studio until a moment."""

    def __init__(self, address: str, until: float):
        self.address, self.until = address, until
        self.milliseconds: list[float] = []
        self.errors = 0
        self.answers = 0

    def client(self) -> None:
        with httpx.Client(base_url=self.address, timeout=PATIENCE) as client:
            while time.monotonic() < self.until:
                began = time.monotonic()
                self.note(client.get("/"))
                self.milliseconds.append((time.monotonic() - began) * 1000)
                self.note(client.get("/config"))
                self.note(client.get("/healthz"))
                call(client, "runs", [])

    def note(self, answer: httpx.Response) -> None:
        self.answers += 1
        self.errors += answer.status_code >= 500


def call(client: httpx.Client, name: str, data: list) -> str:
    """The events of a named call."""
    sent = client.post(f"/gradio_api/call/{name}", json={"data": data}).raise_for_status()
    return client.get(f"/gradio_api/call/{name}/{sent.json()['event_id']}").raise_for_status().text


def resident(process: subprocess.Popen) -> int:
    """Bytes."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


def draw(client: httpx.Client, process: subprocess.Popen, count: int, until: float) -> list[int]:
    """The studio's memory after each drawing."""
    memory = []
    while len(memory) < count and time.monotonic() < until:
        assert "pictures/" in call(client, "draw", ["red apple, noto style", "", 1, 1, len(memory), 1, 1, 1, "", ""])
        memory.append(resident(process))
    return memory


def main(clients: int = 50, seconds: float = 300, drawings: int = 300, patience: float = 3600) -> None:
    """Open a studio of its own and ask it.

    Args:
        clients: at once.
        seconds: for which they ask.
        drawings: of one client, after the others.
        patience: seconds for these.
    """
    place = tempfile.TemporaryDirectory(prefix="joinery-load-")
    with place as folder, studio_process(folder) as (address, process):
        load = Load(address, time.monotonic() + seconds)
        with ThreadPoolExecutor(clients) as pool:
            for one in [pool.submit(load.client) for _ in range(clients)]:
                one.result()  # what a client could not do is a fault of the load's
        keep(
            clients=clients,
            load_seconds=seconds,
            answers=load.answers,
            server_errors=load.errors,
            page_ms_median=round(statistics.median(load.milliseconds)),
        )
        with httpx.Client(base_url=load.address, timeout=PATIENCE) as client:
            memory = draw(client, process, drawings, time.monotonic() + patience)
        if len(memory) == drawings > WARM:
            keep(**{f"memory_growth_{drawings}": round(memory[-1] / memory[WARM] - 1, 4)})
        else:
            print(f"{len(memory)} drawings: from {memory[:1]} to {memory[-1:]} bytes")


if __name__ == "__main__":
    tyro.cli(main)
