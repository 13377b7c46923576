"""What people do with pipelines, on a family of each layout: precision, compiling, offloading, callbacks, LoRA."""

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig

from pipelines import APG, CFG, guided
from tests.families import CASES
from tests.families.case import denoisers
from tests.pipelines.stepwise import RULE, far

LAYOUTS = (
    "StableDiffusionPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "QwenImagePipeline",
    "ZImagePipeline",
    "WanPipeline",
)
FIRST = {case.stock: case for case in reversed(CASES)}
every_layout = pytest.mark.parametrize("case", [FIRST[name] for name in LAYOUTS], ids=LAYOUTS)
SLOW = ("StableDiffusionPipeline", "ZImagePipeline")  # to compile
compiled_layout = pytest.mark.parametrize(
    "case", [pytest.param(FIRST[name], id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYOUTS]
)
RULES = (APG(**RULE), APG(**RULE, interval=(0.0, 0.5)), CFG(interval=(0.3, 1.0)))


def ours(case):
    return case.pipeline(guided(case.stock_class))


@every_layout
def test_half_precision_is_as_near_as_the_stock_pipeline_s(case):
    exact, pipe = ours(case), ours(case)
    half = pipe.to(torch.bfloat16)
    inputs = {
        name: [part.bfloat16() for part in value] if isinstance(value, list) else value.bfloat16()
        for name, value in case.inputs([0]).items()
        if "embeds" in name and "mask" not in name
    }
    wrong = far(case.draw(half, guidance=APG(**RULE), **inputs).float(), case.draw(exact, guidance=APG(**RULE)))
    stock = far(case.draw(half, guidance=CFG(), **inputs).float(), case.draw(exact, guidance=CFG()))
    assert wrong < 3 * stock + 1e-3


@compiled_layout
@pytest.mark.parametrize("in_place", [False, True], ids=["wrapped", "in place"])
def test_a_compiled_network_is_one_graph_with_a_rule_as_without(case, in_place):
    pipe, graphs = ours(case), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    expected = case.draw(pipe, guidance=RULES[0])
    torch._dynamo.reset()
    attribute = "unet" if hasattr(pipe, "unet") else "transformer"
    module = getattr(pipe, attribute)
    if in_place:
        module.compile(backend=count)
    else:
        setattr(pipe, attribute, torch.compile(module, backend=count))
    assert far(case.draw(pipe, guidance=CFG()), case.draw(case.pipeline())) < 1e-5
    assert far(case.draw(pipe, guidance=RULES[0]), expected) < 1e-5
    assert len(graphs) == 1
    # An interval may bring more: another batch, or an answer in place of a call.
    assert far(case.draw(pipe, guidance=RULES[1]), case.draw(ours(case), guidance=RULES[1])) < 1e-5


@every_layout
def test_offloaded_weights_change_nothing(case):
    pipe, offloaded = ours(case), ours(case)
    for part in offloaded.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, execution_device="cpu")
    before = [dict(vars(module)) for module in denoisers(offloaded)]
    for rule in (*RULES, *RULES):
        assert torch.equal(case.draw(offloaded, guidance=rule), case.draw(pipe, guidance=rule))
    for module, attributes in zip(denoisers(offloaded), before, strict=True):
        assert vars(module).get("forward") is attributes.get("forward")


@every_layout
def test_a_callback_may_change_the_latents_or_interrupt(case):
    pipe, stock = ours(case), case.pipeline()

    def double(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * (2 if step == 0 else 1)}

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 1
        return tensors

    changed = case.draw(pipe, guidance=APG(**RULE), callback_on_step_end=double)
    assert far(changed, case.draw(pipe, guidance=APG(**RULE))) > 1e-2
    neutral = APG(eta=1, norm_threshold=1e9, momentum=0)
    if not case.renormalised:
        expected = case.draw(stock, callback_on_step_end=double)
        assert far(case.draw(pipe, guidance=neutral, callback_on_step_end=double), expected) < 1e-4
        expected = case.draw(stock, callback_on_step_end=stop)
        assert far(case.draw(pipe, guidance=neutral, callback_on_step_end=stop), expected) < 1e-4


@every_layout
def test_a_lora_on_the_denoiser_takes_part(case):
    pipe, stock = ours(case), case.pipeline()
    before = case.draw(pipe, guidance=APG(**RULE))
    for p in (pipe, stock):
        torch.manual_seed(1)
        targets = "all-linear" if case.stock == "ZImagePipeline" else ["to_q", "to_v"]
        denoisers(p)[0].add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    assert torch.equal(case.draw(pipe, guidance=CFG()), case.draw(stock))
    assert far(case.draw(pipe, guidance=APG(**RULE)), before) > 1e-4


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "ZImagePipeline", "WanPipeline"]
)
def test_several_pictures_of_a_prompt_are_as_many_prompts(name):
    case = FIRST[name]
    pipe = ours(case)
    number = "num_videos_per_prompt" if name == "WanPipeline" else "num_images_per_prompt"
    generators = [torch.Generator().manual_seed(i) for i in (0, 1)]
    both = case.draw(pipe, guidance=APG(**RULE), generator=generators, **{number: 2})
    single = case.draw(pipe, guidance=APG(**RULE))
    assert len(both) == 2 and far(both[:1], single) < 1e-4
