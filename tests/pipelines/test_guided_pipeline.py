"""Guided pipelines: the rule's own result for every scheduler, and the stock pipeline in all else."""

import copy
import inspect
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    AutoPipelineForText2Image,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from pipelines import APG, CFG, APGStableDiffusionPipeline, UserError, guided
from tests.families.schedulers import NOISE, scheduler
from tests.pipelines import reference
from tests.tiny import tiny_pipeline

RULE = {"eta": 0.2, "norm_threshold": 0.3, "momentum": -0.5}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(pipe, guidance_scale: float = 7.5, steps: int = 4, **arguments):
    settings = {"prompt": "a red dog", "num_inference_steps": steps, "output_type": "latent", "generator": seeded()}
    return pipe(guidance_scale=guidance_scale, **(settings | arguments)).images


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(APGStableDiffusionPipeline)


@pytest.mark.parametrize("name", NOISE)
def test_the_full_rule_equals_an_independent_loop_in_float64(name, monkeypatch):
    mine, other = (tiny_pipeline(APGStableDiffusionPipeline, scheduler=scheduler(name)) for _ in range(2))
    module = inspect.getmodule(type(mine.scheduler))
    if hasattr(module, "randn_tensor"):  # a float64 loop would draw other noise
        draw = module.randn_tensor
        monkeypatch.setattr(module, "randn_tensor", lambda *a, dtype=None, **k: draw(*a, dtype=torch.float32, **k))
    got = call(mine, guidance=APG(**RULE))
    want = reference.sample(other, "a red dog", 7.5, 4, seeded(), **RULE)
    assert (got - want).norm() <= 1e-4 * want.norm()
    assert (got - call(mine, guidance=CFG())).norm() > 1e-2 * got.norm()


@pytest.mark.parametrize("name", ["DDIM", "DDIM v, zero terminal SNR", "DPM++ 2M", "Euler", "Heun"])
def test_a_neutral_rule_is_the_stock_pipeline(name):
    stock = call(tiny_pipeline(StableDiffusionPipeline, scheduler=scheduler(name)))
    mine = tiny_pipeline(APGStableDiffusionPipeline, scheduler=scheduler(name))
    assert torch.equal(call(mine, guidance=CFG()), stock)
    assert torch.equal(call(mine, guidance=APG(eta=1, norm_threshold=None, momentum=0)), stock)
    through_the_hook = call(mine, guidance=APG(eta=1, norm_threshold=1e9, momentum=0))
    assert (through_the_hook - stock).norm() <= 1e-5 * stock.norm()


def test_guidance_scale_1_is_no_guidance_whatever_the_rule(pipe):
    assert torch.equal(call(pipe, 1.0), call(pipe, 1.0, guidance=CFG()))


def test_two_calls_are_equal_and_a_batch_equals_its_samples(pipe):
    first = call(pipe)
    assert torch.equal(first, call(pipe))
    batch = call(pipe, prompt=["a red dog", "a cat"], generator=[seeded(0), seeded(1)])
    single = call(pipe, prompt="a cat", generator=seeded(1))
    for one, alone in zip(batch, (first[0], single[0]), strict=True):
        assert (one - alone).norm() <= 1e-4 * alone.norm()
    assert len(call(pipe, num_images_per_prompt=2)) == 2


def test_nothing_stays_behind_after_an_exception(pipe):
    first = call(pipe)

    def fail(pipe, step, timestep, tensors):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        call(pipe, callback_on_step_end=fail)
    assert not pipe.unet._forward_hooks and not pipe.unet._forward_pre_hooks
    assert torch.equal(call(pipe), first)


def test_a_callback_can_interrupt_and_can_switch_guidance_off(pipe):
    def interrupt(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return tensors

    assert call(pipe, callback_on_step_end=interrupt).isfinite().all()

    def off(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 1.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    seen = batches(pipe, callback_on_step_end=off, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert seen == [2, 2, 1, 1]


def batches(pipe, **arguments) -> list[int]:
    """How many samples the denoiser computes at each evaluation."""
    seen, forward = [], pipe.unet.forward

    def count(sample, *args, **kwargs):
        seen.append(len(sample))
        return forward(sample, *args, **kwargs)

    pipe.unet.forward = count
    try:
        call(pipe, **arguments)
    finally:
        del pipe.unet.forward
    return seen


@pytest.mark.parametrize("rule", [APG, CFG])
def test_outside_its_interval_the_unconditional_half_is_not_computed(pipe, rule):
    assert batches(pipe, steps=6, guidance=rule(interval=(0.2, 0.6))) == [1, 1, 2, 2, 1, 1]
    assert batches(pipe, steps=6, guidance=rule()) == [2] * 6


def test_outside_its_interval_a_step_is_the_conditional_one():
    pipe = tiny_pipeline(guided(StableDiffusionXLPipeline))
    whole = call(pipe, guidance=CFG(interval=(0.0, 1e-9)), steps=3)  # step 0 only
    assert not torch.equal(whole, call(pipe, guidance=CFG(), steps=3))
    late = call(pipe, guidance=APG(interval=(0.99, 1.0)), steps=3)  # never
    assert torch.allclose(late, call(pipe, 1.0, steps=3), rtol=1e-4, atol=1e-4)


def test_rescaling_leaves_a_limited_result_alone_and_rescales_plain_guidance(pipe, caplog):
    limited = APG(norm_threshold=0.01)
    plain = call(pipe, 12, guidance=limited)
    rescaled = call(pipe, 12, guidance=limited, guidance_rescale=1.0)
    assert (rescaled - plain).norm() <= 1e-5 * plain.norm()
    assert "guidance_rescale has no effect beside APG" in caplog.text
    stock = call(tiny_pipeline(StableDiffusionPipeline), 12, guidance_rescale=1.0)
    assert torch.equal(call(pipe, 12, guidance=CFG(), guidance_rescale=1.0), stock)
    assert not torch.allclose(stock, call(pipe, 12, guidance=CFG()))
    partly = call(pipe, 12, guidance=CFG(interval=(0.5, 1.0)), guidance_rescale=0.7)
    assert partly.isfinite().all()


def test_weights_that_are_offloaded_change_nothing(pipe):
    offloaded = tiny_pipeline(APGStableDiffusionPipeline)
    cpu_offload(offloaded.unet, execution_device="cpu")  # weights rest on "meta" and come for each layer
    assert next(offloaded.unet.parameters()).device.type == "meta"
    for rule in (APG(**RULE), APG(**RULE), APG(interval=(0.2, 0.6)), CFG()):
        assert torch.equal(call(offloaded, guidance=rule), call(pipe, guidance=rule))


def test_a_subclass_may_have_its_own_call(pipe):
    class Polite(APGStableDiffusionPipeline):
        def __call__(self, prompt, **arguments):
            return super().__call__(f"please, {prompt}", **arguments)

    class Heir(Polite):
        pass

    for cls in (Polite, Heir):
        assert torch.equal(call(cls.from_pipe(pipe)), call(pipe, prompt="please, a red dog"))


def test_figures_are_kept_when_asked_for(pipe):
    call(pipe, guidance=APG(norm_threshold=1e-6, record=True))
    assert [f["clipped"] for f in pipe.guidance_record] == [1.0] * 4
    recorded = call(pipe, guidance=CFG(record=True))
    assert len(pipe.guidance_record) == 4
    assert torch.equal(recorded, call(pipe, guidance=CFG()))
    assert pipe.guidance_record is None


def test_a_stock_pipeline_that_shares_the_denoiser_is_left_alone_by_a_call_in_another_thread(pipe):
    """The two take turns at every evaluation, so that the hooks are there whenever the stock pipeline computes."""
    stock = StableDiffusionPipeline.from_pipe(pipe, scheduler=copy.deepcopy(pipe.scheduler))
    positive, negative = pipe.encode_prompt("a red dog", "cpu", 1, True)  # tokenizers are not for two threads at once
    words = {"prompt": None, "prompt_embeds": positive, "negative_prompt_embeds": negative}
    expected, guided_alone = call(stock, **words), call(pipe, **words)
    turns = threading.Barrier(2, timeout=60)

    def take_turns(pipe, step, timestep, tensors):
        turns.wait()
        return tensors

    with ThreadPoolExecutor(1) as pool:
        ours = pool.submit(call, pipe, callback_on_step_end=take_turns, **words)
        theirs = call(stock, callback_on_step_end=take_turns, **words)
        assert torch.equal(theirs, expected) and torch.equal(ours.result(), guided_alone)


def test_what_is_no_rule_is_refused_before_work_starts(pipe):
    with pytest.raises(UserError, match="guidance is 'apg'"):
        call(pipe, guidance="apg")


def test_a_saved_folder_opens_with_every_tool(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    none = {"safety_checker": None}
    for door in (DiffusionPipeline, AutoPipelineForText2Image, StableDiffusionPipeline):
        assert type(door.from_pretrained(tmp_path, **none)) is StableDiffusionPipeline
    again = APGStableDiffusionPipeline.from_pretrained(tmp_path, **none)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(call(again), call(pipe))
    custom = DiffusionPipeline.from_pretrained(
        tmp_path, custom_pipeline="pipelines/custom/apg_stable_diffusion.py", trust_remote_code=True, **none
    )
    custom.set_progress_bar_config(disable=True)
    assert torch.equal(call(custom), call(pipe))


def test_from_pipe_shares_weights_both_ways(pipe):
    stock = StableDiffusionPipeline.from_pipe(pipe)
    back = APGStableDiffusionPipeline.from_pipe(stock)
    assert stock.unet is pipe.unet is back.unet
    assert torch.equal(call(stock), call(pipe, guidance=CFG()))
    assert torch.equal(call(back), call(pipe))


def test_from_pipe_keeps_half_precision(caplog):
    half = tiny_pipeline(StableDiffusionPipeline).to(torch.bfloat16)
    caplog.clear()
    assert APGStableDiffusionPipeline.from_pipe(half).unet.dtype == torch.bfloat16 == half.unet.dtype
    assert "Casting" not in caplog.text
    assert APGStableDiffusionPipeline.from_pipe(half, torch_dtype=torch.float32).unet.dtype == torch.float32


def test_half_precision_keeps_the_mathematics_in_float32():
    pipe = tiny_pipeline(APGStableDiffusionPipeline, prediction_type="v_prediction")
    exact = call(pipe, 4.0)
    half = call(copy.deepcopy(pipe).to(torch.bfloat16), 4.0)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() < 0.1 * exact.norm()


PICTURE = Image.new("RGB", (32, 32), "orange")


@pytest.mark.parametrize(
    "stock, channels, arguments",
    [
        (StableDiffusionImg2ImgPipeline, 4, {"image": PICTURE, "strength": 0.8}),
        (StableDiffusionInpaintPipeline, 4, {"image": PICTURE, "mask_image": Image.new("L", (32, 32), 255)}),
        (StableDiffusionInpaintPipeline, 9, {"image": PICTURE, "mask_image": Image.new("L", (32, 32), 255)}),
        (StableDiffusionXLPipeline, 4, {}),
    ],
)
def test_other_classes_carry_the_rule(stock, channels, arguments):
    size = {"height": 32, "width": 32} if "Inpaint" in stock.__name__ else {}
    make = {"in_channels": channels} if channels != 4 else {}
    mine, plain = tiny_pipeline(guided(stock), **make), tiny_pipeline(stock, **make)
    expected = call(plain, **arguments, **size)
    assert torch.equal(call(mine, guidance=CFG(), **arguments, **size), expected)
    neutral = call(mine, guidance=APG(eta=1, norm_threshold=1e9, momentum=0), **arguments, **size)
    assert (neutral - expected).norm() <= 1e-5 * expected.norm()
    assert (call(mine, **arguments, **size) - expected).norm() > 1e-2 * expected.norm()


def test_a_class_of_no_known_family_is_refused_with_the_reason():
    with pytest.raises(UserError, match="DDPMPipeline has no known way"):
        guided(diffusers.DDPMPipeline)
    with pytest.raises(UserError, match=r"LatentConsistencyModelPipeline cannot .* distilled"):
        guided(diffusers.LatentConsistencyModelPipeline)
    assert guided(StableDiffusionXLPipeline) is guided(StableDiffusionXLPipeline)


def test_a_schedule_that_makes_no_sense_is_refused():
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", steps_offset=1)
    with pytest.raises(UserError, match="signal-to-noise ratio of zero"):
        call(tiny_pipeline(APGStableDiffusionPipeline, scheduler=scheduler))
