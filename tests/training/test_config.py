import json
import os
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from pipelines import UserError, guidance
from training.adapters import METHODS
from training.config import HOUSE, PRESETS, AdapterSettings, Customization
from training.memory import BUDGETS, ROWS
from training.optimizers.settings import OPTIMIZERS
from training.run import Run, decisive

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
    "optimizer.magnitude_lr is 5. Set it to a number, more than 0, at most 1, or one of 'lr' or 'row'": {
        "optimizer": {"name": "gradnorm-lorp", "magnitude_lr": 5}
    },
    "optimizer.stagger is 'often'. Set it to true or false": {"optimizer": {"name": "owlore", "stagger": "often"}},
    "optimizer.bits is not a key .* eps": {"optimizer": {"name": "adamw", "bits": 8}},
    "optimizer.bits is 4. Set it to one of 8 or 32": {"optimizer": {"name": "gradnorm-lorp", "bits": 4}},
    "optimizer.update_proj_gap is 0. Set it to a whole": {"optimizer": {"name": "gradnorm-lorp", "update_proj_gap": 0}},
    "adapter.layers is 'some'. Set it to one of 'cross-attention'": {"adapter": {"layers": "some"}},
    "steps.break is 0. Set it to a whole number, at least 1": {"steps": {"break": 0}},
    "adapter is 3. Set it to a table": {"adapter": 3},
    "preset is 'x'. Set it to one of 'emoji'": {"preset": "x"},
    "memory is 10. Set it to one of 8, 12, 16, 24, 48, 'cpu' or 'auto'": {"preset": "sdxl", "memory": 10},
    r"memory is \[8\]. Set it to one of 8": {"preset": "sdxl", "memory": [8]},
    "memory is 'much'": {"memory": "much"},
    "adapter is 4. Set it to a table": {"preset": "sd15", "memory": 8, "adapter": 4},
    "content.pictures is .*. Set it to a folder": {"content": {"pictures": []}},
    "content.pictures is missing": {"content": {}},
    "content.placeholder is 'a b'. Set it to one word": {"content": {"pictures": "c", "placeholder": "a b"}},
    "are both 'zwx'. Give them two": {"content": {"pictures": "c", "placeholder": "zwx"}},
    "content and style are both missing": {"content": None, "style": None},
    r"noise is \[0.5, 0.5\]. Give a lower and a higher share": {"content": {"pictures": "c", "noise": [0.5, 0.5]}},
    "content.noise holds 1.5": {"content": {"pictures": "c", "noise": [0.5, 1.5]}},
    r"name is '\.\.'. Name the run by": {"name": ".."},
    r"name is '\.'. Name the run by": {"name": "."},
    "name is 'a/b'. Name the run by": {"name": "a/b"},
    r"name is 'a\\x00b'. Leave out the character": {"name": "a\0b"},
    r"base is 'a\\x00b'. Leave out the character": {"base": "a\0b"},
    r"pictures is .*a\\x00b.*. Leave out the character": {"content": {"pictures": "a\0b"}},
    r"run is 'a\\x00b'. Leave out the character": {"content": {"pictures": "c", "run": "a\0b"}},
    r"others.caption is '\{content\}'. Set it to the prompt of each, with \{content\} and \{style\} in that order": {
        "others": {"caption": "{content}"}
    },
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
    expected = PRESETS[preset].get("adapter", {}).get("rank", AdapterSettings().rank)
    assert config.adapter.rank == expected


def test_rows_by_memory_are_valid_and_learn_from_as_many_pictures_a_step():
    for preset, method, memory in ROWS:
        config = Customization(**OK, preset=preset, memory=memory, adapter={"method": method})
        steps = config.steps
        assert steps.batch_size * steps.accumulation == 4
        assert method == "plp" or steps.accumulation == 1  # so that steps can be taken in the backward pass
        assert config.memory == memory and config.optimizer.lr == PRESETS[preset]["optimizer"]["lr"]
    assert set(ROWS) == set(product(("sd15", "sdxl"), METHODS, BUDGETS))


def test_rows_by_memory_fit_into_it():
    found = json.loads((HOUSE / "benchmarks/optimizers/results/peak.json").read_text())
    presets, counted = found["presets"], min(row["ratio"] for row in found["check"].values())
    assert presets.keys() == {", ".join(map(str, row)) for row in ROWS}  # else run benchmarks.optimizers.peak anew
    for row in presets.values():
        most = max(row["encoding"], row["training"], row["drawing"])
        assert row["room"] is None or most < counted * row["room"]  # what the count misses is left free


def test_what_a_file_says_stands_above_the_memory():
    config = Customization(**OK, preset="sdxl", memory=8, resolution=768, steps={"accumulation": 8})
    assert (config.resolution, config.steps.accumulation, config.steps.batch_size) == (768, 8, 1)
    assert config.steps.gradient_checkpointing and config.precision == "bf16" and config.optimizer.bits == 8
    other = Customization(**OK, preset="sdxl", memory=8, optimizer={"name": "adamw"}).optimizer
    assert other.name == "adamw" and other.lr == PRESETS["sdxl"]["optimizer"]["lr"]
    assert Customization(**OK, memory=8).steps == Customization(**OK).steps  # the embedded base fits anywhere


@pytest.fixture
def card(monkeypatch):
    """Lets the machine have a GPU of so many gigabytes."""

    def put(gigabytes: float, capability: tuple[int, int] = (8, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        held = SimpleNamespace(total_memory=int(gigabytes * 2**30))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: held)

    return put


@pytest.mark.parametrize(("gigabytes", "budget"), [(7.6, 8), (11.99, 12), (14.7, 12), (23.5, 24), (79.1, 48)])
def test_auto_is_the_largest_that_the_gpu_has(card, gigabytes, budget):
    card(gigabytes)
    config, row = (Customization(**OK, preset="sd15", memory=memory) for memory in ("auto", budget))
    assert config.memory == budget and (config.steps, config.precision) == (row.steps, row.precision)


@pytest.mark.parametrize("preset", ["sd15", "sdxl"])
def test_a_card_without_bf16_gets_the_row_of_its_memory_in_fp16(card, preset):
    """T4, V100 and RTX 20. What the file says of the precision stands above it."""
    card(14.7, (7, 5))
    config, row = (Customization(**OK, preset=preset, memory=memory) for memory in ("auto", 12))
    assert (row.precision, config.precision, config.memory) == ("bf16", "fp16", 12)
    assert config.model_copy(update={"precision": "bf16"}) == row
    assert Customization(**OK, preset=preset, memory="auto", precision="nf4").precision == "nf4"


def test_a_base_s_own_weights_are_fp32_on_a_card_without_bf16_or_do_not_fit(card):
    card(14.7, (7, 5))
    assert Customization(**OK, preset="sd15", memory="auto", adapter={"method": "full"}).precision == "fp32"
    with pytest.raises(UserError, match=r"the GPU has no bf16, in which .*adapter\.method to \"plp\""):
        Customization(**OK, preset="sdxl", memory="auto", adapter={"method": "full"})
    with pytest.raises(UserError, match="precision is 'fp16', in which weights cannot learn"):
        Customization(**OK, preset="sdxl", precision="fp16", adapter={"method": "full"})


def test_auto_without_a_gpu_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Customization(**OK, preset="sdxl", memory="auto").precision == "fp32"


def test_a_gpu_with_too_little_is_told(card):
    card(4)
    with pytest.raises(UserError, match=r"the GPU has 4\.0 GB. Set memory to 8"):
        Customization(**OK, preset="sdxl", memory="auto")


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


@pytest.mark.parametrize("text", ["a{} = 1", "[a{}]", "a = {{ b{} = 1 }}", "[[a{}]]"])
@pytest.mark.parametrize("part", [".a", " . a", '."a b"', ".'a'"])
def test_a_key_of_many_parts_is_refused_before_it_is_read(tmp_path, text, part):
    """The parser would take memory by the square of their number: gigabytes for a file of 100 kB."""
    (tmp_path / "p.toml").write_text(text.format(part * 2000))
    with pytest.raises(UserError, match="not valid TOML \\(a key has too many parts\\)"):
        Customization.load(tmp_path / "p.toml")


def test_a_mark_at_the_start_is_no_part_of_the_file(project):
    plain = Customization.load(project)
    project.write_text(project.read_text(), encoding="utf-8-sig", newline="\r\n")
    assert Customization.load(project) == plain


@pytest.mark.skipif(os.name != "posix", reason="devices are files there")
def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(UserError, match=r"cannot be read \(it is no file\)"):
            Customization.load(path)


def test_a_value_of_tables_without_end_is_refused(tmp_path):
    inner = f"{{a{'.a' * 30} = "
    (tmp_path / "p.toml").write_text("seed = " + inner * 50 + "1" + "}" * 50)
    with pytest.raises(UserError, match="seed is a table in a table"):
        Customization.load(tmp_path / "p.toml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        Customization.load(tmp_path / "none.toml")


def test_whole_weights_are_projected_on_columns():
    full = {"adapter": {"method": "full"}}
    assert Customization(**OK, **full).optimizer.side == "right"
    assert Customization(**OK, **full, optimizer={"side": "left"}).optimizer.side == "left"
    assert Customization(**OK, **full, optimizer={"name": "owlore"}).optimizer.side == "shorter"
    assert Customization(**OK).optimizer.side == "shorter"
    assert Customization(**OK, **full, optimizer={"name": "adamw"}).optimizer.name == "adamw"


def test_a_base_is_found_from_a_run_wherever_the_run_or_the_command_stands(tmp_path, monkeypatch):
    place = tmp_path / "work"
    (place / "bases/mine").mkdir(parents=True)
    monkeypatch.chdir(place)
    config = Customization(base="bases/mine", content={"pictures": "a"})
    run = place / "runs/koala/config.toml"
    config.save(run)
    monkeypatch.chdir(tmp_path)  # the command stands elsewhere now
    assert Customization.load(run).resolved_base() == str(place / "bases/mine")

    moved = tmp_path / "new place"  # with all that was beside it
    place.rename(moved)
    assert Customization.load(moved / "runs/koala/config.toml").resolved_base() == str(moved / "bases/mine")

    deeper = tmp_path / "a/b/c/koala"  # alone
    deeper.parent.mkdir(parents=True)
    (moved / "runs/koala").rename(deeper)
    with pytest.raises(UserError, match=r"is not there, and .* hold no mine either"):
        Customization.load(deeper / "config.toml").resolved_base()
    monkeypatch.chdir(moved)
    (moved / "bases").rename(moved / "models")
    assert Customization.load(deeper / "config.toml").resolved_base() == str(moved / "models/mine")


@pytest.mark.parametrize("base", ["n" * 300, "~" + "n" * 30 + "/base", "/" + "n" * 300, "a\nb"])
def test_a_base_that_no_disk_can_hold_is_one_that_is_not_there(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    Customization(base=base, content={"pictures": "a"}).save(tmp_path / "config.toml")
    config = Customization.load(tmp_path / "config.toml")
    assert config.base.endswith(base)
    if base[0] in "~/":
        with pytest.raises(UserError, match="is not there, and"):
            config.resolved_base()
    else:
        assert config.resolved_base() == base


@pytest.mark.parametrize("base", [".", ".."])
def test_the_folder_itself_may_be_the_base(tmp_path, base):
    (tmp_path / "project.toml").write_text(f'base = "{base}"\n[content]\npictures = "a"')
    assert Customization.load(tmp_path / "project.toml").base == str(tmp_path if base == "." else tmp_path.parent)


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no text")
def test_a_folder_whose_name_is_no_text_is_a_sentence(tmp_path):
    folder = tmp_path / "\udcff\\"
    folder.mkdir()
    (folder / "project.toml").write_text('[content]\npictures = "a"')
    config = Customization.load(folder / "project.toml")
    assert config.name == "customization"
    with pytest.raises(UserError, match=r"A name in \S+config.toml is not readable text \(.*udcff.*\)\. Rename it"):
        config.save(tmp_path / "config.toml")


def test_a_base_of_the_house_keeps_its_name_and_a_hub_id_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for base in ("models/emoji", "someone/a-model"):
        Customization(base=base, content={"pictures": "a"}).save(tmp_path / "config.toml")
        assert Customization.load(tmp_path / "config.toml").base == base
    assert Customization(base="someone/a-model", content={"pictures": "a"}).resolved_base() == "someone/a-model"


def test_each_preset_has_its_guidance():
    """A base is drawn with the guidance of its preset: one without would train and then not be drawn."""
    assert guidance.PRESETS.keys() >= PRESETS.keys()


BOTH_GIVEN = {"content": {"pictures": "c"}, "style": {"pictures": "s"}}


def test_the_embedded_base_s_preset_splits_by_rank_and_adds_to_what_is_given_alone():
    config = Customization(**BOTH_GIVEN)
    places = (config.adapter.split, config.adapter.content_in, config.adapter.style_in)
    assert places == ("rank", "coarse", "everywhere") and config.adapter.apart
    assert config.content.prior_weight > 0 and config.style.prior_weight > 0 and config.style.reach > 0
    assert Customization(style={"pictures": "s"}).content is None
    assert Customization(content={"pictures": "c", "prior_weight": 0}).content.prior_weight == 0
    assert Customization(**BOTH_GIVEN, preset="sdxl").adapter.split == "factors"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_another_optimizer_takes_a_preset_s_rates_and_nothing_else(name):
    own = Customization(**BOTH_GIVEN).optimizer
    chosen = Customization(**BOTH_GIVEN, optimizer={"name": name}).optimizer
    rates = {} if name == "prodigy" else {"lr": own.lr, "make_lr": own.make_lr}
    assert chosen == (own if name == own.name else OPTIMIZERS[name](**rates))


def test_a_method_that_cannot_split_leaves_the_preset_s_split_out():
    config = Customization(**BOTH_GIVEN, adapter={"method": "full"})
    assert (config.adapter.content_in, config.adapter.style_in) == ("everywhere", "everywhere")
    for given in ({"content_in": "words"}, {"split": "rank"}):
        with pytest.raises(UserError, match="content_in, style_in and split are for the halves"):
            Customization(**BOTH_GIVEN, adapter={"method": "full"} | given)


def test_a_run_that_is_older_than_a_key_has_its_default_whatever_the_preset_says(tmp_path):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    Customization(**BOTH_GIVEN).save(run.config)
    keys = ("prior_weight", "content_in", "split", "reach")
    run.config.write_text("\n".join(line for line in run.config.read_text().splitlines() if not line.startswith(keys)))
    assert Customization.load(run.config).adapter.split == "rank"  # a project file, which may leave out what it likes
    old = run.customization()
    assert old.content.prior_weight == old.style.prior_weight == old.style.reach == 0
    assert (old.adapter.split, old.adapter.content_in) == ("factors", "everywhere")


def test_presets_of_unets_split_values_and_gates_and_runs_from_before_do_not(tmp_path):
    """Where nothing is adapted that has gates, a run from before is the same run."""
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    for layers, same in (("attention", True), ("all", False)):
        config = Customization(**BOTH_GIVEN, preset="sdxl", adapter={"layers": layers})
        config.save(run.config)
        text = run.config.read_text()
        assert "split_gates = true" in text
        run.config.write_text(text.replace("split_gates = true\n", ""))
        old = run.customization()
        assert config.adapter.split_gates and not old.adapter.split_gates
        assert (decisive(old) == decisive(config)) is same
    assert not Customization(**BOTH_GIVEN).adapter.split_gates  # of the embedded base, whose concepts share no layer
