"""How adapters are learned."""

import os

# Read when PyTorch is imported, so it stands before all else. Threads that wait by spinning make a step a hundred times
# slower as soon as another program wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipelines.errors import UserError
from training.config import Customization
from training.loop import customize
from training.run import Run

__all__ = ["Customization", "Run", "UserError", "customize"]
