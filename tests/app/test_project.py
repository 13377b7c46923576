"""Between the page's fields and a customization."""

from typing import ClassVar, Literal

import gradio as gr
import pytest
from pydantic import Field

from app import jobs
from app.form import ProjectForm
from app.pages import optimizer
from app.pages.project import start_run
from pipelines import UserError
from training import packages
from training.config import PRESETS
from training.optimizers.settings import OPTIMIZERS, Learning

NUMBERS = (
    "base method rank layers compander compander_scale break_steps make_steps seed optimizer lr make_lr".split()  # noqa: SIM905
)


def values(config, own=None, **changed) -> tuple:
    """What the page sends: its fields as they start, or changed; `own` are an optimizer's own settings."""
    form = ProjectForm(config)
    values = {"name": "x"}
    for concept in ("content", "style"):
        settings = getattr(config, concept)
        values[f"{concept}_pictures"] = [(str(path), None) for path in settings.pictures]
        values |= {f"{concept}_{key}": value for key, value in _words(settings).items()}
    values |= {"preset": config.preset} | dict(zip(NUMBERS, form.numbers(config.preset), strict=True))
    assert values.keys() >= changed.keys()
    values |= changed
    shown = optimizer.fields(form.optimizer(config.preset, values["optimizer"]))
    given = {slot.name: field.value for slot, field in zip(optimizer.slots(), shown, strict=True)}
    assert given.keys() >= (own or {}).keys()
    return *values.values(), *(given | (own or {})).values()


def fields(config, own=None, **changed):
    return ProjectForm(config).read(*values(config, own, **changed))[0]


def _words(concept):
    return {"word": concept.class_word, "placeholder": concept.placeholder, "caption": concept.caption}


def test_untouched_fields_are_the_sample_project(config):
    config.optimizer = {"name": "gradnorm-lorp", "update_proj_gap": 7, "magnitude_lr": 0.5, "eps": 1e-9}
    config.adapter.compander, config.adapter.compander_scale = True, 2.0
    config.content.mirror, config.content.short_captions, config.style.mirror = True, False, False
    made = fields(config)
    assert made.optimizer == config.optimizer and made.adapter == config.adapter and made.steps == config.steps
    assert made.content == config.content and made.style == config.style


def test_what_suits_the_sample_concept_is_not_done_to_another(config):
    config.content.mirror = True
    made = fields(config, content_word="clock")
    assert not made.content.mirror and made.content.others == config.content.others


def test_the_sample_s_prompt_goes_with_the_sample_s_words(config):
    config.samples.prompt = "sks koala, zwx style, at night"
    assert fields(config).sample_prompt == config.samples.prompt
    assert fields(config, style_placeholder="qqq").sample_prompt == "sks koala, qqq style"


def test_a_concept_without_pictures_is_left_out(config):
    assert fields(config, style_pictures=[]).concepts.keys() == {"content"}
    with pytest.raises(UserError, match="no pictures yet"):
        fields(config, style_pictures=None, content_pictures=None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_another_optimizer_brings_its_own_settings(config, name):
    chosen = ProjectForm(config).optimizer(config.preset, name)
    made = fields(config, optimizer=name, lr=chosen.lr, make_lr=chosen.make_lr).optimizer
    assert made == chosen == OPTIMIZERS[name]()
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
    labels = [field.label for field in optimizer.fields(OPTIMIZERS["owlore"]())]
    assert len(labels) == len(set(labels))
    for name, kind in OPTIMIZERS.items():
        about, *updates = optimizer.show(kind())
        assert kind.__doc__.split(" (")[0].split("'")[0] in about
        shown = {s.name: u for s, u in zip(optimizer.slots(), updates, strict=True) if "value" in u}
        absent = [update for update in updates if update["elem_classes"] == [optimizer.ABSENT]]
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
        fields(config, own, optimizer=name)


def test_settings_that_are_entered_are_in_the_project_and_others_do_not_disturb(config):
    own = {"rank": 16, "bits": 32, "basis": "randomized", "stagger": True, "magnitude_lr": "0.25", "beta1": 0.5}
    made = fields(config, own | {"active": -1, "clip": None}, optimizer="gradnorm-lorp").optimizer
    changed = OPTIMIZERS["gradnorm-lorp"](**own | {"magnitude_lr": 0.25})
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
    about, *_ = optimizer.show(New())
    assert "Moves as never before" in about
    shown = [field for field in optimizer.fields(New()) if optimizer.ABSENT not in field.elem_classes]
    fields = {field.label: (type(field), field.value, field.info) for field in shown}
    assert fields["Zeal"] == (gr.Number, 3, "How keen it is. A whole number, at least 1, at most 9.")
    assert fields["Rank"] == (gr.Dropdown, "low", "Of another kind than the others'.")
    assert fields.keys() == {"Zeal", "Rank", "Weak", "Weight decay"}


def test_an_optimizer_that_is_not_installed_says_how_to_get_it(config, library, monkeypatch):
    monkeypatch.setitem(packages.PACKAGES, "owlore", "no_such_package")
    assert ("OwLore (not installed)", "owlore") in optimizer.names()
    assert "pip install no_such_package" in optimizer.about("owlore")
    with pytest.raises(UserError, match="pip install no_such_package"):
        start_run(library, ProjectForm(config), values(config, optimizer="owlore"))
    assert library.runs() == []


def test_the_method_and_the_compander_are_chosen(config):
    adapter = fields(config, compander=True, compander_scale=0.25).adapter
    assert adapter.compander and adapter.compander_scale == 0.25
    assert fields(config, method="full", optimizer="adamw").adapter.method == "full"


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"method": "full", "compander": True, "optimizer": "adamw"}, "compander is for the halves of an adapter"),
        ({"method": "full", "optimizer": "lora-plus"}, "lora-plus.*two factors of an adapter"),
        ({"compander": True, "compander_scale": 0}, "adapter.compander_scale is 0. Set it to a number, more than 0"),
    ],
)
def test_pairs_that_cannot_be_are_refused_before_anything_starts(config, library, monkeypatch, changed, words):
    monkeypatch.setattr(jobs, "start", None)
    with pytest.raises(UserError, match=words):
        start_run(library, ProjectForm(config), values(config, **changed))
    assert library.runs() == []
