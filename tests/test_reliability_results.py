"""What docs say of reliability is what was measured."""

import os

from benchmarks.reliability import summary
from benchmarks.reliability.hostile import Watch


def test_the_table_of_reliability_is_that_of_the_result_file():
    text = summary.DOC.read_text(encoding="utf-8")
    assert summary.filled(text) == text
    assert all(what in text for _, what, _ in summary.ROWS.values())


def test_what_was_not_measured_is_open():
    text = summary.numbers()
    assert text.count(f"| {summary.OPEN} |") == len(summary.ROWS.keys() - summary.read().keys())


def test_what_is_written_outside_a_folder_is_seen_and_nothing_else(tmp_path):
    here, outside = tmp_path / "here", tmp_path / "outside"
    here.mkdir()
    (here / "out").symlink_to(tmp_path)
    watch = Watch(here)
    watch("os.symlink", (outside, here / "link", -1))  # a link that leads out lies in the folder all the same
    watch("os.rename", (here / "a", here / "b", -1, -1))
    watch("os.mkdir", (here, 0o777, -1))
    watch("open", (outside, "r", os.O_RDONLY))
    assert watch.seen == []
    for event, args in (
        ("os.symlink", (here / "a", outside, -1)),
        ("os.rename", (here / "a", outside, -1, -1)),
        ("os.rename", (outside, here / "a", -1, -1)),
        ("os.mkdir", (tmp_path / "here-too", 0o777, -1)),
        ("os.remove", (here / "out/a", -1)),
        ("open", (outside, "w", os.O_WRONLY | os.O_CREAT)),
        ("socket.connect", (None, ("127.0.0.1", 1))),
    ):
        watch.seen.clear()
        watch(event, args)
        assert len(watch.seen) == 1, event
