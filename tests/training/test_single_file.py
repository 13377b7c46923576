"""Bases in single files, opened without a network."""

import json
import socket
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pipelines import UserError
from pipelines.adapters import fingerprint
from tests.single_file import save_single_file, tiny_base
from training import customize, model, single_file

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
MARKS = {  # marker tensors, and what they say
    "sd1": ({}, "epsilon", False),
    "sd2": ({"global_step": torch.tensor(110_000)}, "v_prediction", False),
    "sdxl": ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, "v_prediction", True),
}


@pytest.fixture
def offline(monkeypatch):
    """No connection is made."""

    def refused(*_: object) -> None:
        raise AssertionError("something wants the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(params=MARKS)
def single(request, tmp_path, monkeypatch) -> tuple[str, object, Path]:
    """A family, a tiny pipeline of it, and its file; the configurations are the tiny pipeline's."""
    family = request.param
    pipe, path = tiny_base(family), tmp_path / "base.safetensors"
    save_single_file(pipe, family, path, MARKS[family][0], {"modelspec.resolution": "32x32"})
    configs = tmp_path / "configs"
    pipe.save_pretrained(configs / family)
    for weights in configs.rglob("*.safetensors"):
        weights.unlink()
    (configs / "merges.txt.gz").write_bytes((single_file.CONFIGS / "merges.txt.gz").read_bytes())
    monkeypatch.setattr(single_file, "CONFIGS", configs)
    return family, pipe, path


def test_a_file_is_opened_as_the_pipeline_that_it_was(single, offline):
    family, pipe, path = single
    opened = model.open_base(str(path))
    for name in NETWORKS[: 4 if family == "sdxl" else 3]:
        assert fingerprint(getattr(opened, name)) == fingerprint(getattr(pipe, name)), name
    assert [one("a fox").input_ids for one in model.tokenizers(opened)] == [[49406, 320, 3240, 49407]] * (
        2 if family == "sdxl" else 1
    )
    _, prediction, zero_snr = MARKS[family]
    config = opened.scheduler.config
    assert (config.prediction_type, bool(config.get("rescale_betas_zero_snr"))) == (prediction, zero_snr)


LOST = {  # ends of tensors' names -> the part that they are missed in
    ("model.diffusion_model.out.2.weight",): "UNet",
    ("model.diffusion_model.time_embed.0.weight",): "UNet",
    ("first_stage_model.decoder.conv_in.bias",): "VAE",
    ("text_model.encoder.layers.1.mlp.fc1.bias", ".model.ln_final.weight"): "text encoder",  # CLIP's, OpenCLIP's
}


@pytest.mark.parametrize("lost", LOST)
def test_a_file_without_a_tensor_is_refused_by_the_part(single, lost, offline):
    _, _, path = single
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(lost)}
    assert len(kept) < len(tensors)
    save_file(kept, path)
    with pytest.raises(
        UserError,
        match=rf"a tensor of its {LOST[lost]} is missing|The tensor .* in the .*{LOST[lost]} of the base .* is missing",
    ):
        model.open_base(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("single", ["sdxl"], indirect=True)
def test_a_descendant_of_sdxl_is_customized_with_what_its_markers_say(single, config, tmp_path, offline):
    config.base = str(single[2])
    config.steps = config.steps.model_copy(update={"break_": 1, "make": 1, "batch_size": 1})
    run = customize(config, tmp_path / "run")
    assert run.status == "done"


COUNTS = {  # parameters, in the text encoders as diffusers has them
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.mark.parametrize("family", COUNTS)
def test_the_configurations_have_as_many_parameters_as_the_published_models(family):
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder_2": CLIPTextModelWithProjection}
    for part, count in COUNTS[family].items():
        folder = single_file.CONFIGS / family / part
        with torch.device("meta"):
            if part.startswith("text"):
                made = kinds.get(part, CLIPTextModel)(CLIPTextConfig.from_pretrained(folder))
            else:
                made = kinds[part].from_config(json.loads((folder / "config.json").read_text()))
        assert sum(parameter.numel() for parameter in made.parameters()) == count, part


def test_the_tokenizer_is_clip_s():
    """Numbers of words as OpenAI's tokenizer gives them."""
    tokenizer = single_file.clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("A  Dog!").input_ids == [49406, 320, 1929, 256, 49407] and len(tokenizer) == 49408
    padded = single_file.clip_tokenizer("!")("dog", padding="max_length").input_ids
    assert padded == [49406, 1929, 49407] + [0] * 74
