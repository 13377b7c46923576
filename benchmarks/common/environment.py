"""What a result file says of where it was made."""

import platform

import diffusers
import torch


def environment() -> dict:
    """Machine and versions, the first keys of every result."""
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
