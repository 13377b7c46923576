"""A pipeline's rule goes where the pipeline goes, and a rule that was never asked says so."""

import inspect
import json

import diffusers
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from pipelines import APG, CFG, APGStableDiffusionPipeline, CFGRescale, UserError, guided
from tests.families import CASES
from tests.pipelines.test_guided_pipeline import call
from tests.tiny import tiny_pipeline

RULE = APG(eta=0.5, momentum=0.0)
FIRST = {case.stock: case for case in reversed(CASES)}


@pytest.fixture
def pipe():
    return tiny_pipeline(APGStableDiffusionPipeline)


def test_from_pipe_keeps_the_rule(pipe):
    other = guided(StableDiffusionImg2ImgPipeline)
    assert other.from_pipe(pipe).guidance == APG()
    pipe.guidance = RULE
    image = other.from_pipe(pipe)
    assert image.guidance == RULE
    stock = StableDiffusionPipeline.from_pipe(pipe)
    assert APGStableDiffusionPipeline.from_pipe(stock).guidance == RULE
    assert other.from_pipe(pipe, guidance=CFG()).guidance == CFG()
    assert pipe.guidance == image.guidance == RULE  # each has its own
    with pytest.raises(UserError, match="guidance is 'apg'"):
        other.from_pipe(pipe, guidance="apg")
    with pytest.raises(UserError, match="guidance is None"):
        pipe.guidance = None


def test_a_folder_is_opened_with_a_rule(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    opened = APGStableDiffusionPipeline.from_pretrained(tmp_path, guidance=RULE, safety_checker=None)
    opened.set_progress_bar_config(disable=True)
    assert opened.guidance == RULE and torch.equal(call(opened), call(pipe, guidance=RULE))
    with pytest.raises(UserError, match="guidance is 'apg'"):
        APGStableDiffusionPipeline.from_pretrained("no/such/folder", guidance="apg")
    with pytest.raises(UserError, match="guidance is 'apg'"):
        APGStableDiffusionPipeline.from_single_file("no/such/file", guidance="apg")


@pytest.mark.parametrize("cls", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_diffusers_own_doors_to_other_tasks_lead_to_guided_classes(cls):
    pipe = tiny_pipeline(guided(cls))
    pipe.guidance = RULE
    name = cls.__name__.removesuffix("Pipeline")
    for door, task in ((AutoPipelineForImage2Image, "Img2Img"), (AutoPipelineForInpainting, "Inpaint")):
        found = door.from_pipe(pipe)
        assert type(found) is guided(getattr(diffusers, f"{name}{task}Pipeline")) and found.guidance == RULE
        assert type(AutoPipelineForText2Image.from_pipe(found)) is type(pipe)
    stock = AutoPipelineForImage2Image.from_pipe(tiny_pipeline(cls))
    assert type(stock) is getattr(diffusers, f"{name}Img2ImgPipeline")


@pytest.mark.parametrize("door", ["save_pretrained", "push_to_hub"])
def test_what_is_uploaded_has_the_stock_name(pipe, tmp_path, monkeypatch, door):
    uploaded = []

    def upload(self, folder, *args, **kwargs):
        with open(f"{folder}/model_index.json", encoding="utf-8") as file:
            uploaded.append(json.load(file)["_class_name"])

    class Repository:
        repo_id = "someone/something"

    class Card:
        def save(self, path):
            pass

    for name, instead in (("_upload_folder", upload),):
        monkeypatch.setattr(APGStableDiffusionPipeline, name, instead, raising=False)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.create_repo", lambda *a, **k: Repository)
    monkeypatch.setattr("diffusers.utils.hub_utils.create_repo", lambda *a, **k: Repository)
    for place in ("diffusers.pipelines.pipeline_utils", "diffusers.utils.hub_utils"):
        monkeypatch.setattr(f"{place}.load_or_create_model_card", lambda *a, **k: Card())
        monkeypatch.setattr(f"{place}.populate_model_card", lambda card, *a, **k: card)
    if door == "save_pretrained":
        pipe.save_pretrained(str(tmp_path), push_to_hub=True, repo_id="someone/something")
    else:
        pipe.push_to_hub("someone/something")
    assert uploaded == ["StableDiffusionPipeline"]


def test_the_record_of_a_call_that_failed_is_empty(pipe):
    call(pipe, guidance=CFG(record=True))
    assert pipe.guidance_record

    def fail(pipe, step, timestep, tensors):
        raise RuntimeError("stop")

    for rule in (APG(record=True), CFG()):
        with pytest.raises(RuntimeError, match="stop"):
            call(pipe, guidance=rule, callback_on_step_end=fail)
        assert not pipe.guidance_record


@pytest.mark.parametrize("stock", FIRST)
def test_help_shows_the_rule_among_the_first(stock):
    case = FIRST[stock]
    if case.needs:
        pytest.importorskip(case.needs)
    text = inspect.getdoc(guided(case.stock_class).__call__)
    assert text.count("guidance (`GuidanceRule`") == 1
    assert text.index("guidance (`GuidanceRule`") < text.index("Args:") + 40


@pytest.mark.parametrize(
    "stock, arguments, missing",
    [
        ("FluxPipeline", {"true_cfg_scale": 1.0, "guidance_scale": 7.0}, "true_cfg_scale above 1, it is 1"),
        ("FluxPipeline", {"negative_prompt_embeds": None, "negative_pooled_prompt_embeds": None}, "a negative prompt"),
        ("QwenImagePipeline", {"negative_prompt_embeds": None}, "a negative prompt"),
        ("StableDiffusionPipeline", {"guidance_scale": 1.0}, "guidance_scale above 1, it is 1"),
        ("ZImagePipeline", {"guidance_scale": 0.0}, "guidance_scale above 0, it is 0"),
    ],
)
@pytest.mark.parametrize("rule", [APG(), CFGRescale()], ids=lambda rule: type(rule).__name__)
def test_a_rule_that_was_never_asked_says_what_is_missing(stock, arguments, missing, rule, caplog):
    case = FIRST[stock]
    pipe = case.pipeline(guided(case.stock_class))
    drawn = case.draw(pipe, guidance=rule, **arguments)
    (warning,) = (record.message for record in caplog.records if "had no part in this call" in record.message)
    assert type(rule).__name__ in warning and missing in warning
    assert torch.equal(drawn, case.draw(pipe, guidance=CFG(), **arguments))


def test_a_negative_prompt_is_asked_for_only_where_one_is_needed(caplog):
    case = FIRST["FluxPipeline"]
    pipe = case.pipeline(guided(case.stock_class))
    case.draw(pipe, guidance=APG(), true_cfg_scale=1.0)
    assert "above 1" in caplog.text and "a negative prompt" not in caplog.text


def test_nothing_is_said_where_all_is_well_or_guidance_is_left_out_on_purpose(pipe, caplog):
    call(pipe)
    call(pipe, guidance=APG(interval=(0.0, 0.5)))
    call(pipe, 1.0)  # the pipeline's own rule, and a scale that says none
    call(pipe, 1.0, guidance=CFG())
    assert "had no part" not in caplog.text
    call(pipe, guidance=APG(interval=(0.99, 1.0)))
    assert "its interval (0.99, 1.0) holds none of 4 evaluations" in caplog.text


def test_a_callback_that_switches_guidance_off_at_once_is_told(pipe, caplog):
    pipe.unet.register_to_config(time_cond_proj_dim=None)

    class Distilled(guided(StableDiffusionPipeline)):
        do_classifier_free_guidance = False

    call(Distilled.from_pipe(pipe))
    assert "a network that is not distilled" in caplog.text
