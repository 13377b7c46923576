"""What every method gives, and what every method asks for."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from pipelines.errors import UserError
from training import checkpoint
from training.config import Customization
from training.model import open_base
from training.run import runs_folder
from training.sampling import guided_pipeline

OWN: dict[str, dict[str, Any]] = {}  # method -> the settings that it alone has, with their values


@dataclass(frozen=True)
class Ready:
    """A pipeline with what a method has learned on it, the prompt that asks for the cell, and its two scales."""

    pipe: DiffusionPipeline
    prompt: str
    set_scales: Callable[[float, float], None] | None  # of content and style; None: it has no two scales


def folder() -> Path:
    return runs_folder().parent / "pairs"


def opened(changes: dict) -> DiffusionPipeline:
    """The guided base of a project with these changes."""
    config = Customization(content={"pictures": "."}, **{k: v for k, v in changes.items() if k in ("base", "preset")})
    return guided_pipeline(open_base(config.resolved_base()), config.preset)


def project(changes: dict) -> dict:
    """The changes that a project file knows: all but the tables that are named after a method."""
    return {key: value for key, value in changes.items() if key not in OWN}


def own(method: str, changes: dict) -> SimpleNamespace:
    """A method's own settings, changed as its table says.

    Raises:
        UserError: it has no such setting.
    """
    defaults, given = OWN[method], changes.get(method, {})
    if unknown := given.keys() - defaults.keys():
        raise UserError(f"{method} has no setting {', '.join(unknown)}", f"It has {', '.join(defaults)}")
    return SimpleNamespace(**defaults | given)


def over(defaults: dict, changes: dict) -> dict:
    """Tables of a project file over others, key by key."""
    tables = {key: value | changes.get(key, {}) for key, value in defaults.items() if isinstance(value, dict)}
    return defaults | changes | tables


def kept(name: str, identity: list, learn: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What was learned before, or is learned now and kept in the data folder.

    Args:
        name: what a person finds it by.
        identity: of everything that decides it, as JSON has it.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = folder() / f"learned/{name.replace(' ', '-')}-{digest[:16]}.safetensors"
    if not path.exists():
        checkpoint.write_tensors(path, learn())
    return load_file(path)


def digest_of(tensors: dict[str, Tensor]) -> str:
    """Of their names and numbers."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
