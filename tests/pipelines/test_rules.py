"""The other rules by themselves, each against its paper's formula in float64, and in a pipeline."""

import functools

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipelines import APG, CFG, FDG, TCFG, APGStableDiffusionPipeline, CFGRescale, CFGZeroStar, UserError, guided
from pipelines.guidance import GuidanceState
from tests.families import CASES
from tests.families.case import denoisers
from tests.tiny import tiny_pipeline

W = 6.0
ALL = [APG(), CFG(), CFGRescale(), CFGZeroStar(zero_steps=0), TCFG(), FDG()]
by_name = pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)


def halves(batch: int = 3, seed: int = 0, size: int = 8):
    return torch.randn(2, batch, 4, size, size, generator=torch.Generator().manual_seed(seed))


def guided_by(rule, conditional, unconditional, state=None):
    state = state or GuidanceState(guidance_scale=W)
    return conditional + (W - 1) * rule.direction(conditional, unconditional, state)


def rescaled(c, u):
    guided = u + W * (c - u)
    return 0.7 * guided * c.std() / guided.std() + 0.3 * guided


def zero_star(c, u):
    scale = (c * u).sum() / u.square().sum()
    return scale * u + W * (c - scale * u)


def tangential(c, u, w=W):
    axes = torch.linalg.svd(torch.stack([c.flatten(), u.flatten()]), full_matrices=False).Vh
    kept = (u.flatten() @ axes[0] * axes[0]).reshape(u.shape)
    return kept + w * (c - kept)


def decoupled(c, u, low=4 / 9):
    """The pyramid as matrices on rows and columns: blurred, halved, doubled, blurred."""
    size = c.shape[-1]

    def blur(n):
        matrix = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
                j = abs(i + offset)
                matrix[i, j if j < n else 2 * (n - 1) - j] += weight / 16
        return matrix

    half, double = torch.zeros(size // 2, size).double(), torch.zeros(size, size // 2).double()
    for i in range(size // 2):
        half[i, 2 * i] = half[i, 2 * i + 1] = 0.5
        for row, neighbour in ((2 * i, i - 1), (2 * i + 1, i + 1)):
            double[row, i] += 0.75
            double[row, min(max(neighbour, 0), size // 2 - 1)] += 0.25
    whole = blur(size) @ double @ half @ blur(size)

    def split(x):
        lows = whole @ x @ whole.T
        return lows, x - lows

    (c_low, c_high), (u_low, u_high) = split(c), split(u)
    w_low = 1 + low * (W - 1)
    return u_low + w_low * (c_low - u_low) + u_high + W * (c_high - u_high)


@pytest.mark.parametrize(
    "rule, formula",
    [(CFGRescale(), rescaled), (CFGZeroStar(zero_steps=0), zero_star), (TCFG(), tangential), (FDG(), decoupled)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_rule_is_its_paper_s_formula(rule, formula):
    conditional, unconditional = halves()
    got = guided_by(rule, conditional, unconditional)
    for i in range(3):
        want = formula(conditional[i].double(), unconditional[i].double())
        assert (got[i] - want).norm() <= 1e-5 * want.norm()


def test_the_first_steps_of_zero_star_are_zero():
    conditional, unconditional = halves()
    state = GuidanceState(guidance_scale=W, evaluations=1)
    assert guided_by(CFGZeroStar(zero_steps=2), conditional, unconditional, state).abs().max() < 1e-5
    state.evaluations = 2
    assert guided_by(CFGZeroStar(zero_steps=2), conditional, unconditional, state).abs().max() > 1


def test_at_one_end_of_their_settings_they_are_plain_guidance():
    conditional, unconditional = halves()
    plain = guided_by(CFG(), conditional, unconditional)
    for rule in (CFGRescale(rescale=0.0), FDG(low=1.0)):
        assert torch.allclose(guided_by(rule, conditional, unconditional), plain, atol=1e-4)


def test_low_frequencies_alone_get_the_lower_scale():
    flat = torch.ones(1, 4, 8, 8)
    assert torch.allclose(FDG(low=0.5).direction(flat, 0 * flat, GuidanceState()), 0.5 * flat, atol=1e-6)
    chequered = torch.ones(8, 8)
    chequered[::2, ::2] = chequered[1::2, 1::2] = -1
    chequered = chequered.expand(1, 4, 8, 8)
    assert torch.allclose(FDG(low=0.0).direction(chequered, 0 * chequered, GuidanceState()), chequered, atol=1e-6)


@by_name
def test_every_rule_gives_zero_difference_zero_guidance_except_for_its_length(rule):
    same = halves()[0]
    direction = rule.direction(same, same.clone(), GuidanceState(guidance_scale=W))
    assert direction.isfinite().all() and direction.abs().max() < 1e-5


@pytest.mark.parametrize(
    "make",
    [
        lambda: CFGRescale(rescale=1.1),
        lambda: CFGZeroStar(zero_steps=-1),
        lambda: CFGZeroStar(zero_steps=0.5),
        lambda: FDG(low=-0.1),
        lambda: FDG(low="0.1"),
        lambda: CFGRescale(rescale=None),
        lambda: CFGZeroStar(zero_steps="1"),
        lambda: APG(skip_above=1.5),
        lambda: FDG().direction(torch.ones(1, 16, 4), torch.ones(1, 16, 4), GuidanceState()),
    ],
)
def test_values_that_make_no_sense_are_refused_with_a_remedy(make):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.remedy


def call(pipe, seeds=(0,), **arguments):
    settings = {
        "prompt": ["a red dog"] * len(seeds),
        "guidance_scale": 7.5,
        "num_inference_steps": 4,
        "output_type": "latent",
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    return pipe(**settings | arguments).images


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(APGStableDiffusionPipeline)


@by_name
def test_every_rule_runs_in_a_pipeline_with_an_interval_and_figures(pipe, rule):
    recorded = type(rule)(record=True)
    first = call(pipe, guidance=recorded)
    assert len(pipe.guidance_record) == 4 and first.isfinite().all()
    assert torch.equal(call(pipe, guidance=type(rule)()), first)
    partly = call(pipe, guidance=type(rule)(interval=(0.0, 0.5)))
    assert partly.isfinite().all() and not torch.equal(partly, first)


def test_rescaling_as_a_rule_is_diffusers_own(pipe):
    stock = call(tiny_pipeline(StableDiffusionPipeline), guidance_rescale=0.7)
    assert (call(pipe, guidance=CFGRescale(0.7)) - stock).norm() <= 1e-5 * stock.norm()


@pytest.mark.parametrize(
    "name, first, sign",
    [
        ("StableDiffusionPipeline", 1, 1),
        ("Lumina2Pipeline", 0, -1),
        ("QwenImagePipeline", 0, 1),
        ("ZImagePipeline", 0, -1),
    ],
)
def test_a_rule_on_outputs_hands_its_formula_to_the_scheduler(name, first, sign, monkeypatch):
    """In every layout: the halves in one batch or list, or one after the other; `first` is the conditional one."""
    case = next(case for case in CASES if case.stock == name)
    pipe = case.pipeline(guided(case.stock_class))
    (module,) = denoisers(pipe)
    forward, step, halves, given = module.forward, pipe.scheduler.step, [], []

    def note(*args, **kwargs):
        output = forward(*args, **kwargs)
        halves.extend(half.clone() for half in output[0])
        return output

    def end(model_output, *args, **kwargs):
        given.append(model_output)
        return step(model_output, *args, **kwargs)

    monkeypatch.setattr(module, "forward", note)
    monkeypatch.setattr(pipe.scheduler, "step", functools.wraps(step)(end))
    case.draw(pipe, guidance=TCFG())
    c, u = (half.double() for half in (halves[first], halves[1 - first]))
    want = sign * tangential(c, u, case.w).reshape(given[0].shape)
    assert (given[0] - want).norm() < 1e-5 * want.norm()


def outputs(pipe, **arguments) -> list[int]:
    seen = []
    hook = pipe.unet.register_forward_hook(lambda module, args, output: seen.append(len(output[0])))
    try:
        result = call(pipe, **arguments)
    finally:
        hook.remove()
    return seen, result


@by_name
def test_guidance_ends_once_the_halves_agree(pipe, rule):
    seen, early = outputs(pipe, guidance=type(rule)(skip_above=-1.0))  # at once
    assert seen == [2, 1, 1, 1]
    assert torch.allclose(early, call(pipe, guidance=type(rule)(interval=(0.0, 0.1))), rtol=1e-4, atol=1e-4)
    seen, never = outputs(pipe, guidance=type(rule)(skip_above=1.0))
    assert seen == [2] * 4
    assert torch.allclose(never, call(pipe, guidance=type(rule)()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline", "QwenImagePipeline", "ZImagePipeline"])
def test_skipping_goes_by_sample_so_that_a_batch_is_its_samples(name):
    case = next(case for case in CASES if case.stock == name)
    pipe = case.pipeline(guided(case.stock_class))
    cosines = []

    class Watched(CFG):
        def skip_samples(self, conditional, unconditional, state):
            cosines.append(torch.cosine_similarity(conditional.flatten(1), unconditional.flatten(1)))
            super().skip_samples(conditional, unconditional, state)

    case.draw(pipe, (0, 1), guidance=Watched(skip_above=1.0))
    between = float(cosines[0].mean())  # one sample is above it at once, the other one not
    singles = [case.draw(pipe, (i,), guidance=APG(skip_above=between)) for i in (0, 1)]
    both = case.draw(pipe, (0, 1), guidance=APG(skip_above=between))
    assert (both - torch.cat(singles)).norm() < 1e-4 * both.norm()
    assert (both - case.draw(pipe, (0, 1), guidance=APG())).norm() > 1e-5 * both.norm()


def test_a_scale_that_changes_too_late_is_refused():
    case = next(case for case in CASES if case.stock == "CogVideoXPipeline")
    pipe = case.pipeline(guided(case.stock_class))
    with pytest.raises(UserError, match="use_dynamic_cfg"):
        case.draw(pipe, guidance=CFGRescale(), use_dynamic_cfg=True)
    assert case.draw(pipe, guidance=APG(), use_dynamic_cfg=True).isfinite().all()


def test_a_second_expert_has_its_own_scale():
    """Rescaling needs the scale: with a wrong one for the second expert it would not be the stock formula's."""
    case = next(case for case in CASES if case.variant == "2.2, both experts")
    pipe = case.pipeline(guided(case.stock_class))
    plain = case.draw(pipe, guidance=CFG(), guidance_scale_2=3.0)
    unscaled = case.draw(pipe, guidance=CFGRescale(rescale=0.0), guidance_scale_2=3.0)
    assert (plain - unscaled).norm() < 1e-5 * plain.norm()
