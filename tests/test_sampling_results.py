"""What docs say of the cost of guidance is what was measured."""

from benchmarks.sampling import tables


def test_the_tables_of_costs_are_those_of_the_result_file():
    text = tables.DOC.read_text(encoding="utf-8")
    assert all(f"<!-- {name}: {side} -->" in text for name in tables.TABLES for side in ("begin", "end"))
    assert tables.filled(text) == text


def test_no_memory_beside_the_running_direction():
    found = [row for row in tables.read().values() if "memory" in row]
    assert found
    for row in found:
        for rule, more in row["memory"]["above stock"].items():
            assert more <= (row["memory"]["latent"] if rule.startswith("APG") else 0)
