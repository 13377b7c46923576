"""Schedulers by name, as the families take them."""

import diffusers
import pytest

ZERO_SNR = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
# For denoisers that predict noise, v, or the sample.
NOISE = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DDIM v": ("DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
    "DDIM sample": ("DDIMScheduler", {"prediction_type": "sample", "clip_sample": False}),
    "DDIM v, zero terminal SNR": ("DDIMScheduler", ZERO_SNR),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "LCM": ("LCMScheduler", {"clip_sample": False}),
    "TCD": ("TCDScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M v": ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
    "DPM++ 2M karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M exponential": ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}),
    "DPM++ singlestep": ("DPMSolverSinglestepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "UniPC karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
    "SA": ("SASolverScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler v": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
    "Euler karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "EDM Euler": ("EDMEulerScheduler", {}),
}
FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
DYNAMIC_SHIFT = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64}
# For rectified flows.
FLOW = {
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow Euler, dynamic shift": ("FlowMatchEulerDiscreteScheduler", DYNAMIC_SHIFT),
    "flow Euler, dynamic shift, linear": (
        "FlowMatchEulerDiscreteScheduler",
        {**DYNAMIC_SHIFT, "time_shift_type": "linear"},
    ),
    "flow Euler, shift terminal": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "shift_terminal": 0.1}),
    "flow Euler karras": ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "flow Euler exponential": ("FlowMatchEulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    "flow Euler beta": ("FlowMatchEulerDiscreteScheduler", {"use_beta_sigmas": True}),
    "flow Euler, stochastic": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}),
    "flow Euler ancestral": ("LTXEulerAncestralRFScheduler", {}),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    "flow DPM++ 2M": ("DPMSolverMultistepScheduler", FLOW_SIGMAS),
    "flow UniPC": ("UniPCMultistepScheduler", FLOW_SIGMAS),
}


V_ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
LEARNED = {"variance_type": "learned_range", "clip_sample": False}
# Made for one family.
OWN = {
    "CogVideoX DDIM v": ("CogVideoXDDIMScheduler", V_ZERO_SNR),
    "CogVideoX DPM v": ("CogVideoXDPMScheduler", V_ZERO_SNR),
    "DDPM, learned variance": ("DDPMScheduler", LEARNED),
    "DDPM, learned variance, thresholding": ("DDPMScheduler", {**LEARNED, "thresholding": True}),
    "UnCLIP": ("UnCLIPScheduler", {"prediction_type": "sample", "variance_type": "fixed_small_log"}),
    "Wuerstchen": ("DDPMWuerstchenScheduler", {}),
    "flow Euler, inverted": ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    "EDM DPM++ 2M v": ("EDMDPMSolverMultistepScheduler", {"prediction_type": "v_prediction", "sigma_max": 500.0}),
}


def scheduler(name: str):
    """A scheduler with the noise levels that Stable Diffusion was trained with, if it is one for noise or v."""
    if name in FLOW or name in OWN:
        cls, config = (FLOW | OWN)[name]
        return getattr(diffusers, cls)(**config)
    cls, config = NOISE[name]
    if cls == "LMSDiscreteScheduler":
        pytest.importorskip("scipy", reason="diffusers' LMS integrates with scipy")
    common = {} if cls == "EDMEulerScheduler" else {"beta_schedule": "scaled_linear", "beta_end": 0.012}
    if "steps_offset" in getattr(diffusers, cls)().config:
        common["steps_offset"] = 1
    return getattr(diffusers, cls)(**common, **config)
