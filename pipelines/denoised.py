"""Model output <-> denoised prediction: x0 = A x + B o, for every scheduler and prediction type.

x is the latent as the network sees it (after `scale_model_input`), o the network's output. In that space every
variance-preserving scheduler has one formula, with a = 1 / sqrt(1 + sigma^2) and s = sigma a:

    epsilon   A = 1 / a, B = -s / a        v         A = a, B = -s
    sample    A = 0,     B = 1             flow      A = 1, B = -sigma
"""

import functools
import math

import torch
from torch import Tensor

from pipelines.errors import UserError


def coefficients(scheduler, timestep: Tensor | float) -> tuple[float, float]:
    """A and B of x0 = A x + B o at the present evaluation.

    Args:
        scheduler: of diffusers, its timesteps set; where it has sigmas they are used, since timesteps are rounded.
        timestep: what the network was given; used where the scheduler has no sigmas, and for the place in a shortened
            schedule before the first step.

    Raises:
        UserError: the scheduler's prediction type is not known.
    """
    if hasattr(type(scheduler), "precondition_outputs"):
        return _edm(scheduler, timestep)
    config = scheduler.config
    kind = getattr(config, "prediction_type", "epsilon")
    flow = kind == "flow_prediction" or getattr(config, "use_flow_sigmas", False)
    if flow or type(scheduler).__name__.startswith("FlowMatch"):
        sigma = _sigma(scheduler, timestep)
        return (1.0, 1 - sigma) if getattr(config, "invert_sigmas", False) else (1.0, -sigma)
    if getattr(scheduler, "sigmas", None) is not None:
        sigma = _sigma(scheduler, timestep)
        a = 1 / math.sqrt(1 + sigma**2)
        s = sigma * a
    else:
        timestep = _one(timestep)
        if hasattr(scheduler, "_alpha_cumprod"):  # of Stable Cascade: a function of a timestep between 0 and 1
            alpha = float(scheduler._alpha_cumprod(timestep.float(), timestep.device))
        else:
            alpha = float(scheduler.alphas_cumprod[int(timestep)])
        a, s = math.sqrt(alpha), math.sqrt(1 - alpha)
    match kind:
        case "epsilon":
            if a == 0:
                raise UserError(
                    "The schedule begins at a signal-to-noise ratio of zero, where a noise prediction says nothing",
                    "Switch rescale_betas_zero_snr off, or use a model that predicts v",
                )
            return 1 / a, -s / a
        case "v_prediction":
            return a, -s
        case "sample":
            return 0.0, 1.0
    raise UserError(
        f"The scheduler {type(scheduler).__name__} predicts {kind!r}, which guidance cannot turn into a picture",
        "Use a scheduler with prediction_type epsilon, v_prediction, sample or a flow",
    )


def _one(timestep: Tensor | float) -> Tensor | float:
    """It is the same for all samples."""
    return timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep


def step_index(scheduler, timestep: Tensor | float) -> int:
    """Which entry of the scheduler's sigmas the present evaluation is at.

    Args:
        timestep: what the network was given. It may be scaled or reversed, and then says nothing.
    """
    for index in (scheduler.step_index, scheduler.begin_index):
        if index is not None:
            return int(index)
    given, schedule = _one(timestep), scheduler.timesteps
    return int(scheduler.index_for_timestep(given if (schedule == given).any() else schedule[0]))


def in_second_half(scheduler) -> bool:
    """Whether the present evaluation is the second one of its step, as Heun and its kind have two."""
    return hasattr(type(scheduler), "state_in_first_order") and not scheduler.state_in_first_order


def _sigma(scheduler, timestep: Tensor | float) -> float:
    """The noise level of the evaluation that is about to be used."""
    index = step_index(scheduler, timestep)
    if in_second_half(scheduler):
        name = type(scheduler).__name__
        if name == "DPMSolverSDEScheduler":
            return float(scheduler.mid_point_sigma)
        if name == "KDPM2DiscreteScheduler":
            return float(scheduler.sigmas_interpol[index])
        if name == "KDPM2AncestralDiscreteScheduler":
            return float(scheduler.sigmas_interpol[index - 1])
    return _levels(scheduler.sigmas)[index]


@functools.lru_cache(maxsize=8)
def _levels(sigmas: Tensor) -> list[float]:
    """A schedule's noise levels. They may lie on a GPU, which would have to come to rest at each evaluation for one."""
    return sigmas.tolist()


def _edm(scheduler, timestep: Tensor | float) -> tuple[float, float]:
    """Read A and B off the scheduler's own preconditioning, which is linear in both of its arguments."""
    sigma = scheduler.sigmas[step_index(scheduler, timestep)]
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    c_in = float(scheduler.precondition_inputs(one, sigma))
    c_skip = float(scheduler.precondition_outputs(one, zero, sigma))
    c_out = float(scheduler.precondition_outputs(zero, one, sigma))
    return c_skip / c_in, c_out
