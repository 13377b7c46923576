"""What a project file may ask of the loss and its steps: each against its formula, and none unless it is asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import UserError
from tests.tiny import tiny_pipeline
from tests.training.conftest import write_project
from training import Customization, formats, loop, pictures
from training.concepts import read_all_pictures, weights_of
from training.families import FAMILIES, family_of
from training.loop import batches, begin_stage, learning_rate_factor, prepare_work, train_step
from training.model import denoising_loss
from training.plan import plan
from training.run import Run, decisive
from training.stages import BOTH, Part, in_one_pass
from training.state import State


def changed(config: Customization, **tables: dict) -> Customization:
    data = config.model_dump(by_alias=True)
    kept = {name: {} if name == "optimizer" else data[name] for name in tables}
    return Customization(**data | {name: kept[name] | values for name, values in tables.items()})


def work_of(config: Customization, folder, **tables: dict):
    return prepare_work(changed(config, **tables), Run(folder), lambda: False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, base):
    """The work of a project that asks for nothing."""
    folder = tmp_path_factory.mktemp("plain")
    return work_of(Customization.load(write_project(folder, base)), folder / "run")


def asking(work, **tables: dict):
    return replace(work, config=changed(work.config, **tables))


def first_batch(work):
    stage = work.stages[0]
    return next(batches(work, stage, stage.parts[0], 0))


def test_what_is_not_asked_for_leaves_the_bits_and_the_identity_as_they_were(config):
    named = decisive(config)
    assert "loss" not in named and named["steps"].keys() == {
        *("break_", "make", "batch_size", "accumulation", "others_batch_size")
    }
    assert "caption_dropout" not in named["content"] and "unmasked_weight" not in named["style"]
    asked = decisive(changed(config, loss={"min_snr": 5.0}, steps={"schedule": "linear"}))
    assert asked["loss"] == {"min_snr": 5.0} and asked["steps"]["schedule"] == "linear"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_error_of_the_picture(prediction):
    """An error of v or of the noise, told as an error of the picture, has the weight min(SNR, gamma)."""
    pipe = tiny_pipeline(prediction_type=prediction)
    levels = torch.tensor([1, 250, 600, 990])
    kept = pipe.scheduler.alphas_cumprod[levels].double()
    of_picture = {"epsilon": (1 - kept) / kept, "v_prediction": 1 - kept, "sample": torch.ones(4)}[prediction]
    snr = kept / (1 - kept)
    weights = family_of(pipe).min_snr_weights(pipe, levels, 5.0)
    torch.testing.assert_close(weights.double(), snr.clamp(max=5.0) * of_picture, rtol=1e-4, atol=1e-9)


def test_min_snr_reaches_the_loss(plain):
    latents, conditions, noise, levels, none = first_batch(plain)
    *same, weights = first_batch(asking(plain, loss={"min_snr": 2.0}))
    assert none is None and torch.equal(same[0], latents) and torch.equal(same[3], levels)
    each = [
        denoising_loss(
            plain.pipe, latents[i, None], {k: v[i, None] for k, v in conditions.items()}, noise[i, None], level[None]
        )
        for i, level in enumerate(levels)
    ]
    expected = sum(weight * loss for weight, loss in zip(weights.flatten(), each, strict=True)) / len(each)
    torch.testing.assert_close(denoising_loss(plain.pipe, *same, weights), expected)


def test_noise_offset_shifts_each_channel_as_a_whole(plain):
    still, moved = first_batch(plain), first_batch(asking(plain, loss={"noise_offset": 0.1}))
    shift = moved[2] - still[2]
    assert torch.equal(moved[0], still[0]) and torch.equal(moved[3], still[3])
    torch.testing.assert_close(shift, shift[..., :1, :1].expand_as(shift), atol=1e-6, rtol=0)
    assert 0.01 < shift[..., 0, 0].std() < 0.3


def test_a_flow_takes_neither(config):
    flow = next(family for family in FAMILIES.values() if family.predictions == ("flow",))
    for key in ("min_snr", "noise_offset"):
        with pytest.raises(UserError, match=f"loss.{key} is 0.5"):
            flow.check_loss(changed(config, loss={key: 0.5}).loss)


def test_captions_are_dropped_as_often_as_said(config, tmp_path):
    work = work_of(config, tmp_path / "run", content={"caption_dropout": 0.5})
    (part, *_), stage = work.stages[0].parts, work.stages[0]
    concept = work.concepts["content, captions short"]
    (none,) = concept.said(torch.tensor([0]), torch.tensor([concept.no_caption])).values()
    found = [row for k in range(100) for row in next(batches(work, stage, part, k))[1]["encoder_hidden_states"]]
    dropped = sum(torch.equal(row, none[0]) for row in found) / len(found)
    assert 0.4 < dropped < 0.6
    assert len(concept) == len(concept.names)  # it is no picture


def masked(folder, size=(64, 64), box=(0, 0, 32, 64)):
    """A picture with a mask that is white in the box."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(folder / "a.png")
    mask = Image.new("L", size)
    mask.paste(255, box)
    mask.save(folder / "a.mask.png")
    return folder


def test_a_mask_lies_beside_its_picture_and_is_none(tmp_path):
    folder = masked(tmp_path / "masked")
    (picture,) = pictures.read_pictures([folder], 32, "x")
    seen = np.asarray(picture.mask)
    assert seen.shape == (32, 32) and (seen[:, :14] > 250).all() and (seen[:, 18:] < 5).all()
    assert (np.asarray(picture.mirrored().mask)[:, 18:] > 250).all()
    (folder / "b.mask.png").write_bytes((folder / "a.mask.png").read_bytes())
    assert formats.survey([folder]).left_out == {folder / "b.mask.png": "a mask, and no picture there has this name"}


def test_what_is_transparent_is_outside_the_mask(tmp_path):
    image = Image.new("RGBA", (64, 64), (200, 30, 40, 255))
    image.paste((0, 0, 0, 0), (32, 0, 64, 64))
    image.save(tmp_path / "a.png")
    (picture,) = pictures.read_pictures([tmp_path], 32, "x")
    assert (np.asarray(picture.mask)[:, :14] > 250).all() and (np.asarray(picture.mask)[:, 18:] < 5).all()


@pytest.mark.parametrize(
    "size, box, said",
    [((64, 32), (0, 0, 8, 8), "64 x 32 pixels, and its picture 64 x 64"), ((64, 64), (0, 0, 0, 0), "black all over")],
)
def test_a_mask_that_cannot_be_meant_is_refused(tmp_path, size, box, said):
    folder = masked(tmp_path / "masked")
    mask = Image.new("L", size)
    mask.paste(255, box)
    mask.save(folder / "a.mask.png")
    with pytest.raises(UserError, match=said):
        pictures.read_pictures([folder], 32, "x")


def test_weights_keep_each_pictures_mean(tmp_path):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 8, 32))
    weights = weights_of([mask, None], 0.2, (4, 4))
    assert weights.shape == (2, 1, 4, 4) and torch.equal(weights[1], torch.ones(1, 4, 4))
    torch.testing.assert_close(weights[0, 0, 0], torch.tensor([1.0, 0.2, 0.2, 0.2]) / 0.4)


def test_a_mask_and_its_opposite_share_the_loss_between_them(config, tmp_path):
    folder = masked(tmp_path / "masked")
    settings = {"pictures": [folder], "mirror": False, "short_captions": False, "unmasked_weight": 0.0}
    *batch, weights = first_batch(work_of(config, tmp_path / "run", content=settings))
    assert weights[..., -1].eq(0).all() and weights[..., 0].gt(1.5).all()  # half of the picture counts twice
    pipe = tiny_pipeline(prediction_type="v_prediction")
    inside, outside, whole = (denoising_loss(pipe, *batch, one) for one in (weights, 2 - weights, None))
    torch.testing.assert_close((inside + outside) / 2, whole)
    assert abs(inside - outside) > 0.01 * whole


def test_schedules_fall_as_they_say():
    for schedule, half, end in (("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)):
        factors = [learning_rate_factor(k, 1000, schedule, 10) for k in range(1000)]
        assert factors[500] == pytest.approx(half) and factors[999] == pytest.approx(end, abs=2e-3)
    assert learning_rate_factor(0, 1000, "constant", 0) == 1.0
    assert learning_rate_factor(49, 1000, "constant", 100) == 0.5


def test_the_weight_of_others_scales_what_they_teach_and_nothing_else(plain):
    found = {}
    for weight in (1.0, 0.5, 0.25):
        work = asking(plain, content={"prior_weight": weight})
        work, state = replace(work, stages=plan(work.config)), State()
        begin_stage(work, state, work.stages[0])
        train_step(work, state, work.stages[0])
        found[weight] = {c: [p.grad.clone() for p in plain.adapter.parameters(c)] for c in ("content", "style")}
    for full, quarter in zip(found[1.0]["style"], found[0.25]["style"], strict=True):  # the stand-in
        torch.testing.assert_close(full / 4, quarter)
    triples = zip(*(found[weight]["content"] for weight in (1.0, 0.5, 0.25)), strict=True)
    for full, half, quarter in triples:  # the concept's own pictures teach it too
        assert (full != half).any()
        torch.testing.assert_close((full - half) / 0.5, (full - quarter) / 0.75, rtol=1e-3, atol=1e-6)


def test_a_limit_of_the_gradients_norm_bounds_a_step(plain):
    """AdamW's first step goes with the gradients where its eps is far above them."""
    adamw = {"name": "adamw", "lr": 1e-2, "eps": 1e-2}
    learned = []
    for limit in (0.0, 1e-6):
        work = asking(plain, steps={"max_grad_norm": limit, "warm_up": 0}, optimizer=adamw)
        state, stage = State(), work.stages[0]
        begin_stage(work, state, stage)
        before = work.adapter.learned("content")
        train_step(work, state, stage)
        after = work.adapter.learned("content")
        learned.append(sum((after[name] - value).square().sum() for name, value in before.items()).sqrt())
    assert 0 < learned[1] < 1e-2 * learned[0]


def test_a_mask_outside_the_square_that_is_used_is_refused_where_masks_count(config, tmp_path):
    """With no weight outside of it nothing would be learned from, and the loss not be a number."""
    folder = masked(tmp_path / "masked", size=(256, 64), box=(0, 0, 32, 64))
    asked = changed(config, content={"pictures": [str(folder)], "unmasked_weight": 0})
    with pytest.raises(UserError, match=r"a\.png lies outside the square .* Move the square with content\.crops"):
        read_all_pictures(asked)
    moved = changed(asked, content={"crops": {"a.png": 0.0}})
    assert read_all_pictures(moved)["content"][0].mask.getbbox()
    assert read_all_pictures(changed(asked, content={"unmasked_weight": 1.0}))


@pytest.mark.parametrize("asked", [{}, {"loss": {"min_snr": 2.0}}], ids=["plain", "weighed"])
def test_one_pass_of_make_gives_the_gradients_of_one_pass_for_each_concept(config, tmp_path, monkeypatch, asked):
    work, found = work_of(config, tmp_path / "run", **asked), []
    make = next(stage for stage in work.stages if stage.joins)
    assert [len(parts) for parts in loop.passes(work, make)] == [2]
    for apart in (False, True):
        if apart:
            monkeypatch.setattr(loop, "passes", lambda work, stage: [(part,) for part in stage.parts])
        state = State(step=make.first, done={concept: work.adapter.fresh() for concept in BOTH})
        begin_stage(work, state, make)
        losses = train_step(work, state, make)
        found.append((losses, [p.grad.clone() for concept in BOTH for p in work.adapter.parameters(concept)]))
    (together, ours), (each, theirs) = found
    assert together == pytest.approx(each, rel=1e-5) and together.keys() == {"content", "style"}
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_only_what_moves_the_same_factors_goes_through_together_and_not_too_much_of_it():
    both, other = Part("content", 4, BOTH), Part("style", 4, BOTH)
    others = Part("other styles", 4, ("content",))
    assert in_one_pass((both, other, others), 8) == [(both, other), (others,)]
    assert in_one_pass((both, other), 7) == [(both,), (other,)]
    assert in_one_pass((both, replace(other, weight=0.5)), 8) == [(both,), (replace(other, weight=0.5),)]
