"""The documentation's table of families is the one that the tests make."""

from tests.pipelines.table import END, PAGE, START, planned, render


def test_the_table_of_families_is_up_to_date():
    written = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert written == render(planned()), "python -m tests.pipelines.table writes it"


def test_what_has_not_passed_is_not_in_the_table():
    some = planned() - {("FluxPipeline", "flow Euler")}
    assert render(some) != render(planned())
