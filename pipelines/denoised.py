"""Model output <-> denoised prediction: x0 = c_skip x + c_out o, for every scheduler and prediction type.

x is the latent as the network sees it (after `scale_model_input`), o the network's output. In that space every
variance-preserving scheduler has one formula, with a = 1 / sqrt(1 + sigma^2) and s = sigma a:

    epsilon   c_skip = 1 / a, c_out = -s / a        v         c_skip = a, c_out = -s
    sample    c_skip = 0,     c_out = 1             flow      c_skip = 1, c_out = -sigma
"""

import functools
import math

import torch
from diffusers import (
    DPMSolverSDEScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LTXEulerAncestralRFScheduler,
    SchedulerMixin,
)
from torch import Tensor

from pipelines.errors import UserError

# By class: a subclass of one's own, whatever its name, has the formula of what it comes from.
FLOW = (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
)
KNOWN = "Use one of diffusers' schedulers that the documentation names, or a subclass of it"


def coefficients(scheduler: SchedulerMixin, timestep: Tensor | float) -> tuple[float, float]:
    """c_skip and c_out of x0 = c_skip x + c_out o at the present evaluation. c_out is 0 where no noise is left.

    Args:
        scheduler: of diffusers, its timesteps set; where it has sigmas they are used, since timesteps are rounded.
        timestep: what the network was given; used where the scheduler has no sigmas, and for the place in a shortened
            schedule before the first step.

    Raises:
        UserError: the scheduler's prediction type is not known, or its noise levels are not.
    """
    if hasattr(type(scheduler), "precondition_outputs"):
        return _edm(scheduler, timestep)
    config, name = scheduler.config, type(scheduler).__name__
    kind = getattr(config, "prediction_type", "epsilon")
    if isinstance(scheduler, FLOW) or kind == "flow_prediction" or getattr(config, "use_flow_sigmas", False):
        sigma = _sigma(scheduler, timestep)
        return (1.0, 1 - sigma) if getattr(config, "invert_sigmas", False) else (1.0, -sigma)
    if hasattr(scheduler, "_alpha_cumprod"):  # of Stable Cascade: a function of a timestep between 0 and 1
        timestep = _one(timestep)
        assert isinstance(timestep, Tensor)  # as Stable Cascade hands it on
        alpha = float(scheduler._alpha_cumprod(timestep.float(), timestep.device))
        a, s = math.sqrt(alpha), math.sqrt(1 - alpha)
    elif getattr(scheduler, "alphas_cumprod", None) is None:
        raise UserError(f"{name} keeps its noise levels in a way that guidance does not know", KNOWN)
    elif getattr(scheduler, "sigmas", None) is not None:
        sigma = _sigma(scheduler, timestep)
        a = 1 / math.sqrt(1 + sigma**2)
        s = sigma * a
    else:
        alpha = float(scheduler.alphas_cumprod[int(_one(timestep))])
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
        f"The scheduler {name} predicts {kind!r}, which guidance cannot turn into a picture",
        "Use a scheduler with prediction_type epsilon, v_prediction, sample or a flow",
    )


def check_schedule(scheduler: SchedulerMixin) -> None:
    """Look at the noise levels that were set for a call.

    Raises:
        UserError: one of them is no number, or without end.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    if isinstance(sigmas, Tensor) and not sigmas.isfinite().all():
        raise UserError(
            f"{type(scheduler).__name__} has a noise level of {float(sigmas[~sigmas.isfinite()][0])}",
            "Its betas end at a signal-to-noise ratio of zero: set rescale_betas_zero_snr in place of trained_betas, "
            "and leave out use_karras_sigmas and its kind",
        )


def _one(timestep: Tensor | float) -> Tensor | float:
    """It is the same for all samples."""
    return timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep


def step_index(scheduler: SchedulerMixin, timestep: Tensor | float) -> int:
    """Which entry of the scheduler's sigmas the present evaluation is at.

    Args:
        timestep: what the network was given. It may be scaled or reversed, and then says nothing.

    Raises:
        UserError: the scheduler does not tell.
    """
    for index in (getattr(scheduler, "step_index", None), getattr(scheduler, "begin_index", None)):
        if index is not None:
            return int(index)
    if not hasattr(scheduler, "index_for_timestep"):
        raise UserError(f"{type(scheduler).__name__} does not tell where it is in the schedule", KNOWN)
    given, schedule = _one(timestep), scheduler.timesteps
    return int(scheduler.index_for_timestep(given if (schedule == given).any() else schedule[0]))


def in_second_evaluation(scheduler: SchedulerMixin) -> bool:
    """Whether the present evaluation is the second one of its step, as Heun and its kind have two."""
    return hasattr(type(scheduler), "state_in_first_order") and not scheduler.state_in_first_order


def _sigma(scheduler: SchedulerMixin, timestep: Tensor | float) -> float:
    """The noise level of the evaluation that is about to be used."""
    index = step_index(scheduler, timestep)
    if in_second_evaluation(scheduler):
        if isinstance(scheduler, DPMSolverSDEScheduler):
            return float(scheduler.mid_point_sigma)
        if isinstance(scheduler, KDPM2DiscreteScheduler):
            return float(scheduler.sigmas_interpol[index])
        if isinstance(scheduler, KDPM2AncestralDiscreteScheduler):
            return float(scheduler.sigmas_interpol[index - 1])
    sigmas = scheduler.sigmas
    if not isinstance(sigmas, Tensor) or sigmas.device.type == "cpu" or sigmas.is_inference():
        return float(sigmas[index])
    return _levels(sigmas, sigmas._version)[index]


@functools.lru_cache(maxsize=8)
def _levels(sigmas: Tensor, version: int) -> list[float]:
    """A schedule's noise levels on a GPU, which would have to come to rest at each evaluation for one.

    Args:
        version: counts what was written into the tensor in place, by a callback for example.
    """
    return sigmas.tolist()


def _edm(scheduler: SchedulerMixin, timestep: Tensor | float) -> tuple[float, float]:
    """Read c_skip and c_out off the scheduler's own preconditioning, which is linear in both of its arguments."""
    sigma = scheduler.sigmas[step_index(scheduler, timestep)]
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    c_in = float(scheduler.precondition_inputs(one, sigma))
    c_skip = float(scheduler.precondition_outputs(one, zero, sigma))
    c_out = float(scheduler.precondition_outputs(zero, one, sigma))
    return c_skip / c_in, c_out
