"""Between the page's fields and a customization."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import ClassVar, Literal

import gradio as gr
import pytest
from gradio.components.gallery import GalleryData
from pydantic import Field

from app import bases, figures, jobs
from app.checks import check_prompts, check_words
from app.copies import Copies
from app.form import SHOWN, ProjectForm
from app.given import Given
from app.pages import optimizer, project
from app.pages.project import start_run
from app.recipe import Recipe
from app.studio import build
from pipelines import UserError
from tests.app.conftest import pictures_of
from tests.single_file import save_single_file, tiny_base
from training import Customization, packages
from training.adapters import METHODS
from training.config import PRESETS
from training.formats import SUFFIXES
from training.optimizers.settings import OPTIMIZERS, Learning


def values(config, changed=None, own=None) -> dict:
    """What the page sends: its fields as they start, or changed; `own` are an optimizer's own settings."""
    form = ProjectForm(config)
    values = {"name": "x", "preset": config.preset} | form.start(config.preset)
    for concept in ("content", "style"):
        settings = form.concept(concept)
        pictures = settings.pictures if concept in config.concepts else []
        values[f"{concept}.pictures"] = [Given(path) for path in pictures]
        values |= {f"{concept}.{name}": getattr(settings, name) for name in SHOWN}
    assert values.keys() >= (changed or {}).keys()
    values |= changed or {}
    slots = optimizer.fields(form.optimizer(config.preset, values["optimizer.name"]))
    given = {slot: (own or {}).get(slot.name, field.value) for slot, field in slots.items()}
    assert {slot.name for slot in given} >= (own or {}).keys()
    return values | given


def fields(config, changed=None, own=None):
    return ProjectForm(config).read(values(config, changed, own))[0]


def test_untouched_fields_are_the_sample_project(config):
    config.optimizer = {"name": "gradnorm-lorp", "update_proj_gap": 7, "magnitude_lr": 0.5, "eps": 1e-9}
    config.adapter.compander, config.adapter.compander_scale = True, 2.0
    config.content.mirror, config.content.short_captions, config.style.mirror = True, False, False
    made = fields(config)
    assert made.optimizer == config.optimizer and made.adapter == config.adapter and made.steps == config.steps
    assert made.content == config.content and made.style == config.style


def test_the_sample_s_prompt_goes_with_the_sample_s_words(config):
    config.samples.prompt = "sks koala, zwx style, at night"
    assert fields(config).sample_prompt == config.samples.prompt
    assert fields(config, {"style.placeholder": "qqq"}).sample_prompt == "sks koala, qqq style"


def test_memory_fits_a_preset_to_what_there_is(config):
    form = ProjectForm(config)
    one = {"pictures": ["a"]}
    small, large = form.start("sdxl", 8), form.start("sdxl", 48)
    assert small["memory"] == 8 and small["adapter.rank"] < large["adapter.rank"] and form.start("sdxl")["memory"] == ""
    assert form.optimizer("sdxl", memory=8) == Customization(preset="sdxl", memory=8, content=one, style=one).optimizer
    made = fields(config, {"preset": "sdxl", **small, "base": "some/sdxl"})
    assert made.memory == 8 and made.steps.gradient_checkpointing and made.steps.batch_size == 1
    assert fields(config, {"memory": "auto"}).memory in (None, "auto")  # of the embedded base, which fits anywhere


def test_what_one_preset_brings_to_a_concept_does_not_go_along_to_another(config):
    config.content.variants, config.style.reach, config.style.steps = {"grey style": "grey"}, 0.67, 300
    assert fields(config).content.variants and fields(config).style.reach == 0.67
    made = fields(config, {"preset": "sdxl", **ProjectForm(config).start("sdxl"), "base": "some/sdxl"})
    plain = Customization(preset="sdxl", content={"pictures": ["a"]}, style={"pictures": ["a"]})
    assert (made.content.variants, made.style.reach, made.style.steps) == ({}, 0, 0)
    for one in ("content", "style"):
        kept = {"pictures", "crops", "class_word", "placeholder", "caption"}
        ours, theirs = (getattr(config, one).model_dump(exclude=kept) for config in (made, plain))
        assert ours == theirs


def test_a_concept_without_pictures_is_left_out(config):
    assert fields(config, {"style.pictures": []}).concepts.keys() == {"content"}
    with pytest.raises(UserError, match="no pictures yet"):
        fields(config, {"style.pictures": [], "content.pictures": []})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_another_optimizer_brings_its_own_settings(config, name):
    chosen = ProjectForm(config).optimizer(config.preset, name)
    changed = {"optimizer.name": name, "optimizer.lr": chosen.lr, "optimizer.make_lr": chosen.make_lr}
    made = fields(config, changed).optimizer
    planned = config.optimizer
    rates = {} if name == "prodigy" else {"lr": planned.lr, "make_lr": planned.make_lr}
    assert made == chosen == (planned if name == planned.name else OPTIMIZERS[name](**rates))
    assert (made.lr == 1.0) == (name == "prodigy")


def test_the_rates_of_a_preset_go_to_what_they_suit(config):
    """Whichever optimizer the preset has; and one that the project sets up keeps its settings."""
    for name in OPTIMIZERS:
        planned = PRESETS["sdxl"]["optimizer"]["lr"]
        assert ProjectForm(config).optimizer("sdxl", name).lr == (1.0 if name == "prodigy" else planned)
    config.optimizer = {"name": "prodigy", "lr": 0.5, "beta1": 0.8}
    form = ProjectForm(config)
    assert form.optimizer(config.preset) == form.optimizer(config.preset, "prodigy") == config.optimizer
    assert form.optimizer(config.preset, "adamw") == OPTIMIZERS["adamw"]()


def test_every_optimizer_shows_exactly_its_own_settings():
    labels = [field.label for field in optimizer.fields(OPTIMIZERS["owlore"]()).values()]
    assert len(labels) == len(set(labels))
    for name, kind in OPTIMIZERS.items():
        updates = optimizer.show(kind())
        assert kind.__doc__.split(" (")[0].split("'")[0] in optimizer.about(name)
        shown = {slot.name: update for slot, update in updates.items() if "value" in update}
        absent = [update for update in updates.values() if update["elem_classes"] == [optimizer.ABSENT]]
        assert len(shown) + len(absent) == len(updates)
        changeable = kind.model_fields.keys() - {"name", "lr", "make_lr"} - ({"weak"} if name == "prodigy" else set())
        assert shown.keys() == changeable
        for key, update in shown.items():
            assert update["value"] == kind.model_fields[key].default and len(update["info"]) > 10, key


@pytest.mark.parametrize(
    "name, own, words",
    [
        ("gradnorm-lorp", {"update_proj_gap": 2.5}, "optimizer.update_proj_gap is 2.5. Set it to a whole number"),
        ("gradnorm-lorp", {"magnitude_lr": "fast"}, "optimizer.magnitude_lr is 'fast'. Set it to a number, .* 'row'"),
        ("owlore", {"rank": None}, "optimizer.rank is None. Set it to a number, more than 0"),
        ("adamw", {"eps": 0.5}, "optimizer.eps is 0.5. Set it to a number, more than 0, at most 0.01"),
    ],
)
def test_settings_are_checked_by_the_configuration(config, name, own, words):
    with pytest.raises(UserError, match=words):
        fields(config, {"optimizer.name": name}, own)


def test_settings_that_are_entered_are_in_the_project_and_others_do_not_disturb(config):
    own = {"rank": 16, "bits": 32, "basis": "randomized", "stagger": True, "magnitude_lr": "0.25", "beta1": 0.5}
    made = fields(config, {"optimizer.name": "gradnorm-lorp"}, own | {"active": -1, "clip": None}).optimizer
    changed = config.optimizer.model_copy(update=own | {"magnitude_lr": 0.25})
    assert made == changed


def test_a_new_optimizer_appears_by_itself(monkeypatch):
    class New(Learning):
        """Moves as never before."""

        name: Literal["new"] = "new"
        rank: Literal["low", "high"] = Field("low", description="of another kind than the others'")
        zeal: int = Field(3, ge=1, le=9, description="how keen it is")

        independent: ClassVar[bool] = False

    monkeypatch.setitem(OPTIMIZERS, "new", New)
    assert ("new", "new") in optimizer.names()
    assert "Moves as never before" in optimizer.about("new")
    shown = [field for field in optimizer.fields(New()).values() if optimizer.ABSENT not in field.elem_classes]
    fields = {field.label: (type(field), field.value, field.info) for field in shown}
    assert fields["Zeal"] == (gr.Number, 3, "How keen it is. A whole number, at least 1, at most 9.")
    assert fields["Rank"] == (gr.Dropdown, "low", "Of another kind than the others'.")
    assert fields.keys() == {"Zeal", "Rank", "Weak", "Weight decay"}


def test_an_optimizer_that_is_not_installed_says_how_to_get_it(config, library, monkeypatch):
    monkeypatch.setitem(packages.PACKAGES, "owlore", "no_such_package")
    assert ("OwLore (not installed)", "owlore") in optimizer.names()
    assert "pip install no_such_package" in optimizer.about("owlore")
    with pytest.raises(UserError, match="pip install no_such_package"):
        start_run(library, ProjectForm(config), values(config, {"optimizer.name": "owlore"}))
    assert library.runs() == []


def test_the_method_and_the_compander_are_chosen(config):
    adapter = fields(config, {"adapter.compander": True, "adapter.compander_scale": 0.25}).adapter
    assert adapter.compander and adapter.compander_scale == 0.25
    assert config.adapter.apart
    full = fields(config, {"adapter.method": "full", "optimizer.name": "adamw"}).adapter
    assert full.method == "full" and not full.apart  # the preset's places are not for it
    with pytest.raises(UserError, match="content_in"):
        fields(config, {"adapter.method": "full", "optimizer.name": "adamw", "adapter.content_in": "fine"})


@pytest.mark.parametrize(
    "changed, words",
    [
        (
            {"adapter.method": "full", "adapter.compander": True, "optimizer.name": "adamw"},
            "compander is for the halves of an adapter",
        ),
        ({"adapter.method": "full", "optimizer.name": "lora-plus"}, "lora-plus.*two factors of an adapter"),
        (
            {"adapter.compander": True, "adapter.compander_scale": 0},
            "adapter.compander_scale is 0. Set it to a number, more than 0",
        ),
    ],
)
def test_pairs_that_cannot_be_are_refused_before_anything_starts(config, library, monkeypatch, changed, words):
    monkeypatch.setattr(jobs, "start", None)
    with pytest.raises(UserError, match=words):
        start_run(library, ProjectForm(config), values(config, changed))
    assert library.runs() == []


def test_a_base_that_the_preset_is_not_for_is_refused_in_the_page_s_words(config, library, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "start", None)
    save_single_file(tiny_base("sdxl"), "sdxl", tmp_path / "mine.safetensors", {}, {})
    changed = {"base": str(tmp_path / "mine.safetensors")}
    assert fields(config, changed).resolution == 1024  # the sample's is its own base's
    with pytest.raises(UserError, match=r"preset is 'emoji', but .* is Stable Diffusion XL for 1024 px") as refused:
        start_run(library, ProjectForm(config), values(config, changed))
    with gr.Blocks():
        page = project.build(library, ProjectForm(config), Copies(tmp_path / "copies"))
    said = str(page.fields.in_labels(refused.value))
    assert said.startswith('"Preset" is "Embedded emoji base, 64 px", but the base model ')
    assert 'Set "Preset" to "Stable Diffusion XL, 1024 px", or leave it out.' in said and library.runs() == []


@pytest.mark.parametrize("missing", ["content", "style"])
def test_a_project_of_one_concept_alone(config, library, tmp_path, missing):
    pictures = pictures_of(config)
    setattr(config, missing, None)
    with gr.Blocks():
        entered = project.build(library, ProjectForm(config), Copies(tmp_path)).entered
    assert entered(defaultdict(str))[f"{missing}.pictures"] == [] and fields(config).concepts == config.concepts
    # Pictures of the other make it a project of both.
    both = fields(config, {f"{missing}.pictures": [Given(Path("x.png"))], f"{missing}.placeholder": "qqq"})
    assert both.concepts.keys() == {"content", "style"} and getattr(both, missing).placeholder == "qqq"

    run = library.create(config, {name: pictures[name] for name in config.concepts})
    (stage,) = library.stages(run)
    assert stage != missing
    shown = figures.progress("x", jobs.Job("running", stage=stage), library.stages(run))
    assert shown.count("<li") == 1 and figures.STAGES[stage] in shown


def test_captions_and_prompts_are_judged_in_words(config):
    """By the base's own tokenizer, which reads 600 letters here, 75 at a time."""
    form = ProjectForm(config)
    sound = values(config)
    sound["style.pictures"] = [one._replace(caption="a fox, {placeholder} style") for one in sound["style.pictures"]]
    assert check_words(*form.read(sound)) == []
    long = {"content.caption": "{who} koala", "style.caption": "{placeholder} " + "x" * 600}
    texts = [finding.text for finding in check_words(*form.read(values(config, long)))]
    assert [text.partition(":")[0] for text in texts] == ["Content", "Content", "Style", "Style"]
    assert "no caption holds the placeholder sks" in texts[0] and "{who} is not known" in texts[1]
    assert "without a caption of their own" in texts[2] and "602 tokens, and so not the caption from 'xxx" in texts[3]

    def said(prompt: str, **changed) -> list[str]:
        recipe = Recipe(prompt, 0, 1.0, 1.0, "APG", {}, 5.0, 3, 32, "base", **changed)
        return [finding.text for finding in check_prompts(recipe, config.concepts, config.resolved_base())]

    assert said("sks koala") == []
    assert said("a fox") == ["The prompt holds no placeholder, sks or zwx, which stands for what is learned."]
    (cut,) = said("sks koala", negative_prompt="grey " * 151)
    assert cut == "The base reads 602 tokens, and so not the negative prompt from 'grey' on."


def test_pictures_are_judged_at_the_preset_s_resolution(config, tmp_path):
    form = ProjectForm(config)
    assert [form.resolution(preset) for preset in ("emoji", "sd15", "sdxl")] == [config.resolution, 512, 1024]


def test_the_page_takes_every_format_of_the_list(config, library, tmp_path):
    page = build(library, config, Copies(tmp_path / "copies"))
    galleries = [block for block in page.blocks.values() if str(block.elem_id).endswith("-pictures")]
    assert len(galleries) == 2
    for gallery in galleries:
        for suffix in SUFFIXES:
            path = str(tmp_path / f"a{suffix}")
            payload = GalleryData(root=[{"image": {"path": path}, "caption": None}])
            assert gallery.preprocess(payload) == [(path, None)]


def test_a_caption_that_is_not_utf_8_is_a_sentence_on_the_page_too(config, library, tmp_path):
    shutil.copytree(config.content.pictures[0], tmp_path / "content")
    (tmp_path / "content" / "picture-0.txt").write_bytes("Köln".encode("latin-1"))
    config.content.pictures = [tmp_path / "content"]
    with pytest.raises(UserError, match=r"picture-0\.txt cannot be read .*Save it as UTF-8 text"):
        build(library, config, Copies(tmp_path / "copies"))


def test_errors_speak_in_the_page_s_labels(config, library, tmp_path):
    with gr.Blocks():
        page = project.build(library, ProjectForm(config), Copies(tmp_path))
    for changed, own, words in (
        ({"steps.break": 0}, {}, '"Steps: apart" is 0. Set it to a whole number, at least 1'),
        ({"seed": -1}, {}, '"Seed" is -1. Set it to'),
        ({"base": " "}, {}, "\"Base model\" is ''."),
        ({"style.placeholder": "two words"}, {}, "\"Placeholder\" of the style is 'two words'"),
        ({"style.placeholder": "sks"}, {}, '"Placeholder" of the content and "Placeholder" of the style are both'),
        ({}, {"eps": 0.5}, '"Eps" is 0.5.'),
        (
            {"adapter.method": "full", "optimizer.name": "lora-plus"},
            {},
            '"Optimizer" is "LoRA+", whose two rates are for the two factors of an adapter. '
            'Set "What learns" to "Partly learnable projections", or choose another optimizer.',
        ),
    ):
        with pytest.raises(UserError) as error:
            fields(config, changed, own)
        assert str(page.fields.in_labels(error.value)).startswith(words)
    # Words that are no keys stay, and so do keys that are no fields.
    for text in ("The base model 'x' is neither. Set base to a folder", "content.crops is 3", "a seed is a number"):
        assert page.fields.spell(text).replace('"Base model"', "base") == text


def test_the_base_is_listed_by_name_and_every_method_is_offered(config, library, tmp_path):
    form = ProjectForm(config, bases.offered(library, config))
    with gr.Blocks():
        page = project.build(library, form, Copies(tmp_path))
    assert [name for _, name in page.fields["adapter.method"].choices] == list(METHODS)
    shown = page.fields["base"].value
    assert shown == "base" and Path(config.base).is_absolute()
    assert form.read(values(config, {"base": shown}))[0].base == config.base


def test_a_new_field_is_one_line(config):
    """Whatever is named like a key of the configuration is read into it."""
    assert fields(config, {}).samples.every == config.samples.every
    made = ProjectForm(config).read(values(config) | {"samples.every": 7, "resolution": 64})[0]
    assert made.samples.every == 7 and made.resolution == 64


def test_the_page_offers_every_preset_at_its_resolution():
    offered = {name: label for label, name in project.PRESET_NAMES}
    assert offered.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        assert offered[name].endswith(f", {preset.get('resolution', 64)} px")


def test_the_fields_show_a_run_s_customization_as_it_is(config):
    """Written into the fields and read from them again, nothing has changed."""
    form = ProjectForm(config)
    made = fields(config, {"seed": 7, "style.pictures": [], "adapter.rank": 4, "content.caption": "a {placeholder}",
                           "optimizer.name": "adamw", "optimizer.lr": 0.003}, {"weight_decay": 0.5})  # fmt: skip
    shown = values(config) | {"style.pictures": []}
    written = form.write(made)
    assert written.items() >= {"seed": 7, "optimizer.weight_decay": 0.5, "style.class_word": ""}.items()
    own = {slot: written.get(f"optimizer.{slot.name}") for slot in optimizer.slots()}
    assert form.read({key: written.get(key, value) for key, value in shown.items()} | own)[0] == made
