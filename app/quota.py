"""How much of the disk all that people keep in the studio takes, and how much it may."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.datastructures import Headers
from fastapi.responses import PlainTextResponse

from pipelines.errors import UserError

GIGABYTE = 10**9
PAUSE = 60.0  # seconds between two measures
FRESH = 2.0  # seconds between two measures while something is refused
SHARE = 20  # a measure that took long is not repeated for so many times its own time
WORDS = 2**20  # bytes of a request that brings no file: people have to reach the trash
KINDS = {".pictures": "drawn pictures", ".starts": "drawn pictures", ".pairs": "drawn pictures"}
KINDS |= {".projects": "projects", ".trash": "trash"}  # of folders beside the runs


def size(count: float) -> str:
    """Bytes as a person says them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def chosen_quota(gigabytes: float | None = None) -> int | None:
    """Bytes, of the gigabytes that were given or else of those that JOINERY_QUOTA says; None where neither says any.

    Raises:
        UserError: it is no positive number.
    """
    said = (os.environ.get("JOINERY_QUOTA") or None) if gigabytes is None else gigabytes
    try:
        limit = None if said is None else int(float(said) * GIGABYTE)
    except (ValueError, OverflowError):
        limit = 0
    if limit is not None and limit <= 0:
        raise UserError(f"The quota is {said}", "Give a number of gigabytes, for example 50")
    return limit


@dataclass
class Quota:
    """What the files of a studio take, measured now and then and not at each request, and how much they may.

    Args:
        places: the folder of the runs, and others that count too; what lies in another one is counted once.
        limit: bytes; None for no limit.
    """

    places: tuple[Path, ...] = ()
    limit: int | None = None
    _found: dict[str, int] = field(default_factory=dict)  # bytes by kind, at the last measure
    _when: float = -float("inf")
    _took: float = 0.0
    _let_in: list[Claim] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def used(self) -> int:
        """Bytes, as far as is known without a look at the disk."""
        return sum(self._found.values()) + sum(claim.count for claim in self._let_in)

    def found(self, age: float = PAUSE) -> dict[str, int]:
        """Bytes by what they are of, most first; measured anew where that is older than some seconds."""
        with self._lock:
            if time.monotonic() - self._when > max(age, SHARE * self._took):
                self.measure()
            return self._found

    def said(self, age: float = PAUSE) -> str:
        """How much is used, of what, in words; `age` as `found` takes it."""
        parts = ", ".join(f"{kind} {size(taken)}" for kind, taken in self.found(age).items() if taken)
        most = f" of {size(self.limit)}" if self.limit else ""
        return f"{size(self.used)}{most} are used" + (f" ({parts})" if parts else "")

    def measure(self) -> None:
        """Look at every file, at once."""
        with self._lock:
            began = time.monotonic()
            found: Counter[Any] = Counter()
            places = dict.fromkeys(place.resolve() for place in self.places)
            for place in places:
                if not places.keys() & {*place.parents}:
                    found.update(_bytes_by_kind(place, next(iter(places))))
            self._found, self._when, self._took = dict(found.most_common()), began, time.monotonic() - began
            self._let_in = [claim for claim in self._let_in if claim.written > began]

    def let_in(self, count: int) -> Claim:
        """Let in what takes so many bytes, unless it would pass the limit; it counts from now on.

        Raises:
            UserError: it would.
        """
        claim = Claim(count)
        if self.limit is None:
            return claim
        with self._lock:
            for age in (PAUSE, FRESH):  # what was removed since the last measure counts
                self.found(age)
                if self.used + count <= self.limit:
                    self._let_in.append(claim)
                    return claim
            said = self.said(FRESH)
        raise UserError(
            f"{said}, and this takes {size(count)} more",
            "Delete runs and pictures on the page Library, and empty its trash",
        )

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """`let_in`, for what is written by the end of the block."""
        claim = self.let_in(count)
        try:
            yield
        finally:
            claim.end()


@dataclass(eq=False)
class Claim:
    """Bytes that were let in: they count beside a measure, until one begins after they were written."""

    count: int
    written: float = float("inf")  # when

    def end(self) -> None:
        self.written = time.monotonic()


def _bytes_by_kind(place: Path, runs: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for folder, _, names in os.walk(place):
        kind = _kind(Path(folder), runs)
        for name in names:
            try:
                found[kind] += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return found


def _kind(folder: Path, runs: Path) -> str:
    """What the files of a folder are of."""
    if not folder.is_relative_to(runs):
        return "all else"
    first, *others = folder.relative_to(runs).parts or [""]
    return "trash" if first in KINDS and "trash" in others[:2] else KINDS.get(first, "runs")


async def watch(quota: Quota) -> None:
    """Measure again and again, so that nobody who only asks how much there is has to wait for it."""
    while True:
        await asyncio.to_thread(quota.found)
        await asyncio.sleep(PAUSE)


class Doorkeeper:
    """Refuses requests that bring more than there is room for, before their bytes are read."""

    def __init__(self, app: Callable, quota: Quota):
        self.app, self.quota = app, quota

    async def __call__(self, scope: MutableMapping, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or self.quota.limit is None:
            return await self.app(scope, receive, send)
        length = Headers(scope=scope).get("content-length")
        if length is None:
            said = "It is not said how long this is. Send it with its length."
            return await PlainTextResponse(said, 411)(scope, receive, send)
        if int(length) <= WORDS and not scope["path"].endswith("/upload"):
            return await self.app(scope, receive, send)
        try:
            claim = await asyncio.to_thread(self.quota.let_in, int(length))
        except UserError as error:
            return await PlainTextResponse(str(error), 413)(scope, receive, send)
        try:
            return await self.app(scope, receive, send)
        finally:
            claim.end()
