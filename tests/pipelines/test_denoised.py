"""A and B of x0 = A x + B o, at every evaluation of a real run, against the scheduler's own denoised prediction."""

import copy

import diffusers
import pytest
import torch

from pipelines import CFG, APGStableDiffusionPipeline, UserError
from pipelines.denoised import coefficients
from tests.tiny import tiny_pipeline

V = {"prediction_type": "v_prediction"}
SAMPLE = {"prediction_type": "sample"}
ZERO_SNR = {**V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SPACED = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
CASES = {
    "DDIMScheduler": [{}, V, SAMPLE, ZERO_SNR],
    "DDPMScheduler": [{}, V, SAMPLE],
    "LCMScheduler": [{}, V],
    "EulerDiscreteScheduler": [{}, V, SAMPLE, ZERO_SNR, *SPACED, {"timestep_spacing": "trailing"}],
    "EulerAncestralDiscreteScheduler": [{}, V],
    "LMSDiscreteScheduler": [{}, {"use_beta_sigmas": True}],
    "HeunDiscreteScheduler": [{}, V, *SPACED],
    "KDPM2DiscreteScheduler": [{}, V, *SPACED],
    "KDPM2AncestralDiscreteScheduler": [{}, V, *SPACED],
    "DPMSolverMultistepScheduler": [{}, V, SAMPLE, ZERO_SNR, FLOW, *SPACED, {"use_lu_lambdas": True}],
    "DPMSolverSinglestepScheduler": [{}, V, FLOW, *SPACED],
    "DPMSolverSDEScheduler": [{}, V],
    "DEISMultistepScheduler": [{}, V, FLOW, *SPACED],
    "UniPCMultistepScheduler": [{}, V, FLOW, *SPACED],
    "SASolverScheduler": [{}, V, FLOW, *SPACED],
    "EDMEulerScheduler": [{}, V],
    "EDMDPMSolverMultistepScheduler": [{}, V],
}
NEEDS = {"LMSDiscreteScheduler": "scipy", "DPMSolverSDEScheduler": "torchsde"}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(APGStableDiffusionPipeline)


def own_denoised(scheduler, output, timestep, latents):
    """As the scheduler computes it itself, on a copy; None where it keeps it to itself (second halves of DPM++ SDE)."""
    scheduler = copy.deepcopy(scheduler)
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        own = scheduler.convert_model_output(output, sample=latents)
        if type(scheduler).__name__ == "DEISMultistepScheduler":  # its own conversion gives the noise
            signal, noise = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index])
            own = (latents - noise * own) / signal
        return own
    result = scheduler.step(output, timestep, latents)
    if type(scheduler).__name__ == "LCMScheduler":  # the boundary condition is mixed in
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        return (result.denoised - c_skip * latents) / c_out
    return getattr(result, "pred_original_sample", None)


@pytest.mark.parametrize(
    "name, config",
    [
        pytest.param(name, config, id=" ".join([name.removesuffix("Scheduler"), *map(str, config.values())]))
        for name, configs in CASES.items()
        for config in configs
    ],
)
def test_the_coefficients_give_the_scheduler_s_own_denoised_prediction(pipe, name, config):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    cls = getattr(diffusers, name)
    common = (
        {} if name.startswith("EDM") else {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    )
    scheduler = cls(**common, **config, **({"clip_sample": False} if "clip_sample" in cls().config else {}))
    pipe.scheduler = scheduler
    held, compared = {}, []
    scale = scheduler.scale_model_input

    def watch(latents, *args):
        held["latents"] = latents.double()
        return scale(latents, *args)

    def compare(module, args, kwargs, output):
        seen, timestep = args[:2]
        del scheduler.scale_model_input  # a deep copy would carry it along
        want = own_denoised(scheduler, output[0].double(), timestep, held["latents"])
        scheduler.scale_model_input = watch
        a, b = coefficients(scheduler, timestep)
        if want is not None:
            compared.append(float((a * seen.double() + b * output[0].double() - want).norm() / want.norm()))

    scheduler.scale_model_input = watch
    hook = pipe.unet.register_forward_hook(compare, with_kwargs=True)
    pipe("a", num_inference_steps=5, guidance_scale=1, output_type="latent", guidance=CFG(), generator=generator())
    hook.remove()
    assert len(compared) >= (1 if name == "DPMSolverSDEScheduler" else 5)
    assert max(compared) < 1e-6


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_timesteps_that_repeat_have_their_own_noise_levels():
    """Spaced noise levels are rounded to integer timesteps: a table by timestep would give equal coefficients."""
    scheduler = diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True)
    scheduler.set_timesteps(100)
    first = next(i for i in range(99) if scheduler.timesteps[i] == scheduler.timesteps[i + 1])
    found = []
    for scheduler._step_index in (first, first + 1):
        found.append(coefficients(scheduler, scheduler.timesteps[first]))
    assert found[0] != found[1]


def test_an_unknown_prediction_is_refused_with_a_remedy():
    scheduler = diffusers.DDIMScheduler()
    scheduler.register_to_config(prediction_type="energy")
    with pytest.raises(UserError, match="'energy'"):
        coefficients(scheduler, 10)
