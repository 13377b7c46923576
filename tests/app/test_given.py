"""Pictures as they are given: what comes in with them, and what a card changes."""

import pytest

from app.cards import cards
from app.checks import Finding, check
from app.given import Given, added
from app.pages.concept import edited


def files(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text(f"words of {name}")
    return [tmp_path / name for name in names]


def test_captions_come_from_text_files_or_from_names_that_are_words(tmp_path):
    given = files(tmp_path, "b.png", "b.txt", "red-car-2.jpg", "IMG_0042.png", "img.png", "x3f.png", "Thumbs.db")
    pictures, left_out = added([], given, "{placeholder} style")
    assert {one.path.name: one.caption for one in pictures} == {
        "b.png": "words of b.txt",
        "red-car-2.jpg": "red car, {placeholder} style",
        "IMG_0042.png": None,
        "img.png": None,
        "x3f.png": None,
    }
    assert left_out == {}
    assert added([], given[2:3], "{placeholder} dog")[0][0].caption == "{placeholder} dog, red car"
    assert added([], given[2:3], "{file_name}, {placeholder} style")[0][0].caption is None


def test_a_text_may_come_later_and_what_is_no_picture_is_named(tmp_path):
    picture, text, stray, drawing = files(tmp_path, "a.png", "a.txt", "b.txt", "c.svg")
    bad = tmp_path / "a.b.txt"
    bad.write_bytes(b"K\xf6ln")
    before = [Given(picture, "old", 0.25)]
    pictures, left_out = added(before, [text, stray, drawing, bad], "x")
    assert pictures == [Given(picture, "words of a.txt", 0.25)]
    assert {path.name: why.split(";")[0] for path, why in left_out.items()} == {
        "b.txt": "no picture there has this name",
        "c.svg": "a drawing of lines, not of pixels",
        "a.b.txt": "it cannot be read",
    }


def test_a_mask_goes_with_the_picture_of_its_name_whenever_it_comes(tmp_path):
    first, second, mask, late, stray = files(tmp_path, "a.png", "b.png", "a.mask.png", "b.mask.png", "c.mask.png")
    pictures, left_out = added([], [mask, first, second, stray], "x")
    assert [one.mask for one in pictures] == [mask, None]
    assert left_out == {stray: "a mask, and no picture there has this name"}
    pictures, left_out = added(pictures, [late], "x")
    assert ([one.mask for one in pictures], left_out) == ([mask, late], {})


def test_what_a_card_sends_changes_one_picture(tmp_path):
    before = [Given(tmp_path / "a.png"), Given(tmp_path / "b.png", "b", mask=tmp_path / "b.mask.png")]
    card = {"number": "1", "name": "b.png"}
    assert edited(before, card | {"caption": " a\n dog "})[1].caption == "a dog"
    assert edited(before, card | {"caption": " "})[1].caption is None
    assert edited(before, card | {"crop": 0})[1].crop == 0
    assert edited(before, card | {"mask": False}) == [before[0], Given(tmp_path / "b.png", "b")]
    assert edited(before, card | {"remove": True}) == before[:1]


@pytest.mark.parametrize(
    "sent",
    [
        None,
        {},
        {"number": "1", "name": "a.png", "remove": True},  # another page has removed one before it
        {"number": "2", "name": "b.png", "remove": True},
        {"number": "-1", "name": "b.png", "remove": True},
        {"number": "1", "name": "b.png", "crop": 1.5},
        {"number": "1", "name": "b.png", "crop": float("nan")},
        {"number": "1", "name": "b.png", "caption": ["x"]},
        {"number": "1", "name": "b.png", "path": "/etc/hostname"},
    ],
)
def test_what_no_card_sends_changes_nothing(tmp_path, sent):
    before = [Given(tmp_path / "a.png"), Given(tmp_path / "b.png", "b")]
    assert edited(before, sent) == before


def test_a_card_escapes_all_that_comes_from_outside(tmp_path):
    evil = '"><script>x</script>'
    given = Given(tmp_path / f"{evil.replace('/', '')}.png", f"{evil} sks")
    html = cards([(given, None, None)], [Finding(evil, True, 0)], evil, {"placeholder": "sks", "class_word": evil})
    assert "<script" not in html and "<mark>sks</mark>" in html and "<img" not in html


def test_a_picture_of_a_name_that_none_can_have_is_a_finding(tmp_path):
    for name in ("x" * 5000, "a\0b"):
        [finding, *_] = check("content", [Given(tmp_path / name)], 64)
        assert finding.blocks and "does not exist" in finding.text
