"""A and B of x0 = A x + B o, at every evaluation of a real run, against the scheduler's own denoised prediction."""

import copy

import diffusers
import pytest
import torch

from pipelines import APG, CFG, APGStableDiffusionPipeline, UserError, guided
from pipelines.denoised import coefficients
from tests import families
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


@pytest.mark.parametrize(
    "name, config",
    [
        ("KDPM2DiscreteScheduler", {}),
        ("KDPM2AncestralDiscreteScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("LTXEulerAncestralRFScheduler", {}),
    ],
)
def test_a_subclass_has_the_formula_of_its_class_whatever_its_name(name, config):
    stock = getattr(diffusers, name)
    found = []
    for cls in (stock, type("Mine", (stock,), {})):
        scheduler = cls(**config)
        scheduler.set_timesteps(num_inference_steps=4)
        torch.manual_seed(0)
        latents, seen = torch.ones(1, 4, 2, 2), []
        for timestep in scheduler.timesteps[:4]:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(latents, timestep)
            seen.append(coefficients(scheduler, timestep))
            latents = scheduler.step(torch.ones_like(latents), timestep, latents).prev_sample
        found.append(seen)
    assert found[0] == found[1] and len(set(found[0])) > 2
    if "KDPM2" not in name:
        assert all(c_skip == 1 and -1 <= c_out < 0 for c_skip, c_out in found[0])


def test_noise_levels_that_are_changed_in_place_are_seen():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    assert coefficients(scheduler, 0.0) == (1.0, -float(scheduler.sigmas[1])) != (1.0, -0.5)
    scheduler.sigmas[1] = 0.5
    assert coefficients(scheduler, 0.0) == (1.0, -0.5)
    with torch.inference_mode():
        scheduler.set_timesteps(4)
        scheduler.set_begin_index(1)
        assert coefficients(scheduler, 0.0) == (1.0, -float(scheduler.sigmas[1])) != (1.0, -0.5)
        scheduler.sigmas[1] = 0.5
        assert coefficients(scheduler, 0.0) == (1.0, -0.5)


@pytest.mark.parametrize("name", ["CMStochasticIterativeScheduler", "IPNDMScheduler", "ScoreSdeVeScheduler"])
def test_a_scheduler_of_another_kind_is_refused_in_words(name):
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match=f"{name} keeps its noise levels in a way"):
        coefficients(scheduler, scheduler.timesteps[0])


def test_a_scheduler_that_does_not_tell_its_place_is_refused_in_words():
    class Bare:
        config = diffusers.EulerDiscreteScheduler().config
        alphas_cumprod = sigmas = torch.ones(3)

    with pytest.raises(UserError, match="Bare does not tell where it is"):
        coefficients(Bare(), 1.0)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_spaced_noise_levels_without_end_are_refused_in_words(pipe, name):
    """Betas that end in 1, as old recipes for a zero terminal SNR have them, and Karras' spacing between them."""
    betas = [*torch.linspace(1e-4, 0.02, 999).tolist(), 1.0]
    pipe.scheduler = getattr(diffusers, name)(
        trained_betas=betas, prediction_type="v_prediction", use_karras_sigmas=True
    )
    with pytest.raises(UserError, match="has a noise level of nan"):
        pipe("a", num_inference_steps=4, guidance_scale=5, output_type="latent", generator=generator())


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "QwenImagePipeline"])
def test_noise_levels_that_reach_zero_end_in_the_stock_result(name):
    """Where no noise is left both predictions are the latent itself, and there is nothing to guide."""
    case = next(case for case in families.CASES if case.stock == name)
    pipe = case.pipeline(guided(case.stock_class), "flow Euler")
    sigmas = {"sigmas": [1.0, 0.5, 0.0], "num_inference_steps": 3}
    drawn = case.draw(pipe, guidance=APG(eta=0.2, norm_threshold=0.3), **sigmas)
    assert drawn.isfinite().all()
    shorter = case.draw(pipe, guidance=APG(eta=0.2, norm_threshold=0.3), sigmas=[1.0, 0.5], num_inference_steps=2)
    assert torch.equal(drawn, shorter)


def test_an_unknown_prediction_is_refused_with_a_remedy():
    scheduler = diffusers.DDIMScheduler()
    scheduler.register_to_config(prediction_type="energy")
    with pytest.raises(UserError, match="'energy'"):
        coefficients(scheduler, 10)
