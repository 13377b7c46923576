"""Write the lock of every requirements file anew: what it needs, down to the last package, with versions and hashes.

`make lock` runs it. Versions stay as they are where the requirements allow it; `--upgrade` takes the newest.

PyTorch stands apart. One version of it comes in many builds, each with its own hash: PyPI's, and those of PyTorch's own
indexes for a CPU, another CUDA, or ROCm. Only some of them need CUDA's packages, and pip takes hashes for all packages
or for none. So a lock leaves torch out. pip installs it afterwards, in the version that the requirements pin; CUDA's
packages, where the build asks for them, have their versions in a second lock.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
UV = Path(sys.executable).with_name("uv")

# With the requirements that are installed beside them, so that the same package has one version everywhere.
BESIDE = {
    "requirements-gpu.txt": ["requirements-dev.txt"],
    "requirements.txt": ["requirements-dev.txt", "locks/requirements-gpu.txt"],
    "requirements-base.txt": ["locks/requirements.txt"],
    "requirements-dev.txt": ["locks/requirements.txt"],
}
WITHOUT_DEPENDENCIES = "benchmarks/optimizers/requirements.txt"

PYTORCH = re.compile(r"torch==|triton==|cuda-|nvidia-")
HEAD = "# Made by `make lock` from {source}. {what}\n"


def compiled(source: str, lock: Path, *options: str) -> str:
    """What uv resolves for a requirements file on every system and Python that Joinery runs on."""
    command = [UV, "pip", "compile", source, "--universal", "--python-version", "3.11", "--fork-strategy", "fewest"]
    subprocess.run([*command, "--no-header", "--quiet", "--output-file", lock, *options], cwd=ROOT, check=True)
    return lock.read_text()


def packages(text: str) -> list[str]:
    """The entries of a lock, each with its hashes and comments."""
    return re.findall(r"^[a-z0-9][^\n]*\n(?:[ \t]+[^\n]*\n)*", text, re.M)


def renew(source: str, beside: list[str], options: list[str]) -> None:
    """Write `locks/NAME`, with hashes, and `locks/cuda-NAME`, where torch's build brings CUDA's packages."""
    lock, cuda = LOCKS / source, LOCKS / f"cuda-{source}"
    known = "".join(path.read_text() for path in (lock, cuda) if path.exists())
    constraints = [word for path in beside for word in ("--constraint", path)]
    lock.write_text(known)
    found = packages(compiled(source, lock, "--generate-hashes", *constraints, *options))
    lock.write_text(
        HEAD.format(source=source, what="All but PyTorch: see locks/renew.py.")
        + "".join(entry for entry in found if not PYTORCH.match(entry))
    )
    needed = [entry.split("\\")[0].split(" ;")[0].strip() for entry in found if PYTORCH.match(entry)]
    if re.search("^torch==", (ROOT / source).read_text(), re.M):
        lines = [entry for entry in needed if not entry.startswith("torch==")]
        cuda.write_text(
            HEAD.format(source=source, what="What PyPI's torch for Linux brings.") + "\n".join(lines) + "\n"
        )


def main(options: list[str]) -> None:
    for source, beside in BESIDE.items():
        renew(source, beside, options)
    lock = LOCKS / "optimizers.txt"
    text = compiled(WITHOUT_DEPENDENCIES, lock, "--generate-hashes", "--no-deps", *options)
    lock.write_text(HEAD.format(source=WITHOUT_DEPENDENCIES, what="Installed without dependencies.") + text)


if __name__ == "__main__":
    main(sys.argv[1:])
