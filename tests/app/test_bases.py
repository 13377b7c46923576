"""The list of bases, and the words that the embedded one knows."""

import json

import pytest

from app import bases
from app.form import ProjectForm
from app.library import Library
from tests.app.conftest import pictures_of


def test_the_list_has_what_is_here_and_what_was_used(library, config, tmp_path, monkeypatch):
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "models"
    for name in ("mine", "no-model"):
        (folder / name).mkdir(parents=True)
    (folder / "mine" / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    (folder / "one.safetensors").write_bytes(bytes(2_000_000))
    (folder / "notes.txt").write_text("x")
    pictures = pictures_of(config)
    library.create(config.model_copy(update={"base": "someone/used-before"}), pictures)

    offered = bases.offered(library, config)
    listed = list(offered)
    # What lies outside the house has its own name, and never a path.
    assert listed[:4] == ["base", "models/emoji-composing", "mine", "one.safetensors"]
    assert [offered[name] for name in ("base", "mine")] == [config.base, str(folder / "mine")]
    assert {"someone/used-before", "stable-diffusion-v1-5/stable-diffusion-v1-5"} <= set(listed)
    assert not any("no-model" in name or "notes" in name for name in listed)

    assert bases.about(str(folder / "mine")).startswith("Stable Diffusion XL, ")
    assert bases.about(str(folder / "one.safetensors")) == "one.safetensors holds no base model."
    assert "neither a diffusers folder" in bases.about(str(folder / "notes.txt"))
    assert "fetched from the hub" in bases.about("someone/used-before")
    known = "Stable Diffusion 1, predicts velocity, down to pure noise, made for 64 px, "
    assert bases.about("models/emoji").startswith(known)
    (folder / "mine" / "model_index.json").write_text("{")
    assert bases.about(str(folder / "mine")) == "mine holds no base model."


def test_two_bases_of_one_name_are_told_apart_and_a_spoiled_run_is_left_out(library, config, tmp_path, monkeypatch):
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path / "data"))
    other = tmp_path / "data" / "models" / "base"
    other.mkdir(parents=True)
    (other / "model_index.json").write_text("{}")
    library.create(config, pictures_of(config)).config.write_text("no project")
    offered = bases.offered(library, config)
    assert (offered["base"], offered["base (2)"]) == (config.base, str(other))
    form = ProjectForm(config, offered)
    assert form.start(config.preset)["base"] == "base"
    assert form.base("base (2)") == str(other) and form.base("/typed/by/hand") == "/typed/by/hand"


@pytest.mark.parametrize(
    "base, concept, word, said",
    [
        ("models/emoji", "content", "bear", ""),
        ("models/emoji", "style", " blueprint ", ""),
        ("models/emoji", "content", "koala", "was not taught 'koala'"),
        ("models/emoji", "style", "bear", "was not taught 'bear'"),
        ("models/emoji", "content", "", "Without a class word"),
        ("someone/elsewhere", "content", "koala", ""),
        ("", "content", "koala", ""),
    ],
)
def test_a_class_word_is_checked_where_the_words_are_known(base, concept, word, said):
    assert said in bases.unknown_word(base, concept, word)
    assert bool(said) == bool(bases.unknown_word(base, concept, word))


def test_the_words_are_those_that_the_embedded_base_was_taught(tmp_path):
    split = json.loads((bases.HOUSE / "training/base/split.json").read_text())
    known = bases.words(str(bases.EMBEDDED))
    assert set(known["content"]) == set(split["contents"]) and not set(known["content"]) & set(
        split["held_out_contents"]
    )
    assert bases.words("models/judge") == {} and Library(tmp_path).runs() == []
