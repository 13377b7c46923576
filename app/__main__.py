"""The command line: opens the studio on this machine."""

import os

# Before any library is imported: nothing is reported to anyone.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# The terminal is for the address and for what is wrong.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import asyncio
import errno
import re
import signal
import socket
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import tyro
import uvicorn

from app.guard import is_loopback
from app.port import chosen_port
from pipelines.errors import UserError

INVALID = 2  # exit code
HOUSE = Path(__file__).resolve().parents[1]


@dataclass
class Studio:
    """Open the studio in a browser."""

    host: str = "127.0.0.1"
    """The address to listen on. Any other than this machine's own lets others in: that needs a password."""
    port: int | None = None
    """The port to listen on; 7860 if not given. JOINERY_PORT does the same."""
    password: str | None = None
    """Asked of everyone who opens the studio. JOINERY_PASSWORD does the same, and no list of processes shows it."""
    open_to_all: bool = False
    """Let in everyone who reaches --host, without a password."""
    names: tuple[str, ...] = ()
    """Host names of this machine beside its own, for example the one that a proxy in front of it has."""
    quota: float | None = None
    """Gigabytes that all files of the studio may take; what would pass it is refused. JOINERY_QUOTA does the same."""
    root_path: str | None = None
    """The path under which a proxy shows the studio, for example /joinery; it has to strip it. JOINERY_ROOT_PATH does
    the same."""
    runs: Path | None = None
    """The folder that holds the runs; `runs` in the data folder if not given."""
    project: Path = HOUSE / "samples" / "project.toml"
    """The project that is filled in at the start."""
    open: bool = False
    """Open a browser window too."""
    stop_training: bool = False
    """When the studio is ended by SIGTERM, training is saved and ended with it, and goes on at the next start; for
    containers, where it would be killed."""
    training: bool = True
    """Train on this machine. With --no-training runs wait for `python -m app.worker`, here or elsewhere."""
    gpus: tuple[str, ...] = ()
    """GPUs that each train a run of their own, as CUDA_VISIBLE_DEVICES names them; without names, one at a time."""

    def __call__(self) -> None:
        password = self.password or os.environ.get("JOINERY_PASSWORD")
        root_path = chosen_root_path(self.root_path)
        door = listen(self.host, chosen_port() if self.port is None else self.port)
        if not (password or self.open_to_all or is_loopback(door.getsockname()[0])):
            door.close()
            raise UserError(
                f"--host {self.host} lets others in, and there is no password",
                "Set JOINERY_PASSWORD or --password, or let in everyone with --open-to-all",
            )
        print("Opening the studio ...", flush=True)
        from app.quota import chosen_quota
        from training.run import make_temporary_place, runs_folder

        limit = chosen_quota(self.quota)
        make_temporary_place()  # Gradio looks for it when it is imported
        from app import jobs
        from app.studio import serve

        jobs.room = jobs.Room(self.training, self.gpus)
        jobs.said_aloud = self.stop_training  # who ends training with the studio reads of it in the studio's own log
        # A page that is still open keeps connections; they must not keep the studio from closing.
        runs = self.runs or runs_folder()
        application = serve(runs, self.project, password, self.names, limit, root_path)
        settings = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=3)
        with door:
            _Server(settings, self.open, runs if self.stop_training else None).run(sockets=[door])


class _Server(uvicorn.Server):
    """Says where the studio is once it answers; when it is ended, training may be ended with it."""

    def __init__(self, config: uvicorn.Config, open_browser: bool, stopped: Path | None):
        super().__init__(config)
        self.open_browser = open_browser
        self.stopped = stopped  # the folder of the runs that end with it
        self.paused: list[Any] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self.stopped and not self.should_exit:
            from app import jobs

            served: Any = self.config.app
            served.state.closing = True  # nothing of the line is started any more
            self.paused = jobs.pause_all(self.stopped)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.paused:
            from app import jobs

            await asyncio.to_thread(jobs.wait_in_line, self.paused)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets  # as `main` opens one
        host, port = sockets[0].getsockname()[:2]
        address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
        print(f"The studio is open at {address}  (Ctrl-C closes it; training goes on)", flush=True)
        if self.open_browser:
            webbrowser.open(address)
        # Only now, so that the page does not wait for it, and already now, so that the first picture hardly does.
        from app.painter import import_tools

        threading.Thread(target=import_tools, daemon=True).start()


def chosen_root_path(given: str | None = None) -> str:
    """What was given, or what JOINERY_ROOT_PATH says, as /a/path or empty.

    Raises:
        UserError: it is no path.
    """
    said = os.environ.get("JOINERY_ROOT_PATH", "") if given is None else given
    path = said.strip("/")
    if path and not re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*", path, re.ASCII):
        raise UserError(f"The root path is {said!r}", "Give a path, for example /joinery")
    return path and f"/{path}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        what = "is taken by another program" if taken else f"cannot be listened on ({error})"
        remedy = f"Close that program, or choose another port, for example --port {port + 1}"
        raise UserError(
            f"Port {port} of {host} {what}", remedy if taken else "Choose another --host or --port"
        ) from None


def main() -> int:
    try:
        tyro.cli(Studio, prog="python -m app")()
    except UserError as error:
        print(error, file=sys.stderr)
        return INVALID
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
