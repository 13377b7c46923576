"""Kohya's format of SDXL, whose blocks have their authors' numbers, as sd-scripts writes them."""

import json
import re

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from pipelines import CFG, guided
from pipelines.adapter_file import original_name
from pipelines.adapters import fingerprint
from tests.single_file import _unet as original_layout
from tests.tiny import tiny_pipeline
from training import export
from training.adapters import PartlyLearnable
from training.config import AdapterSettings
from training.draws import keyed
from training.families import FAMILIES
from training.single_file import CONFIGS


def test_every_layer_of_sdxl_has_the_name_of_one_in_the_original_layout():
    config = json.loads((CONFIGS / "sdxl/unet/config.json").read_text())
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    layers = [name for name, _ in unet.named_modules() if re.fullmatch(FAMILIES["sdxl"].layers["all"], name)]
    tensors = {name.removesuffix(".weight"): tensor.shape for name, tensor in original_layout(unet).items()}
    names = {original_name(name, 2): unet.get_submodule(name).weight.shape for name in layers}
    assert len(names) == len(layers) > 700 and names.items() <= tensors.items()
    assert original_name("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 2) == (
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    )
    assert original_name("mid_block.resnets.1.conv2", 2) == "middle_block.2.out_layers.3"
    assert original_name("up_blocks.2.resnets.1.conv1", 2) == "output_blocks.7.0.in_layers.2"


@pytest.fixture
def trained(tmp_path):
    """A trained adapter of all layers on a tiny SDXL, and its file."""
    pipe = tiny_pipeline(guided(StableDiffusionXLPipeline))
    base_hash, settings = fingerprint(pipe.unet), AdapterSettings(rank=4, layers="all")
    adapter = PartlyLearnable.attach(pipe.unet, settings)
    for concept in ("content", "style"):
        for parameter in adapter.parameters(concept):
            torch.nn.init.normal_(parameter, std=0.2, generator=keyed(concept))
    factors, labels = adapter.factors(), FAMILIES["sdxl"].labels("epsilon")
    words, frozen = {"content": "sks", "style": "zwx"}, adapter.frozen(settings)
    card = export.Card("b", base_hash, 4, placeholders=words, layers=tuple(factors), labels=labels, **frozen)
    export.write(tmp_path / "a.safetensors", factors, card)
    return pipe, adapter, tmp_path / "a.safetensors"


def latents(pipe):
    given = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    return pipe("a fox", generator=torch.Generator().manual_seed(0), **given).images


def test_diffusers_and_we_read_the_file_as_it_was_trained(trained):
    pipe, adapter, path = trained
    tensors = load_file(path)
    assert all(re.match("lora_unet_(input_blocks|middle_block|output_blocks)_", key) for key in tensors)
    assert {"lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.alpha"} <= tensors.keys()
    stock, plain, own = (tiny_pipeline(kind) for kind in (StableDiffusionXLPipeline,) * 2 + (type(pipe),))
    stock.load_lora_weights(path.parent, weight_name=path.name)
    expected = latents(stock)
    assert not torch.allclose(expected, latents(plain), atol=1e-2)
    own.load_adapter(path)
    pipe.guidance = own.guidance = CFG()
    for drawn in (latents(pipe), latents(own)):
        torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=1e-3)
    own.set_scales(0.5, 0.2)
    adapter.set_scales(0.5, 0.2)
    torch.testing.assert_close(latents(own), latents(pipe), atol=1e-3, rtol=1e-3)


def test_files_with_diffusers_names_are_still_read(trained, tmp_path):
    _, adapter, path = trained
    factors, card = export.read(path)
    keys = export.kohya_keys(card)
    old = {}
    for key, tensor in load_file(path).items():
        layer, _, end = key.partition(".")
        name = next(name for name, own in keys.items() if own == layer)
        old[f"lora_unet_{name.replace('.', '_')}.{end}"] = tensor
    save_file(old, tmp_path / "old.safetensors", card.metadata())
    found, its_card = export.read(tmp_path / "old.safetensors")
    assert its_card == card
    assert all(torch.equal(a, b) for name in factors for a, b in zip(found[name], factors[name], strict=True))
    export.convert(tmp_path / "old.safetensors", tmp_path / "new.safetensors", "kohya")
    assert load_file(tmp_path / "new.safetensors").keys() == load_file(path).keys()
    assert all(torch.equal(adapter.factors()[name][0], up) for name, (up, _) in found.items())
