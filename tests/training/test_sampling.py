"""A base's pipeline, ready to draw."""

import pytest
import torch
from PIL import Image

from pipelines import UserError
from tests.tiny import tiny_pipeline
from tests.training.bases import BASES, made
from training import sheet
from training.families import FAMILIES
from training.model import open_base
from training.sampling import LARGE, from_picture, guided_pipeline, open_run, starting_from


def test_large_pictures_are_decoded_one_at_a_time(base):
    pipe = open_base(str(base))
    counts = []
    pipe.vae.decoder.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    for size in (32, LARGE):
        pipe.vae.register_to_config(sample_size=size)
        sheet.draw(guided_pipeline(pipe, "emoji"), "fox", (0, 1, 2), 32, 4.0, 1)
    assert counts == [3, 1, 1, 1]


def test_a_run_is_drawn_on_a_relative_of_its_base_and_on_no_stranger(finished, tmp_path, caplog):
    tiny_pipeline(prediction_type="v_prediction", seed=1).save_pretrained(tmp_path / "turbo")
    pipe, _ = open_run(finished.folder, str(tmp_path / "turbo"))
    assert "a relative" in caplog.text
    own, relative = (
        sheet.draw(one, "sks koala", (0,), 32, 4.0, 2)[0].tobytes() for one in (open_run(finished.folder)[0], pipe)
    )
    pipe.set_scales(content=0.0, style=0.0)
    assert len({own, relative, sheet.draw(pipe, "sks koala", (0,), 32, 4.0, 2)[0].tobytes()}) == 3
    made("flux1").save_pretrained(tmp_path / "stranger")
    with pytest.raises(UserError, match="has a FluxTransformer2DModel, and the run's base a UNet2DConditionModel"):
        open_run(finished.folder, str(tmp_path / "stranger"))


WITH_A_START = [(name, kind) for name in BASES for kind in FAMILIES[name].starts]
WITHOUT = [(name, kind) for name in BASES for kind in ("image", "inpaint") if kind not in FAMILIES[name].starts]


@pytest.mark.parametrize("name, kind", WITHOUT)
def test_a_family_without_a_class_for_a_start_says_so(name, kind):
    with pytest.raises(UserError, match="cannot start from" if kind == "image" else "cannot change a part of"):
        from_picture(guided_pipeline(made(name), "emoji"), masked=kind == "inpaint")


@pytest.mark.parametrize("name, kind", WITH_A_START)
def test_every_other_family_starts_from_a_picture_or_changes_a_part_of_one(name, kind):
    mask = Image.new("L", (32, 32), 255) if kind == "inpaint" else None
    pipe = from_picture(guided_pipeline(made(name), "emoji"), masked=mask is not None)

    def drawn(colour: str, *seeds: int) -> list[bytes]:
        given = sheet.guided_by(pipe, 4.0, len(seeds))
        given |= starting_from(pipe, Image.new("RGB", (32, 32), colour), 0.5, len(seeds), mask)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures = pipe(["fox"] * len(seeds), **given, num_inference_steps=2, generator=generators).images
        assert pictures[0].size == (32, 32)
        return [picture.tobytes() for picture in pictures]

    first, second = drawn("red", 1, 2)
    assert drawn("red", 1, 2) == [first, second] and first != second and first != drawn("blue", 1, 2)[0]
