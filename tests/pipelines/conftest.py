"""What of the families' matrix `make test` runs, and what only `make test-all`."""

import pytest

from pipelines.families import FAMILIES
from tests.families.case import Case

FIRST = {next(iter(family.classes.values())) for family in FAMILIES}
OF_THE_FIRST = {
    "test_a_neutral_rule_is_the_stock_pipeline",
    "test_the_rule_equals_the_formulas_in_float64",
    "test_a_call_leaves_nothing_behind",
    "test_a_batch_is_its_samples_one_by_one",
    "test_outside_its_interval_a_step_is_the_conditional_one",
    "test_outside_its_interval_the_unconditional_half_is_not_computed",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A family's other tasks are held against the stock pipeline and the formulas; its first class goes through all."""
    for item in items:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if isinstance(case, Case) and item.originalname in OF_THE_FIRST and case.stock not in FIRST:
            item.add_marker(pytest.mark.slow)
