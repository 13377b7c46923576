"""What people do with pipelines, on a family of each layout: precision, compiling, offloading, callbacks, LoRA."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from peft import LoraConfig

from pipelines import APG, CFG, CFGRescale, guided
from tests.families import CASES
from tests.families.case import denoisers
from tests.pipelines.stepwise import RULE, Sampler, far

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
@pytest.mark.parametrize(
    "in_place", [pytest.param(False, id="wrapped", marks=pytest.mark.slow), pytest.param(True, id="in place")]
)
@pytest.mark.slow
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
def test_a_pipeline_whose_parts_take_turns_on_the_device_changes_nothing(case):
    """Model offloading wraps the denoiser's forward anew at the end of every call."""
    pipe, offloaded = ours(case), ours(case)
    offloaded.enable_model_cpu_offload(device="cpu")
    for rule in (*RULES, *RULES):
        assert torch.equal(case.draw(offloaded, guidance=rule), case.draw(pipe, guidance=rule))
        assert all(hasattr(module, "_hf_hook") for module in denoisers(offloaded))


@every_layout
@pytest.mark.parametrize("blocks", [None, 1], ids=["leaves", "blocks"])
def test_groups_of_layers_that_are_offloaded_change_nothing(case, blocks):
    pipe, offloaded = ours(case), ours(case)
    for module in denoisers(offloaded):
        apply_group_offloading(
            module,
            torch.device("cpu"),
            offload_type="block_level" if blocks else "leaf_level",
            num_blocks_per_group=blocks,
        )
    for rule in RULES:
        assert torch.equal(case.draw(offloaded, guidance=rule), case.draw(pipe, guidance=rule))


class Counting(ModelHook):
    """One of diffusers' own hooks, which wrap a network's forward."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


@every_layout
@pytest.mark.parametrize("rule", RULES, ids=["whole", "interval", "plain, interval"])
def test_diffusers_own_hooks_may_come_before_a_call_and_in_it(case, rule):
    pipe, before, during = ours(case), Counting(), Counting()
    expected = case.draw(pipe, guidance=rule)
    (module, *_) = denoisers(pipe)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(before, "before")

    def register(pipe, step, timestep, tensors):
        if step == 0:
            registry.register_hook(during, "during")
        return {}

    assert torch.equal(case.draw(pipe, guidance=rule, callback_on_step_end=register), expected)
    first, rest = before.calls - during.calls, during.calls
    assert first and rest
    assert torch.equal(case.draw(pipe, guidance=rule), expected)  # both still there
    assert during.calls == 2 * rest + first
    registry.remove_hook("during")
    registry.remove_hook("before")
    assert torch.equal(case.draw(pipe, guidance=rule), expected) and during.calls == 2 * rest + first


@every_layout
def test_weights_may_be_kept_in_eight_bits(case):
    pipe, stock = ours(case), case.pipeline()
    whole = case.draw(pipe, guidance=APG(**RULE))
    for p in (pipe, stock):
        for module in denoisers(p):
            module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(weight.dtype == torch.float8_e4m3fn for weight in denoisers(pipe)[0].parameters())
    assert torch.equal(case.draw(pipe, guidance=CFG()), case.draw(stock))
    got = case.draw(pipe, guidance=APG(**RULE))
    with Sampler(stock, case.w, **RULE, renormalised=case.renormalised).at_work(denoisers(stock)):
        assert far(got, case.draw(stock)) < 1e-4
    assert far(got, whole) > 1e-4
    partly = case.draw(pipe, guidance=APG(**RULE, interval=(0.0, 0.5)))
    assert partly.isfinite().all() and far(partly, got) > 1e-4


@every_layout
def test_quantized_weights_are_shared_as_they_are(case):
    """diffusers' own `from_pipe` would cast them, which a quantized network refuses."""
    stock = case.pipeline()
    (module, *_) = denoisers(stock)
    module.is_quantized = True
    types = {name: value.dtype for name, value in module.state_dict().items()}
    pipe = guided(case.stock_class).from_pipe(stock)
    assert denoisers(pipe)[0] is module
    assert {name: value.dtype for name, value in module.state_dict().items()} == types
    with pytest.raises(ValueError, match="quantized"):
        guided(case.stock_class).from_pipe(stock, dtype=torch.bfloat16)


FUSED = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "Flux2KleinPipeline",
    "PixArtSigmaPipeline",
    "HunyuanDiTPipeline",
    "AuraFlowPipeline",
    "ChromaPipeline",
    "WanPipeline",
    "CogVideoXPipeline",
)


@pytest.mark.parametrize("name", FUSED)
def test_fused_projections_change_nothing(name):
    case = FIRST[name]
    pipe, stock = ours(case), case.pipeline()
    apart = case.draw(pipe, guidance=APG(**RULE))
    for p in (pipe, stock):
        (module,) = denoisers(p)
        module.fuse_qkv_projections()
        assert any("to_qkv" in layer or "to_kv" in layer for layer, _ in module.named_modules())
    assert torch.equal(case.draw(pipe, guidance=CFG()), case.draw(stock))
    assert far(case.draw(pipe, guidance=APG(**RULE)), apart) < 1e-4


@pytest.mark.parametrize(
    "name", ["StableDiffusionPipeline", "StableDiffusion3Pipeline", "ZImagePipeline", "CogView4Pipeline"]
)
def test_a_callback_may_change_the_guidance_scale(name):
    case = FIRST[name]
    stock, pipe = case.pipeline(), ours(case)
    sampler = Sampler(stock, case.w, **RULE)

    def lower(pipe, step, timestep, tensors):
        if step == 0:
            pipe._guidance_scale -= 2.0
            sampler.w = case.w - 2.0
        return {}

    changed = case.draw(pipe, guidance=APG(**RULE), callback_on_step_end=lower)
    plain = case.draw(stock, callback_on_step_end=lower)
    sampler.w = case.w
    with sampler.at_work(denoisers(stock)):
        want = case.draw(stock, callback_on_step_end=lower)
    assert far(changed, want) < 1e-4
    # A rule that asks for the scale is told the one of the step.
    assert far(case.draw(pipe, guidance=CFGRescale(rescale=0.0), callback_on_step_end=lower), plain) < 1e-4
    assert far(plain, case.draw(stock)) > 1e-3


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
