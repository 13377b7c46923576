"""What docs say of the base is what was measured."""

from benchmarks.base import tables


def test_the_tables_of_the_base_are_those_of_the_result_files():
    text = tables.DOC.read_text(encoding="utf-8")
    assert all(f"<!-- {name}: {side} -->" in text for name in tables.TABLES for side in ("begin", "end"))
    assert tables.filled(text) == text
