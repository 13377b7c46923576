"""Captions by a small real model of each kind: one that captions without being asked, one that answers."""

from pathlib import Path

import pytest
from PIL import Image

from pipelines import UserError
from tests.tiny import CAPTION_WORDS, tiny_captioner
from tests.training.test_command_line import call
from training.captioner import Captioner


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    return tiny_captioner(tmp_path_factory.mktemp("blip"))


def test_a_picture_is_described_in_words_that_the_model_has_the_same_each_time(blip):
    describe = Captioner(blip)
    said = describe(Image.linear_gradient("L").convert("RGB"))
    assert said and {*said.split()} <= {*CAPTION_WORDS} and said == describe(Image.linear_gradient("L").convert("RGB"))


def test_a_folder_is_captioned_and_captions_that_there_are_stay(blip, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    (tmp_path / "a.txt").write_text("mine")
    assert call(monkeypatch, "caption", tmp_path, "--model", blip, "--caption", "{placeholder} style") == 0
    assert (tmp_path / "a.txt").read_text() == "mine"
    words, _, rest = (tmp_path / "b.txt").read_text().partition(", ")
    assert {*words.split()} <= {*CAPTION_WORDS} and rest == "{placeholder} style"


def test_what_is_no_captioning_model_is_one_sentence(tmp_path, base):
    with pytest.raises(UserError, match="holds no captioning model that can be opened"):
        Captioner(tmp_path)
    with pytest.raises(UserError, match="holds no captioning model that can be opened"):
        Captioner(base / "text_encoder")
