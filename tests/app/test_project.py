"""Between the page's fields and a customization."""

import pytest

from app.pages.project import OPTIMIZER_NAMES, ProjectForm
from pipelines import UserError
from training.optimizers.settings import OPTIMIZERS


def fields(config, **changed):
    pictures = {name: [(str(p), None) for p in getattr(config, name).pictures] for name in ("content", "style")}
    form = ProjectForm(config)
    names = "base rank layers break_steps make_steps optimizer lr make_lr seed".split()  # noqa: SIM905
    values = {
        "name": "x",
        **{f"content_{k}": v for k, v in _words(config.content).items()},
        **{f"style_{k}": v for k, v in _words(config.style).items()},
        "preset": config.preset,
        **dict(zip(names, form.numbers(config.preset), strict=True)),
    }
    return form.read(**values | {f"{name}_pictures": files for name, files in pictures.items()} | changed)[0]


def _words(concept):
    return {"word": concept.class_word, "placeholder": concept.placeholder, "caption": concept.caption}


def test_the_page_offers_every_optimizer():
    assert OPTIMIZER_NAMES.keys() == OPTIMIZERS.keys()


def test_untouched_fields_are_the_sample_project(config):
    config.optimizer = {"name": "gradnorm-lorp", "update_proj_gap": 7}
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
    lr, make_lr = ProjectForm(config).rates(config.preset, name)
    optimizer = fields(config, optimizer=name, lr=lr, make_lr=make_lr).optimizer
    assert type(optimizer) is OPTIMIZERS[name] and (optimizer.lr, optimizer.make_lr) == (lr, make_lr)
    assert (lr == 1.0) == (name == "prodigy")
