"""Files that are whole or not there: the one place that writes what must survive a kill, and reads it back."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from pipelines.errors import UserError

if TYPE_CHECKING:  # imported where tensors are written or read: the studio does neither, and opens without PyTorch
    from torch import Tensor

FORMAT = 1  # of a checkpoint's manifest
KEEP = 2  # the newest, and one to fall back to
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # a full disk, a limit on files, a quota
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # another's, or a disk that is read only
RESERVE = 32 * 2**20  # bytes that stay free, for logs and samples

log = logging.getLogger("joinery")


def check_space(folder: Path, size: int) -> None:
    """Refuse to go on if `size` bytes do not fit into the folder's disk beside a small reserve."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise UserError(
            f"{(size + RESERVE) / 2**20:.0f} MB are needed in {folder}, but {free / 2**20:.0f} MB are free",
            "Free space there, or choose another run folder; then start the same run again to go on",
        )


def write_bytes(path: Path, data: bytes, lasting: bool = True) -> None:
    """Write a file so that at every moment the old content or the new is there.

    Args:
        lasting: also after a power cut, and with `RESERVE` left free; not for what a run says of itself at every step.
    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")  # threads may write at once
    with in_words(path, "what was there before is still there"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if lasting:
            check_space(path.parent, len(data))
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if lasting:
            sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. A kill or a full disk may leave a part of it, which a reader passes over.

    Raises:
        UserError: as `write_bytes`.
    """
    with in_words(path, "the lines before are still there"), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


@contextmanager
def in_words(path: Path, kept: str) -> Iterator[None]:
    """What the system refuses is a sentence.

    Args:
        kept: what is as it was before.
    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            remedy = "Free space on that disk, or raise the limit; then start the same run again to go on"
        elif error.errno in REFUSED:
            remedy = "Give the folder to the user that Joinery runs as, or choose another one"
        else:  # a folder of that name, a name too long, a folder that has become a file
            remedy = "Mend that place, or choose another one"
        raise UserError(f"{path} could not be written ({error.strerror}); {kept}", remedy) from None


def clean(folder: Path) -> None:
    """Remove what writers that were killed have left of files. Nobody else may be writing in the folder."""
    for remains in folder.glob(".*.tmp"):
        if remains.is_dir():
            shutil.rmtree(remains, ignore_errors=True)
        else:
            remains.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give a model's weights the mode of its configurations: safetensors writes files that only their user may read."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(next(folder.rglob("*.json")).stat().st_mode)


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a safetensors file, like `write_bytes`; equal tensors and metadata give equal bytes.

    Args:
        digests: entry of the metadata -> how it says the SHA-256 of all after the header, with {} for its digits.
    """
    from safetensors.torch import save

    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    write_bytes(path, _ordered(save(contiguous, metadata), digests))


def _ordered(data: bytes, digests: Mapping[str, str]) -> bytes:
    """The same safetensors file with its metadata in the order of their keys: the library's is of chance."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" not in header:
        return data
    if digests:
        digest = hashlib.sha256(memoryview(data)[8 + size :]).hexdigest()
        header["__metadata__"] |= {key: said.format(digest) for key, said in digests.items()}
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last. Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps: flat tensors, and numbers as JSON has them."""

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Add a checkpoint to a folder as `step-000200/`, then remove all but the newest `KEEP`.

    Raises:
        UserError: as `write_bytes`.
    """
    target = place(folder, checkpoint.step)
    temporary = folder / f".{target.name}.tmp"
    with in_words(target, "the checkpoints before are still there"):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_tensors(temporary / "state.safetensors", checkpoint.tensors)
        files = {item.name: {"size": item.stat().st_size, "sha256": _sha256(item)} for item in temporary.iterdir()}
        manifest = {"format": FORMAT, "step": checkpoint.step, "files": files, "numbers": checkpoint.numbers}
        write_bytes(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        shutil.rmtree(target, ignore_errors=True)  # there only if damaged: a good one is resumed after, not repeated
        os.replace(temporary, target)
        sync_folder(folder)
    for old in _steps(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def read_last(folder: Path, accept: Callable[[dict[str, Any]], None] = lambda numbers: None) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none. Broken ones are named in the log.

    Args:
        accept: sees the numbers of a whole checkpoint, and raises if it is of another run.
    Raises:
        UserError: a newer version wrote it; going back would lose what that has learned.
    """
    for path in reversed(_steps(folder)):
        try:
            checkpoint = read(path)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            log.warning("The checkpoint %s is broken (%s); going back to the one before", path.name, error)
            continue
        accept(checkpoint.numbers)
        return checkpoint
    return None


def read(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        UserError: a newer version wrote it.
        OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError: it is not whole.
    """
    from safetensors.torch import load_file

    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if isinstance(manifest["format"], int) and manifest["format"] > FORMAT:
        raise UserError(f"A newer version wrote the checkpoint {path}", "Go on with that, or choose another run folder")
    if path != place(path.parent, manifest["step"]) or "state.safetensors" not in manifest["files"]:
        raise ValueError("manifest.json is of another checkpoint")
    if not isinstance(manifest["numbers"], dict):
        raise ValueError("manifest.json holds no numbers")
    for name, entry in manifest["files"].items():
        file = path / name
        if file.stat().st_size != entry["size"] or _sha256(file) != entry["sha256"]:
            raise ValueError(f"{name} is not what its manifest says")
    return Checkpoint(manifest["step"], load_file(path / "state.safetensors"), manifest["numbers"])


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:06d}"


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*"))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
