"""What docs say of the optimizers is what was measured."""

import json

from benchmarks.optimizers import report


def test_the_tables_of_optimizers_and_their_summary_are_those_of_the_result_files():
    text = report.DOC.read_text(encoding="utf-8")
    assert report.filled(text) == text
    assert json.loads(report.SUMMARY.read_text(encoding="utf-8")) == report.summary()
