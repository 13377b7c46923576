"""Every family, task and scheduler as a tiny real pipeline: the rule's result is the formulas' own."""

import pytest

from pipelines import APG, CFG, guided
from tests.families import CASES
from tests.families.case import denoisers, marks
from tests.pipelines.stepwise import RULE, Sampler, far


@pytest.mark.parametrize(
    "case, scheduler",
    [
        pytest.param(case, scheduler, id=f"{case.name} {scheduler}", marks=marks(case))
        for case in CASES
        for scheduler in case.schedulers
    ],
)
def test_the_rule_equals_the_formulas_in_float64(case, scheduler):
    if case.needs:
        pytest.importorskip(case.needs)
    stock, pipe = (case.pipeline(cls, scheduler) for cls in (case.stock_class, guided(case.stock_class)))
    got, plain = case.draw(pipe, guidance=APG(**RULE)), case.draw(pipe, guidance=CFG())
    sampler = Sampler(stock, case.w, **RULE, added=case.added, renormalised=case.renormalised)
    with sampler.at_work(denoisers(stock)):
        want = case.draw(stock)
    assert len(sampler.layouts) == 1  # in one order, with one sign, at every step
    assert far(got, want) < min(1e-4, 0.01 * far(got, plain))
