"""A container as Docker would start it, without Docker: namespaces, and the image's files with nothing to write on."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# What `docker run --init --read-only --network none` sets up. This shell is its first process, and waits for
# those whose parents are gone.
SETUP = """
set -e
image=$1 place=$2 data=$3
ip link set lo up
mount --bind "$image" "$place"
mount -o remount,bind,ro "$place"
mount --bind "$data" "$place/data"
mount -t proc proc "$place/proc"
mount -t sysfs -o ro sysfs "$place/sys"
mount -t tmpfs -o mode=755,size=64k tmpfs "$place/dev"
for device in null zero full random urandom; do
    touch "$place/dev/$device"
    mount --bind "/dev/$device" "$place/dev/$device"
done
ln -s /proc/self/fd "$place/dev/fd"
mkdir "$place/dev/shm"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$place/dev/shm"
mount -o remount,ro "$place/dev"
echo ready
while sleep 1; do :; done
"""


@dataclass(frozen=True)
class Container:
    """Processes of one user in an image, with a folder as its `/data` and without a network.

    Args:
        config: the image's, as `docker inspect` gives it.
        place: where the processes find the image's root, in their own view of the disk.
        first: the container's first process, which the others end with.
        uid: of the user, whose group is 0.
    """

    config: dict[str, Any]
    place: Path
    first: int
    uid: int

    def start(self, *command: str, variables: dict[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start a command; `process` finds it."""
        given = [*self.config["Env"], *(f"{name}={value}" for name, value in (variables or {}).items())]
        enter = ["nsenter", "--target", str(self.first), "--mount", "--net", "--pid"]
        user = ["chroot", f"--userspec={self.uid}:0", "--groups=0", str(self.place)]
        inside = ["env", "-i", f"--chdir={self.config['WorkingDir']}", *given, *command]
        return subprocess.Popen([*enter, *user, *inside], umask=0o022, stdin=subprocess.DEVNULL, **options)

    def run(self, *command: str) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it fails.
        """
        process = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = process.communicate()[0]
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{said}")
        return said

    def python(self, lines: str, *arguments: str) -> Any:
        """What a few lines of Python print as JSON."""
        return json.loads(self.run("python", "-c", lines, *arguments).splitlines()[-1])


def process(started: subprocess.Popen) -> psutil.Process:
    """The container's process that `Container.start` has started."""
    (child,) = psutil.Process(started.pid).children()
    return child


@contextmanager
def container(image: Path, config: dict[str, Any], place: Path, data: Path, uid: int) -> Iterator[Container]:
    """One on the image's files; with the block everything in it ends."""
    place.mkdir(exist_ok=True)
    apart = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--ipc",
        "--fork",
        "--kill-child",
    ]
    command = [*apart, "sh", "-c", SETUP, "sh", str(image), str(place), str(data)]
    holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError("The container cannot be set up")
        yield Container(config, place, process(holder).pid, uid)
    finally:
        holder.kill()
        holder.wait()
