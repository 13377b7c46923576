"""The calculation of docs/scale.md."""

from benchmarks.scale import table


def test_the_document_shows_the_numbers_of_its_file():
    text = table.DOC.read_text(encoding="utf-8")
    assert table.filled(text) == text


def test_a_hundred_designers_take_a_hundred_times_what_one_does():
    found = {"run_seconds": 3600, "run_bytes": 1e7, "picture_seconds": 0.36, "picture_bytes": 1e4}
    found |= {"page_bytes": 1e6, "page_again_bytes": 1e5}
    said = table.hundred(found)
    assert "| training, 200 runs | 200.0 hours of one core: 25.0 cores at work |" in said
    assert "| drawing, 10000 pictures | 1.0 hours of one core |" in said
    assert "| network, pages and pictures | 240.0 MB |" in said  # 100 + 100 (1 + 4 x .1)
    assert "| disk, if all is kept for 3 months | 132.3 GB |" in said  # 63 days of 2 GB and .1 GB
