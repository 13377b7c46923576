"""A guided call keeps to itself: nothing in a callback or another thread has a part in it, and it in nothing."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    PyramidAttentionBroadcastConfig,
    StableDiffusionPipeline,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback

from pipelines import APG, CFG, APGStableDiffusionPipeline, CFGZeroStar, UserError, guided
from tests.families import CASES
from tests.families.case import denoisers
from tests.pipelines.stepwise import RULE, Sampler, far
from tests.pipelines.test_guided_pipeline import call
from tests.tiny import tiny_pipeline

FIRST = {case.stock: case for case in reversed(CASES)}
LAYOUTS = ("StableDiffusionPipeline", "FluxPipeline", "ZImagePipeline")
every_layout = pytest.mark.parametrize("case", [FIRST[name] for name in LAYOUTS], ids=LAYOUTS)
INTERVAL = APG(**RULE, interval=(0.0, 0.5))


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(APGStableDiffusionPipeline)


@every_layout
@pytest.mark.parametrize("rule", [APG(**RULE), INTERVAL], ids=["whole", "interval"])
@pytest.mark.parametrize("kind", ["stock", "CFG()", "another rule"])
def test_a_call_in_a_callback_of_another_is_as_alone(case, rule, kind):
    pipe = case.pipeline(guided(case.stock_class))
    cls = case.stock_class if kind == "stock" else guided(case.stock_class)
    other = cls.from_pipe(pipe, scheduler=copy.deepcopy(pipe.scheduler))
    other.set_progress_bar_config(disable=True)
    inner = {"stock": {}, "CFG()": {"guidance": CFG()}, "another rule": {"guidance": APG(eta=1.0)}}[kind]
    alone, expected, found = case.draw(pipe, guidance=rule), case.draw(other, (1,), **inner), []

    def draw(pipe, step, timestep, tensors):
        found.append(case.draw(other, (1,), **inner))
        return tensors

    assert torch.equal(case.draw(pipe, guidance=rule, callback_on_step_end=draw), alone)
    assert len(found) == case.steps and all(torch.equal(one, expected) for one in found)


@every_layout
def test_a_callback_may_run_the_network_itself(case):
    pipe = case.pipeline(guided(case.stock_class))
    module, seen = denoisers(pipe)[0], []
    alone = case.draw(pipe, guidance=APG(**RULE))

    def note(module, args, kwargs):
        seen.append((args, kwargs))

    def run(pipe, step, timestep, tensors):
        args, kwargs = seen[-1]
        with torch.no_grad():
            module(*args, **kwargs)
        return tensors

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    assert torch.equal(case.draw(pipe, guidance=APG(**RULE), callback_on_step_end=run), alone)
    handle.remove()


def test_a_callback_of_diffusers_own_kind_stays_one(pipe):
    class Doubled(PipelineCallback):
        @property
        def tensor_inputs(self):
            return ["latents", "prompt_embeds"]

        def callback_fn(self, pipe, step, timestep, tensors):
            assert tensors.keys() == {"latents", "prompt_embeds"}
            return {"latents": tensors["latents"] * 2, "prompt_embeds": tensors["prompt_embeds"]}

    def double(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * 2}

    expected = call(pipe, callback_on_step_end=double)
    for callback in (Doubled(), MultiPipelineCallbacks([Doubled()])):
        assert torch.equal(call(pipe, callback_on_step_end=callback), expected)
    off = call(pipe, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1))
    assert off.isfinite().all() and not torch.equal(off, call(pipe))


def test_calls_that_overlap_leave_no_wrapped_forward():
    """Each begins while the one before is at work, a thousand times and more: once, each left a wrapper behind."""
    case = FIRST["FluxPipeline"]
    pipe = case.pipeline(guided(case.stock_class))
    pipes = [guided(case.stock_class).from_pipe(pipe, scheduler=copy.deepcopy(pipe.scheduler)) for _ in range(2)]
    for one in pipes:
        one.set_progress_bar_config(disable=True)
    (module,) = denoisers(pipe)
    expected = case.draw(pipe, guidance=INTERVAL)
    turns = threading.Barrier(2, timeout=60)

    def take_turns(pipe, step, timestep, tensors):
        turns.wait()
        return tensors

    def draw(one):
        return case.draw(one, guidance=INTERVAL, callback_on_step_end=take_turns)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert all(torch.equal(drawn, expected) for drawn in pool.map(draw, pipes))
            assert "forward" not in vars(module)


@pytest.mark.parametrize("other", [APG(), CFG()], ids=["a rule", "CFG()"])
def test_a_scheduler_at_work_in_another_thread_is_refused(pipe, other):
    alone, refused = call(pipe), []

    def elsewhere(pipe, step, timestep, tensors):
        if step == 1:
            with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match="at work in a call in another thread"):
                pool.submit(call, pipe, guidance=other).result()
            refused.append(step)
        return tensors

    assert torch.equal(call(pipe, callback_on_step_end=elsewhere), alone) and refused
    assert torch.equal(call(pipe), alone)


def test_a_schedule_that_another_call_sets_anew_is_refused(pipe):
    stock = StableDiffusionPipeline.from_pipe(pipe)  # with the very same scheduler
    stock.set_progress_bar_config(disable=True)

    def draw(pipe, step, timestep, tensors):
        call(stock, steps=7)
        return tensors

    with pytest.raises(UserError, match="set anew in the middle of a call"):
        call(pipe, callback_on_step_end=draw)


def test_zero_star_zeroes_the_first_steps_of_the_schedule_and_none_in_mid_run(pipe):
    late = {"interval": (0.5, 1.0)}
    assert torch.equal(
        call(pipe, guidance=CFGZeroStar(zero_steps=1, **late)), call(pipe, guidance=CFGZeroStar(zero_steps=0, **late))
    )
    assert not torch.equal(call(pipe, guidance=CFGZeroStar(zero_steps=1)), call(pipe, guidance=CFGZeroStar(0)))


@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_larger_latents_get_the_rule_all_over(momentum):
    """Of another size, the direction of the steps before says nothing: momentum begins anew."""
    case, rule = FIRST["StableDiffusionPipeline"], RULE | {"momentum": momentum}
    pipe, stock = case.pipeline(guided(case.stock_class)), case.pipeline()
    sampler = Sampler(stock, case.w, **rule)

    def enlarge(pipe, step, timestep, tensors):
        if step == 0:
            sampler.running.clear()
            tensors["latents"] = torch.nn.functional.interpolate(tensors["latents"], scale_factor=2)
        return tensors

    with sampler.at_work(denoisers(stock)):
        want = case.draw(stock, callback_on_step_end=enlarge)
    assert far(case.draw(pipe, guidance=APG(**rule), callback_on_step_end=enlarge), want) < 1e-4


@pytest.mark.parametrize("rule", [APG(**RULE), APG(**RULE, skip_above=0.999)], ids=["momentum", "skipping"])
def test_samples_that_stay_go_on_as_alone(rule):
    case = FIRST["StableDiffusionPipeline"]
    pipe = case.pipeline(guided(case.stock_class))

    def drop(pipe, step, timestep, tensors):
        if step == 0:
            embeddings = [part[1:] for part in tensors["prompt_embeds"].chunk(2)]
            return {"latents": tensors["latents"][1:], "prompt_embeds": torch.cat(embeddings)}
        return tensors

    # DDIM takes a generator for each sample, but draws nothing.
    both = case.draw(
        pipe,
        (0, 1),
        guidance=rule,
        callback_on_step_end=drop,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert len(both) == 1 and far(both, case.draw(pipe, (1,), guidance=rule)) < 1e-4


def test_samples_of_which_nothing_tells_who_stayed_are_refused():
    case = FIRST["StableDiffusionPipeline"]
    pipe = case.pipeline(guided(case.stock_class))

    def drop(pipe, step, timestep, tensors):
        embeddings = [part[:1] for part in tensors["prompt_embeds"].chunk(2)]
        return {"latents": tensors["latents"].mean(0, keepdim=True), "prompt_embeds": torch.cat(embeddings)}

    both = {"callback_on_step_end": drop, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    with pytest.raises(UserError, match="1 samples of 2"):
        case.draw(pipe, (0, 1), guidance=APG(**RULE), **both)
    assert len(case.draw(pipe, (0, 1), guidance=APG(**RULE | {"momentum": 0.0}), **both)) == 1


def faster(pipe):
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
        tensor_format="BFCHW",
    )


def pyramid(pipe):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


@pytest.mark.parametrize("cache", [faster, pyramid])
def test_a_cache_sees_the_same_batch_at_every_step(cache):
    """It keeps both branches from step to step: outside an interval they are computed, and one is used."""
    case = FIRST["CogVideoXPipeline"]
    pipe = case.pipeline(guided(case.stock_class))
    pipe.transformer.enable_cache(cache(pipe))
    for samples in ((0,), (0, 1)):
        whole = case.draw(pipe, samples, guidance=CFG(), num_inference_steps=4)
        never = case.draw(pipe, samples, guidance=APG(interval=(0.99, 1.0)), num_inference_steps=4)
        partly = case.draw(pipe, samples, guidance=APG(interval=(0.0, 0.5)), num_inference_steps=4)
        assert never.isfinite().all() and partly.isfinite().all()
        assert far(never, whole) > 1e-3 and far(partly, never) > 1e-4
    both = case.draw(pipe, (0, 1), guidance=APG(interval=(0.0, 0.5)), num_inference_steps=4)
    assert far(both[:1], case.draw(pipe, guidance=APG(interval=(0.0, 0.5)), num_inference_steps=4)) < 1e-4
