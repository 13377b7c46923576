"""Which word of those that a base knows is nearest to some pictures."""

import json

import pytest

from pipelines import UserError
from tests.training.test_command_line import call
from training import Customization
from training.nearest import nearest


def test_words_come_by_how_well_the_base_denoises_the_pictures_under_them(config):
    words = ["noto", "sepia", "blob", "noto"]
    found = nearest(config, "style", words)
    assert sorted(word for word, _ in found) == ["blob", "noto", "sepia"]
    assert [error for _, error in found] == sorted(error for _, error in found) and found == nearest(
        config, "style", words
    )
    assert {word for word, _ in nearest(config, "content")} == {*config.others.contents}
    # The word that stands in the project does not matter.
    data = config.model_dump(by_alias=True)
    data["style"]["class_word"], data["style"]["placeholder"] = "blob", "qqq"
    assert nearest(Customization(**data), "style", words) == found


def test_what_is_missing_is_a_sentence(config):
    config.style = None
    with pytest.raises(UserError, match="The project has no style"):
        nearest(config, "style", ["a"])


def test_the_command_line_says_them(config, project, monkeypatch, capsys):
    assert call(monkeypatch, "words", project, "style", "noto", "sepia") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert {line.split()[1] for line in lines[-2:]} == {"noto", "sepia"}
    assert call(monkeypatch, "words", project, "style", "noto", "--json") == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])[0][0] == "noto"
