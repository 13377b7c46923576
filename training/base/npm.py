"""The npm packages with the drawings and their names: pinned, checked by their hashes, kept in the data folder."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from training import checkpoint
from training.run import runs_folder

LOCK: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("packages.json").read_text(encoding="utf-8"))
PUBLIC = "https://registry.npmjs.org"
PATIENCE = 120  # seconds that a download may stand still


def base_folder() -> Path:
    """Where everything about the making of the base lies: `base` in the data folder, beside `runs`."""
    return runs_folder().parent / "base"


def registry() -> str:
    """The npm registry that the person's npm uses, the public one where nothing is said."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    if npm := shutil.which("npm"):
        said = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True).stdout.strip()
        if said.startswith(("http://", "https://")):
            return said.rstrip("/")
    return PUBLIC


def fetch(name: str) -> Path:
    """The archive of a pinned package, downloaded if it is not there yet.

    Raises:
        UserError: the registry cannot be reached, or gives another file than the lock file says.
    """
    version, short = LOCK[name]["version"], name.rpartition("/")[2]
    path = base_folder() / "packages" / f"{short}-{version}.tgz"
    if path.exists() and _integrity(path.read_bytes()) == LOCK[name]["integrity"]:
        return path
    address = f"{registry()}/{name}/-/{short}-{version}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            data = answer.read()
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        raise UserError(
            f"{name} {version} could not be downloaded from {address} ({error})",
            "Check the connection, or name a registry that can be reached in npm_config_registry; then start again",
        ) from None
    if (seen := _integrity(data)) != LOCK[name]["integrity"]:
        raise UserError(
            f"{address} gave a file with integrity {seen}, but packages.json says {LOCK[name]['integrity']}",
            "Name a registry that serves the packages as they were published in npm_config_registry",
        )
    checkpoint.write_bytes(path, data)
    return path


def read(name: str, file: str) -> Any:
    """A JSON file of a pinned package."""
    with tarfile.open(fetch(name)) as archive:
        entry = archive.extractfile(f"package/{file}")
        assert entry is not None  # it is a file
        return json.load(entry)


def _integrity(data: bytes) -> str:
    """As npm's lock files write it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
