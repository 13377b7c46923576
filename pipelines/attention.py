"""Which attention kernels a pipeline uses."""

import logging
from typing import Literal

import torch
from diffusers import DiffusionPipeline

from pipelines.errors import UserError

log = logging.getLogger("joinery")


def set_attention(pipe: DiffusionPipeline, kernels: Literal["auto", "xformers", "pytorch"] = "auto") -> str:
    """Choose a pipeline's attention kernels, and say in the log which.

    Args:
        kernels: "auto" takes xformers if the pipeline computes on a GPU and one tiny forward pass succeeds, else
            PyTorch's own.
    Returns:
        "xformers" or "pytorch".
    Raises:
        UserError: xformers was asked for and does not run here.
    """
    reason = "asked for"
    if kernels != "pytorch":
        # `device` says cpu while an offloaded pipeline rests.
        trouble = _why_not_xformers() if pipe._execution_device.type == "cuda" else "no NVIDIA GPU"
        if kernels == "xformers" and trouble:
            raise UserError(f"xformers was asked for, but does not run here ({trouble})", 'Choose "auto" or "pytorch"')
        kernels, reason = ("pytorch", trouble) if trouble else ("xformers", "its trial pass succeeded")
    if kernels == "xformers":
        pipe.enable_xformers_memory_efficient_attention()
    log.info("Attention by %s (%s)", kernels, reason)
    return kernels


def _why_not_xformers() -> str:
    """Empty if xformers works here. It installs beside a torch it was not built for, and fails only when called."""
    try:
        from xformers.ops import memory_efficient_attention

        trial = torch.randn(1, 16, 2, 32, device="cuda", dtype=torch.float16)
        memory_efficient_attention(trial, trial, trial)
    except Exception as error:  # whatever a foreign binary throws: the way out is the same
        return f"xformers: {type(error).__name__}"
    return ""
