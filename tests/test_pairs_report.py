"""What README and docs say of cells follows from the lines of results/cells.jsonl."""

from benchmarks.common.document import put
from benchmarks.pairs.cells import Cell, cells
from benchmarks.pairs.report import by_cell, cells_table, line
from benchmarks.pairs.run import lines
from training.config import HOUSE


def scored(cell: Cell, share: float, **more) -> dict:
    said = {"content": share, "style": 1.0, "harmonic": share, "frontier": share, "kept": 0.5}
    row = {"method": "joined", "changes": [], "content": cell.content, "style": cell.style, "seed": 0, "scales": 7}
    return row | {"judge": said, "judge-2": said | {"content": 0.25}} | more


def test_only_what_the_shipped_defaults_have_drawn_counts():
    first, second, third = cells("development")[:3]
    test = cells("test")[0]
    found = [
        scored(second, 0.5),
        scored(first, 1.0),
        scored(third, 1.0, changes=["steps.break=1"]),
        scored(third, 1.0, method="ours"),
        scored(third, 1.0, seed=1),
        scored(test, 1.0),
    ]
    assert [*by_cell(found)] == [first, second]
    assert "0.75 of the content and 1.00 of the style, and 0.25 of the content" in line([*by_cell(found).values()])
    *rows, mean = cells_table(by_cell(found)).splitlines()
    assert (
        rows[2]
        == f"| {first.content} in {first.style} | 1.00 / 0.25 | 1.00 / 1.00 | 1.00 / 1.00 | 1.00 / 1.00 | 0.50 / 0.50 |"
    )
    assert mean.startswith("| **mean of 2** | 0.75 (0.50 to 1.00) / 0.25 (0.25 to 0.25) |")


def test_a_table_has_frontiers_once_all_of_its_cells_were_drawn_at_all_scales():
    first, second = cells("development")[:2]
    some = {first: scored(first, 1.0), second: scored(second, 0.5, scales=1)}
    assert "frontier" not in cells_table(some) and "frontier" in cells_table({first: some[first]})


def test_the_table_in_the_document_is_that_of_the_lines():
    text = (HOUSE / "docs/break-for-make.md").read_text(encoding="utf-8")
    assert put(text, cells=cells_table(by_cell(lines()))) == text
