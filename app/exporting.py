"""How a person wants an adapter's file: what its address asks for."""

import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from pipelines.errors import UserError
from training import Run

TEXT = Field("", max_length=200)
SCALE = Field(1.0, ge=0, le=2)


class Export(BaseModel):
    """As it was trained, unless something else is asked for."""

    format: Literal["kohya", "peft"] | None = None  # the usual one of its base
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    content: float = SCALE
    style: float = SCALE
    title: str = TEXT
    trigger: str = TEXT

    def of(self, run: Run, folder: Path) -> Path:
        """The run's own file, or a new one in a folder, for the caller to remove.

        Raises:
            UserError: the run has none yet, or nothing would be left of it.
        """
        if not run.adapter.exists():
            raise UserError(f"The run {run.folder.name} has no adapter yet", "Let its training end first")
        if self == Export():
            return run.adapter
        from training import export  # what reads tensors takes longer to import than all else together

        with tempfile.NamedTemporaryFile(dir=folder, suffix=".safetensors", delete=False) as file:
            path = Path(file.name)
        scales = {"content": self.content, "style": self.style}
        export.convert(run.adapter, path, self.format, self.precision, scales, self.title, self.trigger)
        return path
