"""Every family and task as a tiny real pipeline: the stock result in all but the rule, nothing left behind."""

from importlib.util import find_spec

import diffusers
import pytest
import torch

from pipelines import APG, CFG, UserError, guided
from pipelines.families import FAMILIES, REFUSED
from tests.families import CASES
from tests.families.case import denoisers, marks
from tests.pipelines.stepwise import RULE, far


@pytest.fixture(scope="module", params=[pytest.param(case, id=case.name, marks=marks(case)) for case in CASES])
def case(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(case):
    if case.needs:
        pytest.importorskip(case.needs)
    return case.pipeline(guided(case.stock_class))


@pytest.fixture(scope="module")
def drawn(case, pipe):
    return case.draw(pipe, guidance=APG(**RULE))


def test_a_neutral_rule_is_the_stock_pipeline(case, pipe):
    stock = case.draw(case.pipeline())
    assert torch.equal(case.draw(pipe, guidance=CFG()), stock)
    assert torch.equal(case.draw(pipe, guidance=APG(eta=1, norm_threshold=None, momentum=0)), stock)
    if not case.renormalised:
        through_the_hook = case.draw(pipe, guidance=APG(eta=1, norm_threshold=1e9, momentum=0))
        assert far(through_the_hook, stock) < 2e-5


def test_a_call_leaves_nothing_behind(case, pipe, drawn, monkeypatch):
    """Neither a direction nor a hook, also where it ends in an exception."""

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as broken:
        broken.setattr(pipe.scheduler, "step", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            case.draw(pipe, guidance=APG(**RULE, interval=(0.0, 0.9)))
    for module in denoisers(pipe):
        assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
    assert torch.equal(case.draw(pipe, guidance=APG(**RULE)), drawn)


def test_a_batch_is_its_samples_one_by_one(case, pipe, drawn):
    if case.alone:
        pytest.skip("diffusers takes one at a time")
    other = case.draw(pipe, (1,), guidance=APG(**RULE))
    both = case.draw(pipe, (0, 1), guidance=APG(**RULE))
    assert far(both[:1], drawn) < 1e-4 and far(both[1:], other) < 1e-4
    assert far(drawn, other) > 1e-2


def test_outside_its_interval_a_step_is_the_conditional_one(case, pipe):
    if case.no_unguided:
        pytest.skip(case.no_unguided)
    never = case.draw(pipe, guidance=APG(interval=(0.99, 1.0)))
    (name,) = case.scale
    unguided = case.draw(pipe, **{name: case.scale[name] - case.w + 1})
    assert far(never, unguided) < 1e-4


def test_outside_its_interval_the_unconditional_half_is_not_computed(case, pipe, monkeypatch):
    seen, step = [], pipe.scheduler.step

    def counted(forward):
        def count(*args, **kwargs):
            output = forward(*args, **kwargs)
            seen[-1] += len(output[0])
            return output

        return count

    def next_step(*args, **kwargs):
        seen.append(0)
        return step(*args, **kwargs)

    for module in denoisers(pipe):
        monkeypatch.setattr(module, "forward", counted(module.forward))
    monkeypatch.setattr(pipe.scheduler, "step", next_step)
    for rule in (APG(), APG(interval=(0.0, 0.4))):
        seen.append(0)
        case.draw(pipe, guidance=rule)
    whole, partly = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert partly[0] == whole[0]
    # Perturbed attention needs its three parts together.
    assert whole[-2] - partly[-2] == (0 if "PAG" in case.stock else 1)


def test_every_class_of_every_family_is_on_trial():
    carried = [name for family in FAMILIES for name in family.classes.values()]
    assert len(set(carried)) == len(carried) and not set(carried) & REFUSED.keys()
    assert {case.stock for case in CASES} == set(carried)


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_cannot_carry_a_rule_is_refused_with_the_reason(name):
    with pytest.raises(UserError) as error:
        guided(getattr(diffusers, name))
    assert REFUSED[name] in str(error.value)


def test_a_latent_with_noise_levels_of_its_own_is_refused():
    """Wan 2.2 of 5B parameters holds the first frame still, and tells the network so for each token."""
    case = next(case for case in CASES if case.stock == "WanImageToVideoPipeline")
    pipe = case.pipeline(guided(case.stock_class))
    pipe.register_to_config(expand_timesteps=True)
    pipe.transformer = next(case for case in CASES if case.stock == "WanPipeline").pipeline().transformer
    assert case.draw(pipe, guidance=CFG()).isfinite().all()
    with pytest.raises(UserError, match="noise levels of their own"):
        case.draw(pipe)


def test_halves_in_two_calls_need_a_scheduler_that_knows_its_place():
    case = next(case for case in CASES if case.stock == "CogView4Pipeline")
    pipe = case.pipeline(guided(case.stock_class), "DDIM")
    with pytest.raises(UserError, match="DDIMScheduler does not tell"):
        case.draw(pipe)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="then diffusers has Kolors")
def test_a_class_whose_package_is_missing_is_refused_with_what_it_needs():
    with pytest.raises(UserError, match=r"KolorsPipeline needs .*sentencepiece"):
        guided(diffusers.KolorsPipeline)
