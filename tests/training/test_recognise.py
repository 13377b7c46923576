"""What a base is, told without loading it; what cannot be trained, refused before a weight is read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file, save_file

from pipelines import UserError
from pipelines.adapters import fingerprint
from tests.hub import hub
from tests.tiny import tiny_pipeline
from tests.training.bases import made
from training import Customization, customize, model
from training.config import HOUSE, PRESETS
from training.families import family_of
from training.families.family import PARTS
from training.families.stable_diffusion import FIRST, KEYS, LABELS, UNET
from training.optimizers.settings import OPTIMIZERS
from training.recognise import recognise, variant
from training.sampling import guided_pipeline, open_run

CLIP, OPENCLIP = (
    "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    "cond_stage_model.model.ln_final.weight",
)
VAE = "first_stage_model.encoder.conv_in.weight"
XL_TEXT = ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",)
XL_TEXT += ("conditioner.embedders.1.model.ln_final.weight",)
FILES = {  # the tensors that tell, with their names and shapes in the files that people have
    "sd1": {FIRST: (320, 4, 3, 3), KEYS: (320, 768), VAE: (1,), CLIP: (1,)},
    "sd2": {FIRST: (320, 4, 3, 3), KEYS: (320, 1024), VAE: (1,), OPENCLIP: (1,)},
    "sdxl": {FIRST: (320, 4, 3, 3), LABELS: (1280, 2816), VAE: (1,), XL_TEXT[0]: (1,), XL_TEXT[1]: (1,)},
}


def file(folder: Path, tensors: dict, name: str = "model", metadata: dict | None = None) -> str:
    made = {
        key: torch.zeros(value, dtype=torch.bfloat16) if isinstance(value, tuple) else value
        for key, value in tensors.items()
    }
    save_file(made, folder / f"{name}.safetensors", metadata)
    return str(folder / f"{name}.safetensors")


def folder(path: Path, cls: type = StableDiffusionPipeline, scheduler: object = None, **changes: dict) -> str:
    """A saved pipeline with changes in the configuration of its parts."""
    tiny_pipeline(cls, scheduler=scheduler).save_pretrained(path)
    for part, values in changes.items():
        change(path / part / "config.json" if part != "index" else path / "model_index.json", **values)
    return str(path)


def noise_schedule(pipe: StableDiffusionPipeline) -> dict:
    return family_of(pipe).noise_schedule(pipe)


def change(config: Path, **values: object) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


@pytest.mark.parametrize(
    ("marks", "metadata", "expected"),
    [
        ({}, {}, ("epsilon", False, 1024)),
        ({"v_pred": (1,)}, {}, ("v_prediction", False, 1024)),
        ({"v_pred": (1,), "ztsnr": (1,)}, {}, ("v_prediction", True, 1024)),
        ({}, {"modelspec.prediction_type": "v"}, ("v_prediction", False, 1024)),
        ({}, {"modelspec.predict_key": "epsilon", "modelspec.resolution": "768x768"}, ("epsilon", False, 768)),
    ],
)
def test_a_descendant_of_sdxl_says_what_it_predicts(tmp_path, marks, metadata, expected):
    found = recognise(file(tmp_path, FILES["sdxl"] | marks, metadata=metadata))
    assert (found.family, found.preset) == ("sdxl", "sdxl") and not found.missing
    assert (found.prediction, found.zero_snr, found.resolution) == expected
    found.check_trains("sdxl", 1024)


def test_a_name_says_velocity_where_nothing_else_does(tmp_path):
    assert recognise(file(tmp_path, FILES["sdxl"], "noobXL_vPred10")).prediction == "v_prediction"
    said = {"modelspec.prediction_type": "epsilon"}
    assert recognise(file(tmp_path, FILES["sdxl"], "noobXL_vPred10", said)).prediction == "epsilon"


@pytest.mark.parametrize(
    ("steps", "metadata", "prediction", "side"),
    [
        (875_000, {}, "epsilon", 512),
        (110_000, {}, "v_prediction", 768),
        (None, {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon", 512),
        (None, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", 768),
        (None, {}, "", 0),
    ],
)
def test_a_file_of_sd2_is_epsilon_or_v_only_if_something_tells(tmp_path, steps, metadata, prediction, side):
    marks = {} if steps is None else {"global_step": torch.tensor(steps)}
    found = recognise(file(tmp_path, FILES["sd2"] | marks, metadata=metadata))
    assert (found.family, found.prediction, found.resolution, found.preset) == ("sd2", prediction, side, "sd15")
    if not prediction:
        with pytest.raises(UserError, match=r"tells whether it predicts noise or velocity\. Set prediction"):
            found.check_opens()
        found.told("epsilon", None).check_trains("sd15", 512)


def test_a_file_of_sd1_is_epsilon_for_512_pixels(tmp_path):
    found = recognise(file(tmp_path, FILES["sd1"]))
    assert (found.family, found.prediction, found.resolution, found.preset) == ("sd1", "epsilon", 512, "sd15")


def without(tensors: dict, *keys: str) -> dict:
    return {key: shape for key, shape in tensors.items() if key not in keys}


REFUSED = {
    "is distilled .* 'Turbo'.*Train on .*stable-diffusion-xl-base": (FILES["sdxl"], "dreamXL_Turbo_v2", {}),
    "is distilled .* 'Lightning'": (FILES["sdxl"], "model", {"modelspec.title": "SDXL Lightning 8 steps"}),
    "is distilled .* 'LCM'": (FILES["sd1"], "dreamshaper-LCM", {}),
    "is distilled .*told the guidance scale": (
        FILES["sd1"] | {f"{UNET}time_embed.cond_proj.weight": (1,)},
        "model",
        {},
    ),
    "Stable Diffusion 1 inpainting model, which .* stable-diffusion-v1-5": (
        FILES["sd1"] | {FIRST: (320, 9, 3, 3)},
        "model",
        {},
    ),
    "Stable Diffusion XL inpainting model": (FILES["sdxl"] | {FIRST: (320, 9, 3, 3)}, "model", {}),
    "is a model with 8 channels of input, which": (FILES["sd1"] | {FIRST: (320, 8, 3, 3)}, "model", {}),
    "Stable Diffusion XL refiner, which .*xl-base": (
        without(FILES["sdxl"], *XL_TEXT) | {"conditioner.embedders.0.model.ln_final.weight": (1,)},
        "model",
        {},
    ),
    "EDM .edm_mean., which cannot": (FILES["sdxl"] | {"edm_mean": (4,), "edm_std": (4,)}, "model", {}),
    "EDM .edm_vpred.sigma_max.": (FILES["sdxl"] | {"edm_vpred.sigma_max": (1,), "v_pred": (1,)}, "model", {}),
    "is a FLUX.1 model, which cannot": ({"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, "model", {}),
    "is a Z-Image model": ({f"{UNET}layers.0.adaLN_modulation.0.weight": (1,)}, "model", {}),
    "is a LoRA file": ({"lora_unet_down_blocks_0.lora_down.weight": (1,)}, "model", {}),
    "without a UNET": ({"a": (1,)}, "model", {}),
    "The VAE of .* is missing": (without(FILES["sdxl"], VAE), "model", {}),
    "The text encoder of .* is missing": (without(FILES["sd1"], CLIP), "model", {}),
    "The second text encoder of .* is missing": (without(FILES["sdxl"], XL_TEXT[1]), "model", {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_files_that_cannot_be_trained_are_refused_in_a_sentence(tmp_path, message):
    tensors, name, metadata = REFUSED[message]
    found = recognise(file(tmp_path, tensors, name, metadata))
    with pytest.raises(UserError, match=message):
        found.check_trains(found.preset, found.resolution)


@pytest.mark.parametrize(
    "file, held",
    [
        ("model_index.json", "[" * 10**5),
        ("model_index.json", '{"_class_name": []}'),
        ("unet/config.json", '{"sample_size": "x", "_name_or_path": 3}'),
        ("unet/config.json", '{"sample_size": "64"}'),
        ("unet/config.json", '{"sample_size": 1e308}'),
        ("scheduler/scheduler_config.json", '{"prediction_type": NaN}'),
        ("scheduler/scheduler_config.json", '{"prediction_type": ["epsilon"]}'),
        ("unet/diffusion_pytorch_model.safetensors.index.json", '{"weight_map": [3]}'),
    ],
)
def test_files_of_another_kind_than_is_known_are_a_sentence(base, tmp_path, file, held):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / file).write_text(held)
    with pytest.raises(UserError, match="cannot be opened"):
        recognise(str(tmp_path / "base"))


def test_a_base_that_is_none_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.safetensors").write_bytes(bytes(1000))
    for base in ("folder", "file.safetensors"):
        with pytest.raises(UserError, match="cannot be opened"):
            model.open_base(str(tmp_path / base))


@pytest.mark.parametrize("cls", [StableDiffusionPipeline, StableDiffusionXLPipeline])
@pytest.mark.parametrize("side", [16, 64])
def test_a_folder_says_what_it_is(tmp_path, cls, side):
    schedule = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    found = recognise(folder(tmp_path / "base", cls, schedule, unet={"sample_size": side}, vae=LARGE_VAE))
    assert found.family == ("sdxl" if cls is StableDiffusionXLPipeline else "sd1") and not found.missing
    assert (found.prediction, found.zero_snr, found.resolution) == ("v_prediction", True, side * 8)
    small = side * 8 < 256
    assert found.preset == ("emoji" if small else "sdxl" if found.family == "sdxl" else "sd15")


LARGE_VAE = {"block_out_channels": [8, 16, 16, 16]}  # a pixel of its latents is 8 wide
TURBO = EulerAncestralDiscreteScheduler(timestep_spacing="trailing")
FOLDERS = {
    r"distilled .*its name has 'turbo'": {"index": {"_name_or_path": "stabilityai/sdxl-turbo"}},
    r"distilled .*LCMScheduler": {"scheduler": LCMScheduler()},
    r"distilled .*EulerAncestralDiscreteScheduler with trailing steps": {"scheduler": TURBO},
    r"distilled .*told the guidance scale": {"unet": {"time_cond_proj_dim": 256}},
    r"a Stable Diffusion 1 inpainting model, which .*v1-5": {
        "unet": {"in_channels": 9},
        "index": {"_class_name": "StableDiffusionInpaintPipeline"},
    },
    r"a Stable Diffusion XL refiner, which .*xl-base": {
        "index": {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    },
    r"preconditioned as in EDM \(EDMEulerScheduler\)": {"scheduler": EDMEulerScheduler()},
    r"is a HiDreamImagePipeline, which cannot be customized yet. Choose a base of": {
        "index": {"_class_name": "HiDreamImagePipeline"}
    },
    r"predicts 'flow', which cannot": {"scheduler": FlowMatchEulerDiscreteScheduler()},
}


@pytest.mark.parametrize("message", FOLDERS)
def test_folders_that_cannot_be_trained_are_refused_before_a_weight_is_read(tmp_path, config, message):
    base = folder(tmp_path / "base", **FOLDERS[message])
    for weights in Path(base).rglob("*.safetensors"):
        weights.write_bytes(b"not read")
    config.base = base
    with pytest.raises(UserError, match=message):
        customize(config, tmp_path / "run")


def test_of_flux_the_models_for_text_are_trained_that_were_not_made_for_a_few_steps(tmp_path):
    base = tmp_path / "base"
    made("flux1").save_pretrained(base)
    change(base / "vae/config.json", sample_size=1024)
    recognise(str(base)).check_trains("flux1", 1024)
    change(base / "transformer/config.json", guidance_embeds=False)
    recognise(str(base)).check_trains("flux1", 1024)  # made free of distilled guidance again, as some are
    change(base / "scheduler/scheduler_config.json", use_dynamic_shifting=False)
    with pytest.raises(UserError, match=r"distilled .*as schnell.*Train on .*FLUX.1-dev"):
        recognise(str(base)).check_trains("flux1", 1024)
    change(base / "model_index.json", _class_name="FluxKontextPipeline")
    with pytest.raises(UserError, match=r"is a FLUX.1 model that edits pictures \(Kontext\), which .*FLUX.1-dev"):
        recognise(str(base)).check_trains("flux1", 1024)


def test_a_single_file_of_a_family_that_is_read_as_folders_only_says_so(tmp_path):
    found = recognise(file(tmp_path, {"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}))
    with pytest.raises(UserError, match=r"cannot be read from a single file yet\. Name its folder .*FLUX.1-dev"):
        found.check_opens()


def test_a_base_that_was_never_distilled_is_not_refused_for_its_scheduler(tmp_path):
    for number, scheduler in enumerate(
        [
            EulerAncestralDiscreteScheduler(timestep_spacing="leading"),
            EulerAncestralDiscreteScheduler(timestep_spacing="trailing", prediction_type="v_prediction"),
            DDIMScheduler(timestep_spacing="trailing"),
        ]
    ):
        recognise(folder(tmp_path / str(number), scheduler=scheduler)).check_trains("emoji", 32)


def test_the_width_of_the_text_tells_sd2(tmp_path):
    found = recognise(folder(tmp_path / "base", unet={"cross_attention_dim": 1024, "sample_size": 96}, vae=LARGE_VAE))
    assert (found.family, found.resolution, found.preset) == ("sd2", 768, "sd15")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "UNet"),
        ("vae", "VAE"),
        ("text_encoder", "text encoder"),
        ("text_encoder_2", "second text encoder"),
        ("tokenizer", "tokenizer"),
        ("tokenizer_2", "second tokenizer"),
        ("scheduler", "scheduler"),
    ],
)
def test_a_part_that_is_missing_is_named(tmp_path, part, name):
    base = folder(tmp_path / "base", StableDiffusionXLPipeline)
    shutil.rmtree(tmp_path / "base" / part)
    with pytest.raises(UserError, match=f"^The {name} of the base model .* is missing or not whole"):
        model.open_base(base)


def weights_of(base: str, part: str) -> Path:
    (found,) = (Path(base) / part).glob("*.safetensors")
    return found


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("number", "said"), [(None, "is missing"), (float("nan"), "not finite"), (float("inf"), "not finite")]
)
def test_a_tensor_that_is_missing_or_no_number_is_named(tmp_path, part, number, said):
    base = folder(tmp_path / "base")
    path = weights_of(base, part)
    tensors = load_file(path)
    name = sorted(tensors)[2]
    if number is None:
        del tensors[name]
    else:
        tensors[name].flatten()[-1] = number
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=f"^The tensor {name} in the {PARTS[part]} of the base model .* {said}"):
        model.open_base(base)


def test_a_part_of_an_unknown_class_is_named(tmp_path):
    base = folder(tmp_path / "base", index={"vae": ["diffusers", "AutoencoderOfTomorrow"]})
    with pytest.raises(UserError, match=r"The VAE of .* unknown class AutoencoderOfTomorrow"):
        model.open_base(base)


def test_weights_in_half_precision_alone_and_in_several_files_are_opened(tmp_path):
    pipe = tiny_pipeline()
    expected = fingerprint(pipe.unet)
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    pipe.save_pretrained(tmp_path / "both", variant="fp16", max_shard_size="50KB")
    assert [variant(tmp_path / name / "unet") for name in ("half", "shards", "both")] == ["fp16", "", "fp16"]
    for name in ("half", "shards", "both"):
        assert not (tmp_path / name / "unet/diffusion_pytorch_model.safetensors").exists()
        assert fingerprint(model.open_base(str(tmp_path / name)).unet) == expected
    next((tmp_path / "shards/unet").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"The UNet of the base model .* is missing or not whole"):
        model.open_base(str(tmp_path / "shards"))


def test_plain_weights_come_before_those_in_half_precision(tmp_path):
    base = folder(tmp_path / "base")
    path = weights_of(base, "unet")
    halved = {key: value * 2 for key, value in load_file(path).items()}
    save_file(halved, path.with_name("diffusion_pytorch_model.fp16.safetensors"), {"format": "pt"})
    assert variant(path.parent) == "" and fingerprint(model.open_base(base).unet) == fingerprint(tiny_pipeline().unet)


def test_pickles_alone_are_no_weights(tmp_path):
    base = folder(tmp_path / "base")
    path = weights_of(base, "unet")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(UserError, match=r"The UNet of .* is missing.*its weights as \.safetensors"):
        model.open_base(base)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_what_a_project_says_of_its_base_is_what_it_trains_and_draws_with(tmp_path, scheduler):
    base = folder(tmp_path / "base", scheduler=scheduler())
    plain = model.open_base(base)
    assert noise_schedule(plain)["prediction_type"] == "epsilon"
    pipe = model.open_base(base, prediction="v_prediction", zero_snr=True)
    schedule = noise_schedule(pipe)
    assert (schedule["prediction_type"], schedule["rescale_betas_zero_snr"]) == ("v_prediction", True)
    drawn = guided_pipeline(pipe, "emoji").scheduler
    assert drawn.config.prediction_type == "v_prediction" and drawn.config.timestep_spacing == "trailing"
    assert drawn.alphas_cumprod[-1] < 1e-6 < guided_pipeline(plain, "emoji").scheduler.alphas_cumprod[-1]


def test_a_scheduler_that_is_right_is_left_alone(base):
    pipe = model.open_base(str(base))
    said = model.open_base(str(base), prediction="v_prediction", zero_snr=False)
    assert pipe.scheduler.config == said.scheduler.config


def test_a_run_keeps_what_was_said_of_its_base(config, tmp_path):
    config.prediction, config.zero_snr = "sample", True
    config.steps = config.steps.model_copy(update={"break_": 1, "make": 1})
    run = customize(config, tmp_path / "run")
    held = Customization.load(run.config)
    assert (held.prediction, held.zero_snr) == ("sample", True)
    pipe, _ = open_run(run.folder)
    assert pipe.scheduler.config.prediction_type == "sample" and pipe.scheduler.config.rescale_betas_zero_snr
    config.prediction = "v_prediction"
    with pytest.raises(UserError, match="base model have changed"):
        customize(config, tmp_path / "run")


def test_noise_alone_does_not_predict_noise(config):
    config.prediction, config.zero_snr = "epsilon", True
    with pytest.raises(UserError, match=r"zero_snr is true, but .* predicts noise"):
        config.recognised_base()


@pytest.mark.parametrize(
    ("capability", "precision", "expected"),
    [
        ((7, 5), "auto", torch.float32),  # T4, RTX 20
        ((7, 0), "auto", torch.float32),  # V100
        ((8, 0), "auto", torch.bfloat16),
        ((8, 9), "fp32", torch.float32),
        ((7, 5), "fp16", torch.float16),
        ((7, 5), "bf16", torch.bfloat16),  # asked for by name, it is emulated
    ],
)
def test_bf16_is_chosen_where_the_card_has_it(monkeypatch, caplog, capability, precision, expected):
    monkeypatch.setattr(model, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert model.dtype(precision) == expected
    assert ("This GPU has no bf16 and emulates it" in caplog.text) is (precision == "bf16")
    assert model.fast_dtype() == (torch.bfloat16 if capability >= (8, 0) else torch.float32)


PICTURES = {"content": {"pictures": "content"}, "style": {"pictures": "style"}}


def test_preset_resolution_rates_and_words_follow_from_the_base(tmp_path):
    base = file(tmp_path, FILES["sdxl"] | {"v_pred": (1,)})
    config, preset = Customization(**PICTURES, base=base), PRESETS["sdxl"]
    assert config.model_dump(exclude={"base"}) == Customization(**PICTURES, preset="sdxl").model_dump(exclude={"base"})
    assert (config.preset, config.resolution, config.optimizer.lr) == ("sdxl", 1024, preset["optimizer"]["lr"])
    assert (
        config.others.contents == preset["others"]["contents"] and config.recognised_base().prediction == "v_prediction"
    )
    by_hub_id = Customization(**PICTURES, base=PRESETS["sd15"]["base"])
    assert (by_hub_id.preset, by_hub_id.resolution) == ("sd15", 512)


def test_a_project_file_s_base_is_found_from_its_folder_before_it_is_followed(project, tmp_path):
    folder(tmp_path / "mine", unet={"cross_attention_dim": 1024, "sample_size": 96}, vae=LARGE_VAE)
    lines = [line for line in project.read_text().splitlines() if not line.startswith(("base", "resolution", "lr"))]
    project.write_text("\n".join(['base = "mine"', *lines]))
    config = Customization.load(project)
    assert (config.preset, config.resolution, config.optimizer.lr) == ("sd15", 768, PRESETS["sd15"]["optimizer"]["lr"])
    config.save(tmp_path / "run" / "config.toml")
    held = Customization.load(tmp_path / "run" / "config.toml")
    assert (held.preset, held.resolution) == ("sd15", 768)


def test_what_a_person_gives_stands_above_what_follows(tmp_path):
    base = file(tmp_path, FILES["sdxl"])
    given = Customization(**PICTURES, base=base, resolution=768, optimizer={"lr": 1e-4}, others={"count": 3})
    assert (given.preset, given.resolution, given.optimizer.lr, given.others.count) == ("sdxl", 768, 1e-4, 3)
    given.recognised_base()
    assert Customization(**PICTURES, base=base, memory="cpu").resolution == 512  # what fits stands above it too


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"resolution": 64},
            r"resolution is 64, but .* was made for 1024 px\. Leave resolution out, or set it to 512 to",
        ),
        ({"preset": "emoji"}, r"preset is 'emoji', but .* is Stable Diffusion XL for 1024 px\. Set preset to \"sdxl\""),
        ({"preset": "sd15"}, "preset is 'sd15', but"),
    ],
)
def test_what_contradicts_the_base_is_refused(tmp_path, given, message):
    config = Customization(**PICTURES, base=file(tmp_path, FILES["sdxl"]), **given)
    with pytest.raises(UserError, match=message):
        customize(config, tmp_path / "run")


def test_the_embedded_base_is_for_its_own_preset():
    assert Customization(**PICTURES).recognised_base().preset == "emoji"
    with pytest.raises(
        UserError, match=r"preset is 'sdxl', but the base model '.*emoji' is Stable Diffusion 1 for 64 px"
    ):
        Customization(**PICTURES, base="models/emoji", preset="sdxl").recognised_base()


@pytest.mark.parametrize("memory", [None, 12])
@pytest.mark.parametrize("preset", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_go_only_to_optimizers_of_which_they_are_the_rates(name, preset, memory):
    own = Customization(**PICTURES, preset=preset, memory=memory, optimizer={"name": name}).optimizer
    rates = OPTIMIZERS[name]() if name == "prodigy" else OPTIMIZERS[name](**PRESETS[preset]["optimizer"])
    assert (own.name, own.lr, own.make_lr) == (name, rates.lr, rates.make_lr)
    given = Customization(**PICTURES, preset=preset, optimizer={"name": name, "lr": 0.5}).optimizer
    assert given.lr == 0.5 and given.make_lr == rates.make_lr


ON_THE_HUB = """
from pipelines import UserError
from training import Customization, model
from training.recognise import recognise

print(recognise("someone/half", fetch=False))
try:
    Customization(base="someone/turbo", content={"pictures": "content"}).recognised_base()
except UserError as error:
    print(error)
try:
    recognise("someone/none")
except UserError as error:
    print(error)
print(model.open_base("someone/half", "fp32").unet.dtype)
print(recognise("someone/half", fetch=False).family)
"""


@pytest.mark.slow
def test_a_hub_id_is_recognised_before_a_weight_is_fetched(tmp_path):
    """Of a model that is refused only small files are fetched; one with nothing but half precision is opened."""
    models = tmp_path / "models"
    folder(models / "someone/turbo")
    tiny_pipeline().save_pretrained(models / "someone/half", variant="fp16")
    with hub(models) as (address, asked):
        here = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", ON_THE_HUB]
        done = subprocess.run(command, env=os.environ | here, cwd=HOUSE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nothing_yet, turbo, none, opened, known = done.stdout.splitlines()
    assert nothing_yet == "None" and known == "sd1" and opened == "torch.float32"
    assert "'someone/turbo' is distilled to draw in a few steps (its name has 'turbo')" in turbo
    assert "'someone/none' is neither a folder, nor a file, nor a hub model within reach" in none
    small = {"model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"}
    assert {name.removeprefix("someone/turbo/") for name in asked if "turbo" in name} == small
    assert "someone/half/unet/diffusion_pytorch_model.fp16.safetensors" in asked
