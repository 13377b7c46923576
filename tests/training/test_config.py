import pytest

from pipelines import UserError
from training.config import PRESETS, Adapter, Customization
from training.optimizers.settings import OPTIMIZERS

OK = {"content": {"pictures": "c"}, "style": {"pictures": ["s/a.png", "s/b.png"]}}

FAULTS = {
    "adapter.rank is 0. Set it to a whole number, at least 2, at most 512": {"adapter": {"rank": 0}},
    "adapter.rank is 3. Set it to .* a multiple of 2": {"adapter": {"rank": 3}},
    "adapter.rnk is not a key .* rank": {"adapter": {"rnk": 4}},
    "colour is not a key": {"colour": 1},
    "adamw is not a key": {"adamw": {"lr": 1}},
    "optimizer.lr is 'fast'. Set it to a number, more than 0, at most 1": {"optimizer": {"lr": "fast"}},
    "optimizer.name is 'sgdd'. Set it to one of": {"optimizer": {"name": "sgdd"}},
    "optimizer is 3. Set it to a table": {"optimizer": 3},
    "optimizer.bits is not a key .* eps": {"optimizer": {"name": "adamw", "bits": 8}},
    "optimizer.bits is 4. Set it to one of 8 or 32": {"optimizer": {"name": "gradnorm-lorp", "bits": 4}},
    "optimizer.update_proj_gap is 0. Set it to a whole": {"optimizer": {"name": "gradnorm-lorp", "update_proj_gap": 0}},
    "adapter.layers is 'some'. Set it to one of 'cross-attention'": {"adapter": {"layers": "some"}},
    "steps.break is 0. Set it to a whole number, at least 1": {"steps": {"break": 0}},
    "adapter is 3. Set it to a table": {"adapter": 3},
    "preset is 'x'. Set it to one of 'emoji'": {"preset": "x"},
    "content.pictures is .*. Set it to a folder": {"content": {"pictures": []}},
    "content.pictures is missing": {"content": {}},
    "content.placeholder is 'a b'. Set it to one word": {"content": {"pictures": "c", "placeholder": "a b"}},
    "are both 'zwx'. Give them two": {"content": {"pictures": "c", "placeholder": "zwx"}},
    "content and style are both missing": {"content": None, "style": None},
    r"noise is \[0.5, 0.5\]. Give a lower and a higher share": {"content": {"pictures": "c", "noise": [0.5, 0.5]}},
    "content.noise.1 is 1.5": {"content": {"pictures": "c", "noise": [0.5, 1.5]}},
    "resolution is 60. Set it to .* a multiple of 8": {"resolution": 60},
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_name_the_key_and_what_is_allowed(message):
    with pytest.raises(UserError, match=message):
        Customization(**OK | FAULTS[message])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_what_is_not_given(preset):
    config = Customization(**OK, preset=preset, adapter={"layers": "cross-attention"}, steps={"break": 7})
    assert config.steps.break_ == 7 and config.adapter.layers == "cross-attention"
    expected = PRESETS[preset].get("adapter", {}).get("rank", Adapter().rank)
    assert config.adapter.rank == expected


def test_saved_and_loaded_are_equal_and_relative_to_the_file(project, tmp_path):
    config = Customization.load(project)
    assert config.content.pictures == [tmp_path / "content"]
    (tmp_path / "run").mkdir()
    config.save(tmp_path / "run" / "config.toml")
    assert '"../content"' in (tmp_path / "run" / "config.toml").read_text()
    again = Customization.load(tmp_path / "run" / "config.toml")
    assert again.content.pictures[0].resolve() == config.content.pictures[0]
    assert again.model_dump(exclude={"content", "style", "base"}) == config.model_dump(
        exclude={"content", "style", "base"}
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_chosen_by_name_and_saved(tmp_path, name):
    config = Customization(**OK, optimizer={"name": name, "lr": 0.5})
    config.save(tmp_path / "config.toml")
    assert type(Customization.load(tmp_path / "config.toml").optimizer) is OPTIMIZERS[name]
    assert type(config.optimizer) is OPTIMIZERS[name] and config.optimizer.lr == 0.5


@pytest.mark.parametrize("text", ["[content", "a = 1\na = 2", "\udcff"])
def test_files_that_are_not_toml_are_refused(tmp_path, text):
    (tmp_path / "p.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match="not valid TOML"):
        Customization.load(tmp_path / "p.toml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        Customization.load(tmp_path / "none.toml")
