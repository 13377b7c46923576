"""A project file in words, and the page of all its keys."""

import re
import tomllib

import pytest

from pipelines import UserError
from training.__main__ import main
from training.config import PRESETS, Customization
from training.optimizers.settings import OPTIMIZERS
from training.project_file import GIVEN, PAGE, keys, new, page, template


@pytest.mark.parametrize("preset", PRESETS)
def test_a_new_project_is_the_presets_defaults_with_its_comments_and_without(preset):
    text, expected = template(preset), Customization(**GIVEN, preset=preset)
    assert Customization(**tomllib.loads(text)) == expected
    bare = re.sub(r"^#(?=\w+ = )", "", text, flags=re.M)
    assert bare != text and Customization(**tomllib.loads(bare)) == expected
    written = tomllib.loads(bare)
    every = expected.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert {k: v.keys() if isinstance(v, dict) else v for k, v in written.items()} == {
        k: v.keys() if isinstance(v, dict) else v for k, v in every.items()
    }
    assert max(map(len, text.splitlines())) <= 140


def test_a_new_project_is_written_once_and_can_be_loaded(tmp_path):
    file = tmp_path / "project.toml"
    new(file, "sdxl")
    config = Customization.load(file)
    assert config.resolution == 1024 and config.content.pictures == [tmp_path / "content"]
    with pytest.raises(UserError, match=r"project\.toml exists already"):
        new(file)
    with pytest.raises(UserError, match=r"cannot be written .* Name a file in a folder that exists"):
        new(tmp_path / "none" / "project.toml")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_command_line_knows_every_preset(tmp_path, monkeypatch, preset):
    monkeypatch.setattr("sys.argv", ["training", "new", str(tmp_path / "project.toml"), "--preset", preset])
    assert main() == 0
    assert tomllib.loads((tmp_path / "project.toml").read_text()).get("preset", "emoji") == preset


def test_the_page_of_all_keys_is_made_from_the_models():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m training.project_file"


def test_the_page_has_every_key_with_its_meaning():
    text = page()
    for model in (Customization, *OPTIMIZERS.values()):
        for key, field in keys(model):
            assert f"| `{key}` |" in text or key == "name", key
            assert field.description or key == "name", key
    assert not re.search(r"\|\s*\|$|None \|", text.split("## What the presets set")[0], re.M)
