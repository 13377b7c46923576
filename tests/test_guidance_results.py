"""What docs say of guidance is what was measured."""

import json

from benchmarks.guidance import report


def test_the_tables_of_guidance_and_its_summary_are_those_of_the_result_file():
    text, found = report.DOC.read_text(encoding="utf-8"), json.loads(report.RESULT.read_text(encoding="utf-8"))
    assert all(f"<!-- {name}: {side} -->" in text for name in report.TABLES for side in ("begin", "end"))
    assert report.filled(text, found) == text
    assert json.loads(report.SUMMARY.read_text(encoding="utf-8")) == report.summary(found)
