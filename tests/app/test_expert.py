"""The settings that are folded away: every key has a field, which is kept and checked like the others."""

import gradio as gr
import pytest
from playwright.sync_api import expect

from app.copies import Copies
from app.drafts import Drafts
from app.form import CONCEPTS, OUTSIDE, SHOWN, ProjectForm
from app.pages import expert, project
from app.pages.setting import Slot, as_text
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError
from tests.app.browser import PATIENCE, watched
from tests.app.test_project import fields, values
from training import Customization


@pytest.fixture
def shown(config, library, tmp_path):
    with gr.Blocks():
        return project.build(library, ProjectForm(config), Copies(tmp_path)).fields


def test_every_key_of_these_tables_has_one_field_of_its_kind(shown, config):
    given = {f"{concept}.{name}" for concept in CONCEPTS for name in (*expert.UNSHOWN, *SHOWN, OUTSIDE)}
    for table in expert.TABLES:
        for name, key in expert.model_of(table).model_fields.items():
            if f"{table}.{key.alias or name}" in given:
                continue
            field, value = shown[f"{table}.{key.alias or name}"], getattr(getattr(config, table), name)
            assert field.value == as_text(value)
            kind = {bool: gr.Checkbox, int: gr.Number, float: gr.Number}
            if not Slot.of(name, key).choices:
                expected = kind.get(type(value), gr.Textbox) if value is not None else gr.Number
                assert type(field) is expected, (table, name)
            else:
                assert isinstance(field, gr.Dropdown) and value in [one for _, one in field.choices]
            assert field.info and "`" not in field.info
    assert shown["loss.min_snr"].info.endswith("as the base was trained. More than 0, at most 1000.")
    assert shown["samples.prompts"].info.endswith("One a line.")


def test_what_is_entered_is_in_the_project_lists_one_entry_a_line(config):
    changed = {"samples.prompts": " a sks koala\n\nred, on blue \n", "others.styles": "noto", "loss.min_snr": 5}
    changed |= {"steps.schedule": "constant", "steps.gradient_checkpointing": True}
    changed |= {"make.damping": 0.01, "adapter.seed": 3}
    made = fields(config, changed)
    assert made.samples.prompts == ["a sks koala", "red, on blue"] and made.others.styles == ["noto"]
    assert made.steps.gradient_checkpointing and made.steps.schedule == "constant" and made.loss.min_snr == 5
    assert made.make.damping == 0.01 and made.adapter.seed == 3
    again = ProjectForm(config).write(made)
    assert again["samples.prompts"] == "a sks koala\nred, on blue" and again["content.noise"] == "0, 1"


def test_a_concept_has_its_settings_too_pairs_and_tables_as_text(config):
    changed = {"content.noise": "0, .8", "content.variants": "sepia style = sepia\n\nblueprint style=blueprint"}
    made = fields(config, changed | {"content.rate": 0.5, "style.reach": 0.5, "content.mirror": True})
    assert made.content.noise == (0.0, 0.8) and made.content.rate == 0.5 and made.content.mirror
    assert made.content.variants == {"sepia style": "sepia", "blueprint style": "blueprint"}
    assert made.style.reach == 0.5 and made.style.noise == (0.0, 1.0)
    again = ProjectForm(config).write(made)
    assert again["content.noise"] == "0, 0.8"
    assert again["content.variants"] == "sepia style = sepia\nblueprint style = blueprint"


def test_another_preset_brings_its_own(config):
    starts = ProjectForm(config).start("sdxl", 12)
    plain = Customization(preset="sdxl", memory=12, content={"pictures": ["a"]}, style={"pictures": ["a"]})
    assert starts["steps.gradient_checkpointing"] is plain.steps.gradient_checkpointing is True
    assert starts["others.styles"] == "\n".join(plain.others.styles) and starts["loss.min_snr"] is None
    full = ProjectForm(config).start("sdxl", 12, "full")
    assert full["adapter.method"] == "full" and full["steps.batch_size"] != starts["steps.batch_size"]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"steps.batch_size": 0}, '"Batch size" of the steps is 0. Set it to a whole number, at least 1, at most 256.'),
        ({"samples.every": 2.5}, '"Every" of the samples is 2.5. Set it to a whole number'),
        ({"adapter.seed": None}, '"Seed" of the adapter is None. Set it to a whole number'),
        ({"others.caption": "{style}"}, "\"Caption\" of the others is '{style}'. Set it to the prompt of each"),
        ({"content.rate": 0}, '"Rate" of the content is 0. Set it to a number, more than 0, at most 100.'),
        ({"style.noise": "0.5"}, '"Noise" of the style is '),
        ({"content.noise": "low, high"}, "\"Noise\" of the content holds 'low'. Set it to 2 of these: a number"),
        ({"content.variants": "sepia"}, "\"Variants\" of the content is ''. Set it to a table, for each"),
        ({"make.damping": 1}, '"Damping" of joining is 1. Set it to a number, at least 1e-06'),
    ],
)
def test_a_value_out_of_range_is_a_sentence_with_the_field_s_label(shown, config, changed, said):
    with pytest.raises(UserError) as error:
        ProjectForm(config).read(values(config, changed))
    assert str(shown.in_labels(error.value)).startswith(said)


@pytest.mark.slow
def test_a_setting_is_kept_shown_again_and_counted(project, browser, tmp_path):
    with open_studio(tmp_path / "runs", project) as address, watched(browser, address) as page:
        page.goto(address)
        expect(page.locator("#estimate")).to_contain_text("steps")
        drafts = Drafts.of(Customization.load(project), tmp_path / "runs/.projects")

        def unfold():
            page.get_by_role("button", name="Advanced").click()
            page.locator("#expert button").first.click()

        def kept(expected):
            for _ in range(PATIENCE // 100):
                if drafts.read("1") == expected:
                    return
                page.wait_for_timeout(100)
            raise AssertionError(drafts.read("1"))

        unfold()
        head, size = page.locator("#expert button").first, page.get_by_label("Batch size", exact=True)
        expect(size).to_have_value("2")
        size.fill("3")
        page.locator("#samples-prompts textarea").fill("sks koala\nzwx star")
        kept({"steps.batch_size": 3, "samples.prompts": "sks koala\nzwx star"})
        expect(head).to_contain_text("Every other setting (2 changed)")
        page.reload()
        unfold()
        expect(size).to_have_value("3")
        expect(page.locator("#samples-prompts textarea")).to_have_value("sks koala\nzwx star")
        expect(head).to_contain_text("(2 changed)")
        size.fill("0")
        page.click("#start")
        expect(page.locator("#project-note")).to_contain_text(
            '"Batch size" of the steps is 0. Set it to a whole number'
        )
        page.click("#as-preset")
        expect(size).to_have_value("2")
        kept({})
        expect(head).not_to_contain_text("changed")

        # Another preset brings its own values, of which nothing is kept but the preset's name.
        page.get_by_label("Stable Diffusion XL").check()
        expect(page.locator("#samples-every input")).to_have_value("250")
        kept({"preset": "sdxl"})
