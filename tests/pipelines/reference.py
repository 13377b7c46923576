"""An independent sampler: the formulas of adaptive projected guidance in float64, one picture at a time.

It shares no code with `pipelines`. The denoised predictions come from the scheduler's own conversion where it has one,
and the guided one goes back to the network's output space only because that is what a scheduler's `step` takes.
"""

import inspect
import math

import torch


def apg_direction(conditional, unconditional, running, eta, norm_threshold, momentum):
    """Algorithm 1 on one sample, without a batch dimension: returns U and the running direction."""
    running = (conditional - unconditional) + momentum * running
    norm, radius = running.norm(), (norm_threshold or math.inf) * math.sqrt(running.numel())
    clipped = running * min(1.0, radius / float(norm)) if norm > 0 else running
    unit = conditional / conditional.norm()
    parallel = (clipped * unit).sum() * unit
    return clipped - parallel + eta * parallel, running


def own_denoised(scheduler, output, timestep, latents):
    """The denoised prediction, float64: as the scheduler itself converts it, else by the formula of its family."""
    if getattr(scheduler, "step_index", 0) is None:
        scheduler._init_step_index(timestep)
    algorithm = scheduler.config.get("algorithm_type", "dpmsolver++")
    if hasattr(scheduler, "convert_model_output") and algorithm != "deis":
        assert algorithm in ("dpmsolver++", "sde-dpmsolver++", "data_prediction"), f"{algorithm} gives no x0"
        return scheduler.convert_model_output(output, sample=latents)
    if algorithm == "deis":  # its own conversion gives the noise: x = a x0 + s n
        alpha, noise_scale = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index].double())
        return (latents - noise_scale * output) / alpha
    if type(scheduler).__name__.startswith(
        ("FlowMatch", "LTX")
    ):  # x = (1 - sigma) x0 + sigma n, output n - x0; or all reversed
        sigma = scheduler.sigmas[_index(scheduler, timestep)].double()
        return latents + (1 - sigma) * output if scheduler.config.get("invert_sigmas") else latents - sigma * output
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return output
    if hasattr(scheduler, "sigmas"):  # the k-diffusion family: x = x0 + sigma n, in the unscaled space
        index = scheduler.step_index  # set by scale_model_input
        sigma = scheduler.sigmas[index].double()
        if getattr(scheduler, "state_in_first_order", True) is False and hasattr(scheduler, "sigmas_interpol"):
            shift = 1 if "Ancestral" in type(scheduler).__name__ else 0
            sigma = scheduler.sigmas_interpol[index - shift].double()
        if hasattr(scheduler, "precondition_outputs"):
            return scheduler.precondition_outputs(latents, output, sigma)
        if kind == "epsilon":
            return latents - sigma * output
        return latents / (sigma**2 + 1) - output * sigma / (sigma**2 + 1).sqrt()
    if type(scheduler).__name__ == "DDPMWuerstchenScheduler":
        alpha = scheduler._alpha_cumprod(timestep.double(), timestep.device).flatten()[0]
    else:
        alpha = scheduler.alphas_cumprod[int(timestep)].double()
    if kind == "epsilon":
        return (latents - (1 - alpha).sqrt() * output) / alpha.sqrt()
    return alpha.sqrt() * latents - (1 - alpha).sqrt() * output


def _index(scheduler, timestep) -> int:
    return scheduler.index_for_timestep(timestep) if scheduler.step_index is None else scheduler.step_index


@torch.no_grad()
def sample(pipe, prompt, guidance_scale, steps, generator, eta, norm_threshold, momentum):
    """Latents [1, 4, h, w] of one prompt, float64."""
    unet, scheduler = pipe.unet.double(), pipe.scheduler
    positive, negative = pipe.encode_prompt(prompt, pipe.device, 1, True)
    positive, negative = positive.double(), negative.double()
    size = unet.config.sample_size
    scheduler.set_timesteps(steps)
    latents = torch.randn((1, 4, size, size), generator=generator).double() * scheduler.init_noise_sigma
    still = torch.zeros(4, size, size, dtype=torch.float64)
    running = {True: still, False: still}  # whether it is the first evaluation of a step
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, timestep)
        conditional = unet(seen, timestep, positive).sample
        unconditional = unet(seen, timestep, negative).sample
        x0 = own_denoised(scheduler, conditional, timestep, latents)
        x0_negative = own_denoised(scheduler, unconditional, timestep, latents)
        first = getattr(scheduler, "state_in_first_order", True)
        direction, moved = apg_direction(x0[0], x0_negative[0], running[first], eta, norm_threshold, momentum)
        if first:
            running = {True: moved, False: running[True]}
        # x0 is affine in the output; its slope is read off a second evaluation of the scheduler's own conversion.
        slope = (own_denoised(scheduler, conditional + 1, timestep, latents) - x0).mean()
        output = conditional + (guidance_scale - 1) * direction[None] / slope
        taken = inspect.signature(scheduler.step).parameters
        extra = {key: value for key, value in {"generator": generator, "eta": 0.0}.items() if key in taken}
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
    return latents
