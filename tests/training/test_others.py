import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from pipelines import UserError
from training import Customization, customize, others
from training.model import open_base
from training.others import draw_others
from training.plan import plan
from training.run import Run, runs_folder
from training.sampling import guided_pipeline
from training.sheet import draw


@pytest.fixture
def alone(config):
    """A project that names no other pictures."""
    config.content.others = config.style.others = []
    config.others.contents, config.others.styles, config.others.count = ["dog", "cat", "bus"], ["noto", "sepia"], 3
    return config


def pixels(pictures):
    return [np.asarray(picture.image).tobytes() for picture in pictures]


def test_the_base_draws_them_once_and_always_the_same(alone, tmp_path):
    pipe = guided_pipeline(open_base(alone.resolved_base()), alone.preset)
    drawn = draw_others(pipe, alone, tmp_path / "a")
    captions = [picture.caption for picture in drawn]
    assert len(set(captions)) == 3 and all(c.endswith((", noto style", ", sepia style")) for c in captions)
    assert drawn[0].image.size == (32, 32) and len(set(pixels(drawn))) == 3
    written = [picture.path.stat().st_mtime_ns for picture in drawn]
    drawn[1].path.touch()
    again = draw_others(pipe, alone, tmp_path / "a")
    assert pixels(again) == pixels(drawn) and again[0].path.stat().st_mtime_ns == written[0]
    drawn[2].path.unlink()  # killed in between
    drawn[0].path.write_bytes(b"")  # damaged
    assert pixels(draw_others(pipe, alone, tmp_path / "a")) == pixels(drawn)


def test_large_pictures_are_drawn_a_few_at_a_time(alone, monkeypatch):
    assert [others.at_once(side) for side in (64, 512, 1024)] == [256, 4, 1]
    pipe = guided_pipeline(open_base(alone.resolved_base()), alone.preset)
    prompts, batches, draw_batch = [f"{name}, noto style" for name in "abcde"], [], others.sheet.draw
    whole = others.draw(pipe, prompts, (0, 1, 2, 3, 4), 32)

    def counted(pipe, prompts, seeds, *settings):
        batches.append(seeds)
        return draw_batch(pipe, prompts, seeds, *settings)

    monkeypatch.setattr(others.sheet, "draw", counted)
    monkeypatch.setattr(others, "MOST", 2 * 32 * 32)
    parts = others.draw(pipe, prompts, (0, 1, 2, 3, 4), 32)
    assert batches == [(0, 1), (2, 3), (4,)]
    for part, one in zip(parts, whole, strict=True):
        np.testing.assert_allclose(np.asarray(part, int), np.asarray(one, int), atol=1)


def test_a_run_says_that_it_draws_them_and_is_cancelled_within_a_step(alone, tmp_path):
    said, asked = [], []

    def stop_at_the_third() -> bool:
        asked.append(Run(tmp_path / "run").read_state()["doing"])
        return len(asked) == 3

    run = customize(alone, tmp_path / "run", should_stop=stop_at_the_third)
    assert set(asked) == {"Drawing pictures of other things in other styles, 0 of 3"} and len(asked) == 3
    assert run.status == "cancelled" and not run.adapter.exists()
    assert customize(alone, tmp_path / "run", should_stop=lambda: bool(said.append(1))).status == "done"


@pytest.mark.slow
def test_they_are_shared_by_runs_of_one_base_and_found_by_all_that_decides_them(alone, tmp_path):
    """Another autoencoder, tokenizer, scheduler, precision or denoiser draws others; another seed or rank does not."""
    alone.others.count = 1

    def folder(change=lambda pipe: None, **settings) -> str:
        pipe = guided_pipeline(open_base(alone.resolved_base()), alone.preset)
        change(pipe)
        (drawn,) = draw_others(pipe, alone.model_copy(update=settings), tmp_path)
        return drawn.path.parent.name

    own = folder()
    assert folder(seed=9, name="another", adapter=alone.adapter.model_copy(update={"rank": 8})) == own
    found = {
        own,
        folder(lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5)),
        folder(lambda pipe: pipe.vae.post_quant_conv.weight.data.neg_()),
        folder(lambda pipe: setattr(pipe.tokenizer, "model_max_length", 8)),
        folder(lambda pipe: setattr(pipe.text_encoder.config, "hidden_act", "gelu")),
        folder(lambda pipe: pipe.scheduler.register_to_config(beta_end=0.5)),
        folder(lambda pipe: pipe.unet.register_to_config(center_input_sample=True)),
        folder(lambda pipe: pipe.to(torch.bfloat16)),
    }
    assert len(found) == 8


def suspicious() -> StableDiffusionSafetyChecker:
    """A real checker, small, that finds fault with everything."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(vision_config=small | {"image_size": 8, "patch_size": 4}, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2)  # of cosines
    return checker.eval()


def test_a_safety_checker_does_not_turn_them_black(alone, tmp_path, caplog):
    pipe = guided_pipeline(open_base(alone.resolved_base()), alone.preset)
    plain = draw_others(pipe, alone, tmp_path / "cache")
    size = {"shortest_edge": 8}
    processor = CLIPImageProcessor(size=size, crop_size={"height": 8, "width": 8})
    checker = suspicious()
    pipe.register_modules(safety_checker=checker, feature_extractor=processor)
    (black,) = draw(pipe, plain[0].caption, (0,), 32, guidance_scale=2.0, steps=1)
    assert np.asarray(black).max() == 0  # what it does to everyone else's
    assert "safety checker turned 1 of 1 pictures black" in caplog.text
    drawn = draw_others(pipe, alone, tmp_path / "cache")
    assert pixels(drawn) == pixels(plain)
    assert drawn[0].path.parent != plain[0].path.parent  # where black ones may lie from before
    assert pipe.safety_checker is checker and pipe.config.safety_checker[1] == "StableDiffusionSafetyChecker"


def test_a_project_without_others_trains_on_them(alone, tmp_path):
    run = customize(alone, tmp_path / "run")
    entries = run.read_metrics()
    assert entries[0]["losses"].keys() == {"content", "other styles"}
    assert entries[3]["losses"].keys() == {"style", "other contents"}
    assert list((runs_folder().parent / "cache").glob("others-*")) and not list(run.folder.rglob("others-*"))


def test_none_are_drawn_where_none_are_wanted(alone, tmp_path):
    alone.others.count = 0
    assert [len(stage.parts) for stage in plan(alone)] == [1, 1, 2]
    customize(alone, tmp_path / "run")
    assert not list((runs_folder().parent / "cache").glob("others-*"))


@pytest.mark.parametrize("name", ["contents", "styles"])
def test_nothing_to_draw_is_a_sentence(alone, tmp_path, name):
    setattr(alone.others, name, [])
    with pytest.raises(UserError, match=rf"others.{name} is empty, and 3 pictures are to be drawn of them\. Name some"):
        customize(alone, tmp_path / "run")


def test_a_caption_that_names_no_content_is_refused(alone):
    with pytest.raises(UserError, match=r"others.caption"):
        Customization(**alone.model_dump(by_alias=True) | {"others": {"caption": "a picture"}})
