"""The image, built and used: python -m benchmarks.container.build [--index ""] [--store FOLDER]

As root on Linux, with Debian's packages buildah, mmdebstrap and iproute2. It needs neither Docker nor a registry of
images: where buildah has no python:3.11-slim, Debian 12 with its own Python stands in for it. pip in the build is
configured as pip here is.

Then the image is used as `docker run --read-only --network none --user 12345:0` would, on a fresh /data of group 0:

- the studio starts, says that it is well, asks for its password, and ends on SIGTERM;
- the sample project is learned in a few steps;
- it trains a run, is ended in the middle of it, and at the next start goes on to the same adapter, bit for bit;
- nothing is written outside /data.

What was measured is in results.json, and `python -m benchmarks.container.table` writes it into docs/deploy.md.
"""

import ast
import configparser
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import tyro

from benchmarks.container.container import Container, container, process
from benchmarks.container.table import RESULT

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11-slim"
STAND_IN = "joinery.stand-in"  # a label of our own base
CPU = "https://download.pytorch.org/whl/cpu"
IMAGE = "joinery"
UID = 12345
STEPS = {"break": 12, "make": 12, "checkpoint_every": 6}
PASSWORD = {"JOINERY_PASSWORD": "a test"}
DOCKER_WAITS = 10  # seconds from SIGTERM to SIGKILL
PATIENCE = 600  # seconds, for anything that is waited for


@dataclass(frozen=True)
class Store:
    """Images and containers of buildah, in a folder of their own."""

    folder: Path

    def __call__(self, *command: str) -> str:
        """What a command of buildah prints; what it reports meanwhile is shown."""
        places = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs"]
        return subprocess.run(
            ["buildah", *places, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def has(self, image: str) -> bool:
        listed = json.loads(self("images", "--json"))
        return any(image in (one["names"] or []) for one in listed)


def make_base(store: Store) -> None:
    """A stand-in for python:3.11-slim: Debian's smallest system, with Python 3.11."""
    with tempfile.TemporaryDirectory(dir=store.folder) as folder:
        system = Path(folder) / "system.tar"
        packages = "--include=python3,python3-venv"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", system], check=True)
        made = store("from", "scratch").strip()
        store("add", "--quiet", made, str(system), "/")
        store("config", "--cmd", "python3", "--label", f"{STAND_IN}=yes", made)
        store("commit", "--quiet", "--format", "docker", made, BASE)
        store("rm", made)


def pip_volumes(folder: Path) -> list[str]:
    """buildah's options that configure pip in a build as pip here is: its settings, and the files that these name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    settings = configparser.ConfigParser(interpolation=None)
    named = set()
    # `:env:` comes first and wins over files.
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.partition(".")
        section, value = section.replace(":env:", "global"), str(ast.literal_eval(value))
        if not settings.has_section(section):
            settings.add_section(section)
        if not settings.has_option(section, option):
            settings.set(section, option, value)
        # An index on a disk is a folder `simple` that points to its neighbour `files`.
        for word in value.split():
            path = Path(word.removeprefix("file://").removesuffix("/simple"))
            if path.is_absolute() and path.exists():
                named.add(f"{path}:{path}:ro")
    file = folder / "pip.conf"
    with file.open("w", encoding="utf-8") as out:
        settings.write(out)
    volumes = [f"{file}:/etc/pip.conf:ro", *sorted(named)]
    return [word for volume in volumes for word in ("--volume", volume)]


def build(store: Store, index: str) -> float:
    """Build the image; the seconds that it took."""
    arguments = ["--build-arg", f"CPU_INDEX={index}"]
    began = time.monotonic()
    options = ["--isolation", "chroot", "--pull-never", "--format", "docker", "--tag", IMAGE]
    with tempfile.TemporaryDirectory() as folder:
        store("bud", *options, *pip_volumes(Path(folder)), *arguments, ".")
    return time.monotonic() - began


def short_project(data: Path) -> None:
    """The sample project in a few steps, in /data; all else of it lies in the image."""
    sample = tomllib.loads((ROOT / "samples/project.toml").read_text(encoding="utf-8"))
    sample["base"] = "/opt/joinery/models/emoji"
    for concept in ("content", "style"):
        sample[concept]["pictures"] = f"/opt/joinery/samples/{concept}"
    sample["steps"], sample["samples"] = STEPS, {"every": 0, "inference_steps": 5}
    (data / "project.toml").write_text(tomli_w.dumps(sample), encoding="utf-8")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of the last change, of all under a folder but /data."""
    found = {}
    for place, folders, names in os.walk(folder):
        if Path(place) == folder:
            folders.remove("data")
        for name in (*folders, *names):
            path = Path(place, name)
            stat = path.lstat()
            found[str(path.relative_to(folder))] = stat.st_size, stat.st_mtime_ns
    return found


def wait(until: Callable[[], Any], what: str) -> None:
    began = time.monotonic()
    while not until():
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"Not within {PATIENCE} s: {what}")
        time.sleep(0.2)


class Studio:
    """The image's own command, from its start until it is ended."""

    def __init__(self, box: Container):
        self.box, self.began = box, time.monotonic()
        self.started = box.start(*box.config["Cmd"], variables=PASSWORD)
        wait(self.is_healthy, "the studio is healthy")
        self.seconds_to_healthy = time.monotonic() - self.began

    def is_healthy(self) -> bool:
        if self.started.poll() is not None:
            raise RuntimeError(f"The studio ended with {self.started.returncode}")
        command = self.box.config["Healthcheck"]["Test"][1:]
        began = time.monotonic()
        healthy = not self.box.start(*command, stdout=subprocess.DEVNULL).wait()
        self.seconds_of_check = time.monotonic() - began
        return healthy

    def stop(self) -> float:
        """End it as `docker stop` does; the seconds until it has ended."""
        began = time.monotonic()
        process(self.started).terminate()
        self.started.wait(PATIENCE)
        return time.monotonic() - began


ANSWER = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:7860/config").status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
NETWORKS = "import json, socket; print(json.dumps([name for _, name in socket.if_nameindex()]))"
VERSIONS = """
import json, platform, sys
from importlib.metadata import version
print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in sys.argv[1:]}}))
"""
WRITABLE = """
import json, os
places = [place for place, _, _ in os.walk("/") if not place.startswith("/proc") and os.access(place, os.W_OK)]
print(json.dumps([place for place in places if not (place + "/").startswith("/data/")]))
"""
QUEUE = """
import shutil
from pathlib import Path
from training.run import Run
whole, again = (Run(Path("/data/runs", name)) for name in ("whole", "again"))
again.folder.mkdir()
shutil.copyfile(whole.config, again.config)
again.write_state(status="queued", place=0)
"""


def adapter(run: Path) -> str:
    """SHA-256 of the adapter's file."""
    return hashlib.sha256((run / "adapter.safetensors").read_bytes()).hexdigest()


def use(box: Container, data: Path) -> dict[str, Any]:
    """Serve, learn and draw in a container with a fresh /data; what was measured and seen."""
    networks, writable = box.python(NETWORKS), box.python(WRITABLE)
    found = {"uid": UID, "network_absent": networks == ["lo"], "writable_outside_data": writable}
    found["versions"] = box.python(VERSIONS, "torch", "diffusers", "gradio")

    # The studio with nothing to do, on a volume with nothing in it.
    studio = Studio(box)
    found["healthy_seconds"], found["health_check_seconds"] = studio.seconds_to_healthy, studio.seconds_of_check
    found["asks_for_password"] = box.python(ANSWER) == 401
    found["stop_seconds"] = studio.stop()

    # Learn in a few steps, on the command line; it too makes what it needs in an empty volume.
    shutil.rmtree(data / "tmp")
    began = time.monotonic()
    box.run("python", "-m", "training", "customize", "/data/project.toml", "--run", "/data/runs/whole")
    found["steps"] = 2 * STEPS["break"] + STEPS["make"]
    found["customization_seconds"] = time.monotonic() - began
    whole, again = data / "runs/whole", data / "runs/again"
    found["adapter_and_sheet"] = (whole / "adapter.safetensors").is_file() and (whole / "samples/sheet.png").is_file()

    # The studio that is ended while it trains, and started again.
    box.run("python", "-c", QUEUE)

    def state() -> dict[str, Any]:
        return json.loads((again / "state.json").read_text(encoding="utf-8"))

    studio = Studio(box)
    wait(lambda: state()["status"] == "running" and state().get("step", 0) > 1, "the run is trained")
    found["stop_training_seconds"], found["stopped_at_step"] = studio.stop(), state()["step"]
    found["waits_for_next_start"] = state()["status"] == "queued"
    studio = Studio(box)
    wait(lambda: state()["status"] not in ("queued", "preparing", "running"), "the run is finished")
    found["went_on_bit_equal"] = adapter(again) == adapter(whole)
    found["stop_again_seconds"] = studio.stop()
    found["left_in_memory"] = box.python("import json, os; print(json.dumps(os.listdir('/dev/shm')))")
    return found


def main(index: str = CPU, store: Path | None = None) -> None:
    """Build the image and use it.

    Args:
        index: the package index with PyTorch's CPU build; empty where pip here is configured with one.
        store: where buildah keeps images, for the next time; a temporary folder if not given.
    """
    if os.geteuid():
        raise SystemExit("This needs root: it mounts, and starts processes of another user")
    missing = [name for name in ("buildah", "mmdebstrap", "ip") if not shutil.which(name)]
    if missing:
        raise SystemExit(
            f"Not installed: {', '.join(missing)}. Debian's packages buildah, mmdebstrap and iproute2 have them"
        )
    with tempfile.TemporaryDirectory(prefix="joinery-image-") as folder:
        folder = Path(folder)
        buildah = Store((store or folder / "store").resolve())
        buildah.folder.mkdir(parents=True, exist_ok=True)
        if not buildah.has(BASE):
            make_base(buildah)
        build_seconds = build(buildah, index)
        made = buildah("from", "--pull-never", IMAGE).strip()
        image = Path(buildah("mount", made).strip())
        config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        size = sum(bytes_ for bytes_, _ in files(image).values())

        data = folder / "data"
        data.mkdir()
        data.chmod(0o2775)
        short_project(data)
        before = files(image)
        with container(image, config, folder / "root", data, UID) as box:
            found = use(box, data)
        found["changed_outside_data"] = sorted(path for path, _ in before.items() ^ files(image).items())
        buildah("rm", made)
        buildah("rmi", IMAGE)
    found |= {"image_mb": size / 1e6, "build_seconds": build_seconds, "stand_in": STAND_IN in (config["Labels"] or {})}
    found |= {"stops_in_time": max(found["stop_seconds"], found["stop_training_seconds"]) < DOCKER_WAITS}
    load = os.getloadavg()[2]  # of other work too: what the seconds are to be read with
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} threads", "load_average": load}
    kept = {key: round(value, 1) if isinstance(value, float) else value for key, value in (machine | found).items()}
    RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    tyro.cli(main)
