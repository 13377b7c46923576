"""Any content with any style that finished runs have learned on one base, joined; fine-tuned after it on request."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.errors import UserError
from training import export
from training.adapters import Adapter
from training.config import Customization
from training.run import Run

# Keys of the adapter table that decide what a file says under these names.
NAMED = {"alone": "content_in or style_in", "fused": "split_gates", "halves": "split or content_half"}


def mixed(content: Path, style: Path, make: int = 0) -> Customization:
    """The customization that takes a content from one finished run and a style from another.

    `customize` then joins them; both runs stay as they are.

    Args:
        content, style: the runs' folders.
        make: steps of fine-tuning after joining, on the pictures of both.
    Raises:
        UserError: one is no finished run, or has not learned that concept.
    """
    whole = {}
    for kind, folder in (("content", content), ("style", style)):
        run = _finished(folder, kind)
        config = run.customization()
        if kind not in config.concepts:
            raise UserError(f"The run {folder} has learned no {kind}", f"Name a run that has a {kind}")
        whole[kind] = config
    first, second = whole["content"], whole["style"]
    assert first.content is not None and second.style is not None
    data = first.model_dump(by_alias=True, exclude={"name", "preset", "memory", "content", "style"})
    data["steps"]["make"] = make
    return Customization(
        name=f"{first.name} + {second.name}",
        preset=first.preset,
        content=first.content.model_dump() | {"run": content.resolve()},
        style=second.style.model_dump() | {"run": style.resolve()},
        **data,
    )


def further(run: Path, steps: int, make: int) -> Customization:
    """The customization that learns on from where a finished run has ended.

    `customize` does so in a folder of its own; the run stays as it is.

    Args:
        run: its folder.
        steps: more of each break run; 0 for none.
        make: steps of make after that.
    Raises:
        UserError: it is no finished run.
    """
    config = _finished(run, "content or style").customization()
    data = config.model_dump(by_alias=True, exclude={"name", "preset", "memory"})
    data["steps"] |= {"make": make} | ({"break": steps} if steps else {})
    for kind in config.concepts:
        data[kind] |= {"run": run.resolve(), "further": steps > 0, "steps": 0}
    return Customization(name=f"{config.name} further", preset=config.preset, **data)


def read_taken(config: Customization, adapter: Adapter, base_hash: str) -> dict[str, export.Factors]:
    """Concept -> the adapter file of the finished run that it is taken from.

    Raises:
        UserError: there is no such file, or it was made on another base or with another adapter.
    """
    found = {}
    expected = {
        "base_hash": base_hash,
        "rank": config.adapter.rank,
        "halves": tuple(adapter.places.items()),
        "layers": tuple(adapter.factors()),
        **adapter.frozen(config.adapter),
    }
    for kind, concept in config.concepts.items():
        if concept.run is None:
            continue
        factors, card = export.read(_finished(concept.run, kind).adapter)
        for what, value in expected.items():
            if (seen := getattr(card, what)) != value:
                short = not isinstance(value, tuple | dict)
                said = f" ({_short(seen)} there, {_short(value)} here)" if short else ""
                name = NAMED.get(what, what.replace("_", " "))
                raise UserError(
                    f"The {kind} of {concept.run} was learned with another {name}{said}",
                    "Take it from a run on the same base, with the same adapter table",
                )
        found[kind] = factors
    return found


def digest(factors: export.Factors) -> str:
    """Of the numbers of an adapter file."""
    found = hashlib.sha256()
    for up, down in factors.values():
        found.update(up.numpy().tobytes() + down.numpy().tobytes())
    return found.hexdigest()


def _finished(folder: Path, kind: str) -> Run:
    run = Run(Path(folder))
    if not run.config.exists() or not run.adapter.exists():
        raise UserError(f"{folder} is no finished run to take a {kind} from", "Name the folder of one that has ended")
    return run


def _short(value: object) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)
