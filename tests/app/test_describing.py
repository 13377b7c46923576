"""Captions by a small real model, asked from the studio."""

from pathlib import Path

import pytest
from PIL import Image

from app.describing import captioner, describe
from pipelines.errors import UserError
from tests.tiny import CAPTION_WORDS, tiny_captioner


def test_a_captioning_model_is_found_among_other_folders(monkeypatch, tmp_path, project):
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path))
    assert captioner() is None
    (tmp_path / "models").mkdir()
    (tmp_path / "models/base").symlink_to(project.parent / "base")
    (tmp_path / "models/text").symlink_to(project.parent / "base/text_encoder")
    assert captioner() is None
    tiny_captioner(tmp_path / "models/words")
    assert captioner() == tmp_path / "models/words"


@pytest.mark.slow
def test_pictures_are_described_one_by_one_and_what_is_wrong_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = [tmp_path / "a.png", Path("b.png")]  # one of a data folder that is named from here
    for path in pictures:
        Image.new("RGB", (32, 32), "red").save(path)
    said = dict(describe(tiny_captioner(tmp_path / "words"), pictures, "{placeholder} style"))
    assert [*said] == pictures and not pictures[0].with_suffix(".txt").exists()
    for text in said.values():
        words, _, rest = text.partition(", ")
        assert {*words.split()} <= {*CAPTION_WORDS} and rest == "{placeholder} style"
    with pytest.raises(UserError, match="holds no captioning model that can be opened"):
        [*describe(tmp_path, pictures, "")]
