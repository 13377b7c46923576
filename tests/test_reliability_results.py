"""What docs say of reliability is what was measured."""

from benchmarks.reliability import summary


def test_the_table_of_reliability_is_that_of_the_result_file():
    text = summary.DOC.read_text(encoding="utf-8")
    assert summary.filled(text) == text
    assert all(what in text for _, what, _ in summary.ROWS.values())


def test_what_was_not_measured_is_open():
    text = summary.numbers()
    assert text.count(f"| {summary.OPEN} |") == len(summary.ROWS.keys() - summary.read().keys())
