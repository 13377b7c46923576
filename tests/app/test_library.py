"""Runs on disk, and the checks before one is made."""

import os

import pytest
from PIL import Image

from app.checks import check
from app.given import Given
from app.library import Library
from pipelines.errors import UserError
from tests.app.conftest import pictures_of
from training import Customization, Run
from training.config import HOUSE
from training.formats import find_pictures
from training.run import _read_state


def test_a_new_run_holds_everything_it_needs(library, config):
    pictures = pictures_of(config)
    first, mask = pictures["content"][0].path, config.content.pictures[0].parent / "its.mask.png"
    Image.new("L", Image.open(first).size, 255).save(mask)
    pictures["content"][0] = Given(first, "a {placeholder} of its own", 0.25, mask)
    run = library.create(config, pictures)
    assert run.folder.name == "red-on-blue"
    stored = Customization.load(run.config)
    for concept in (stored.content, stored.style):
        for path in (*concept.pictures, *concept.others):
            assert path.resolve().is_relative_to(run.folder.resolve())
            assert len(find_pictures([path])) == 3
    assert (run.folder / "pictures/content/01-picture-0.txt").read_text() == "a {placeholder} of its own"
    assert stored.content.crops == {"01-picture-0.png": 0.25} and stored.style.crops == {}
    assert (run.folder / "pictures/content/01-picture-0.mask.png").read_bytes() == mask.read_bytes()
    assert stored.steps == config.steps and stored.content.class_word == "koala"


def test_a_state_that_rests_is_read_once_and_again_when_it_has_changed(tmp_path):
    run, read = Run(tmp_path), _read_state.cache_info
    run.write_state(step=1)
    assert run.read_state()["step"] == 1 and run.read_state()["step"] == 1
    before = read()
    os.utime(run.state, (5, 5))
    for _ in range(3):
        run.read_state()["step"] = 7  # a reader's own
    assert run.read_state()["step"] == 1
    assert (read().misses - before.misses, read().hits - before.hits) == (1, 3)
    run.write_state(step=2)
    assert run.read_state()["step"] == 2
    os.utime(run.state, (5, 5))  # as a clock would have it that stands still
    assert run.read_state()["step"] == 2
    run.state.unlink()
    assert run.read_state() == {}


def test_others_keep_their_captions_and_nothing_else_is_copied(library, config):
    """Of a folder and of single files."""
    folder = config.style.others[0]
    stray = folder / "gone.png.part"
    stray.symlink_to(folder / "nowhere")
    caption = folder / "picture-1.txt"
    caption.write_text("\ufeffa fox, noto style")
    try:
        config.content.others = [folder / "picture-1.png"]
        run = library.create(config, pictures_of(config))
    finally:
        stray.unlink()
        caption.unlink()
    for place, count in (("other-styles", 3), ("other-contents", 1)):
        copied = run.folder / "pictures" / place
        assert len(list(copied.glob("*.png"))) == count and len(list(copied.iterdir())) == count + 1
        assert (copied / "picture-1.txt").read_text() == "a fox, noto style"


def test_names_never_collide_and_never_leave_the_folder(library, config):
    for name, expected in (("a b", "a-b"), ("A  b!", "a-b-2"), ("!!", "run"), ("...", "run-2"), ("Köln", "köln")):
        config.name = name
        assert library.create(config, pictures_of(config)).folder == library.folder / expected
    assert len(library.runs()) == 5 and library.runs()[0].folder.name == "köln"
    (library.folder / "base").mkdir()  # not a run
    assert len(library.runs()) == 5
    for name in ("base", "../runs/a-b", "", "nothing"):
        with pytest.raises(UserError, match="There is no run"):
            library.find(name)
    assert library.find("a-b") == Run(library.folder / "a-b")


def test_finished_runs_and_their_pace(finished, config):
    library = Library(finished.folder.parent)
    assert library.finished() == [finished]
    config.steps.break_, config.steps.make = 100, 0
    seconds = library.estimate(config)
    assert seconds > 0
    config.steps.break_ = 200
    assert library.estimate(config) == pytest.approx(2 * seconds)
    config.resolution = 64
    assert library.estimate(config) is None  # no run like it


def test_pictures_are_judged_in_words(tmp_path):
    paths = {}
    for name, size, colour in (("one", 64, "red"), ("two", 64, "red"), ("small", 20, "blue"), ("tiny", 8, "blue")):
        paths[name] = tmp_path / f"{name}.png"
        picture = Image.new("RGB", (size, size), colour)
        picture.paste("white", (4, 4, 8, 8))
        picture.save(paths[name])
    paths["broken"] = tmp_path / "broken.png"
    paths["broken"].write_bytes(paths["one"].read_bytes()[:60])

    findings = check("content", [Given(path) for path in paths.values()], 64)
    assert [finding.blocks for finding in findings] == [False, False, True, True, False]
    assert [finding.number for finding in findings] == [1, 2, 3, 4, None]
    same, small, tiny, broken, few = (finding.text for finding in findings)
    assert same.startswith("two.png and one.png are the same picture")
    assert small == "small.png: enlarged more than twice, to 64 pixels."
    assert tiny.startswith("tiny.png is 8 x 8 pixels") and broken.startswith("broken.png cannot be opened")
    assert few.startswith("Only 2 pictures of the content")
    assert str(tmp_path) not in "".join(finding.text for finding in findings)
    (missing,) = check("style", [], 64)
    assert not missing.blocks and "content will be learned alone" in missing.text
    assert check("style", [Given(paths["one"])], 64) == []


def test_pictures_that_hardly_differ_are_named(tmp_path):
    samples = sorted((HOUSE / "samples/content").glob("*.png"))
    given = [Given(path) for path in samples]
    assert check("content", given, 64) == []
    with Image.open(samples[0]) as image:
        image.convert("RGB").point(lambda level: level * 0.9).save(tmp_path / "darker.jpg")
    (alike,) = check("content", [*given, Given(tmp_path / "darker.jpg")], 64)
    assert alike.text.startswith(f"darker.jpg: nearly the same picture as {samples[0].name}") and alike.number == 5
    # Two squares of one picture are two pictures.
    wide = Image.effect_noise((128, 64), 90).convert("RGB")
    wide.save(tmp_path / "wide.png")
    halves = [Given(tmp_path / "wide.png", None, place) for place in (0.0, 1.0, 0.5)]
    assert not any("same" in finding.text for finding in check("style", halves, 64))


def test_a_mask_that_does_not_fit_its_picture_is_named(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    Image.new("L", (64, 32), "white").save(tmp_path / "a.mask.png")
    (found,) = check("style", [Given(tmp_path / "a.png", mask=tmp_path / "a.mask.png")], 64)
    assert found.blocks and found.number == 0
    assert found.text.startswith("The mask a.mask.png is 64 x 32 pixels, and its picture 64 x 64")
