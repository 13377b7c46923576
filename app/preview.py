"""Small pictures of what is being drawn: the finished latents as the sampler guesses them at a step, decoded.

Of flows the guess follows from the network's velocity: x - s v at noise level s.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin
    from torch import Tensor

EVERY = 4  # steps
LARGEST = 32  # of latents, per side: larger ones are shrunk before they are decoded, which takes a moment then


@contextmanager
def guesses(scheduler: SchedulerMixin) -> Iterator[Callable[[], Tensor | None]]:
    """Gives a function that says what the last step took for the finished latents; None of a sampler that keeps it."""
    step = scheduler.step
    last: list[Tensor] = []

    @functools.wraps(step)  # pipelines look at its signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        if _is_flow(scheduler):
            velocity = args[0] if args else kwargs["model_output"]
            last[:] = [result[0] - scheduler.sigmas[scheduler.step_index] * velocity]
        else:
            last[:] = (scheduler.model_outputs if _keeps_guesses(scheduler) else result[1:])[-1:]
        return result

    scheduler.step = watched
    try:
        yield lambda: last[0] if last else None
    finally:
        del scheduler.step


def _is_flow(scheduler: SchedulerMixin) -> bool:
    """Whether its steps follow a flow's velocity without chance."""
    return type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" and not scheduler.config.stochastic_sampling


def _keeps_guesses(scheduler: SchedulerMixin) -> bool:
    """Whether it is one of the solvers that reckon with the finished latents, and keep them for the next step."""
    config = scheduler.config  # which carries along what other classes know
    return hasattr(scheduler, "model_outputs") and (
        str(config.get("algorithm_type")).endswith("dpmsolver++") or bool(config.get("predict_x0"))
    )


def decode(pipe: DiffusionPipeline, latents: Tensor, size: tuple[int, int]) -> list[Image.Image]:
    """Pictures of latents; none where the autoencoder needs more than its own precision, or they lie otherwise packed.

    Args:
        size: of the drawing, width and height in pixels.
    """
    import torch
    from torch.nn.functional import interpolate

    vae = pipe.vae
    config, of_films = vae.config, "z_dim" in vae.config
    if config.get("force_upcast") and vae.dtype == torch.float16:
        return []
    if latents.ndim == 3:
        latents = _unpacked(pipe, latents, *size)
    if latents.ndim != 4 or latents.shape[1] != (config.z_dim if of_films else config.latent_channels):
        return []
    longest = max(latents.shape[-2:])
    if longest > LARGEST:
        latents = interpolate(latents, scale_factor=LARGEST / longest, mode="area")
    latents = latents.float() / config.get("scaling_factor", 1.0)
    mean, std = (config.get(name) for name in ("latents_mean", "latents_std"))
    if mean and std:  # of some descendants of SDXL, and of autoencoders of films
        mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        latents = latents * std + mean
    latents = latents + (config.get("shift_factor") or 0.0)
    frames = latents.to(vae.dtype)
    with torch.no_grad():
        image = vae.decode(frames[:, :, None] if of_films else frames, return_dict=False)[0]
    return pipe.image_processor.postprocess((image[:, :, 0] if of_films else image).float())


def _unpacked(pipe: DiffusionPipeline, latents: Tensor, width: int, height: int) -> Tensor:
    """Latents, (n, c, h, w), of a row of tokens, (n, tokens, channels); the tokens where it is not known how they lie.

    Args:
        width, height: of the drawing, in pixels.
    """
    match type(getattr(pipe, "transformer", None)).__name__:
        case "FluxTransformer2DModel" | "ChromaTransformer2DModel":
            return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        case "QwenImageTransformer2DModel":
            return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)[:, :, 0]
        case "Krea2Transformer2DModel":
            return pipe._unpack_latents(latents, height, width)[:, :, 0]
        case "Flux2Transformer2DModel":
            side, statistics = 2 * pipe.vae_scale_factor, pipe.vae.bn
            patches = latents.transpose(1, 2).unflatten(2, (height // side, width // side)).float()
            variance = statistics.running_var + pipe.vae.config.batch_norm_eps
            mean, std = (x.float().view(1, -1, 1, 1) for x in (statistics.running_mean, variance.sqrt()))
            return pipe._unpatchify_latents(patches * std + mean)
    return latents


def shown_meanwhile(work: Callable[[Callable], Any]) -> Generator[Any, None, Any]:
    """Gives what a work shows while it goes on in a thread of its own; its result is that of the generator.

    Args:
        work: takes the function that shows something.
    """
    shown: SimpleQueue = SimpleQueue()

    def run() -> None:
        try:
            shown.put((work(lambda something: shown.put((something, None, False))), None, True))
        except BaseException as error:  # it is raised again where somebody waits for it
            shown.put((None, error, True))

    # Gradio finds by the context whose progress it is.
    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    while True:
        something, error, ended = shown.get()
        if error:
            raise error
        if ended:
            return something
        yield something
