import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines import UserError
from pipelines.adapters import AdapterMixin, fingerprint
from tests.tiny import tiny_pipeline
from training import export
from training.adapters import PartlyLearnable
from training.config import AdapterSettings
from training.families import FAMILIES

RANK = 8
FORMATS = ["kohya", "peft"]


class Adapted(AdapterMixin, StableDiffusionPipeline):
    pass


def forward(unet):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, unet.config.in_channels, 8, 8, generator=generator)
    prompt = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 500]), encoder_hidden_states=prompt).sample


def make(
    path,
    style="kohya",
    rank=RANK,
    seed=0,
    layers="attention+feedforward",
    only=None,
    base=None,
    half="down",
    learns_in=None,
    **settings,
):
    """A trained adapter's file, and the model as training sees it."""
    unet = tiny_pipeline().unet
    card_hash = base or fingerprint(unet)
    adapter = PartlyLearnable(unet, rank, layers, seed=seed, content_half=half, learns_in=learns_in, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for concept in ("content", "style"):
            for parameter in adapter.parameters(concept):
                value = torch.randn(parameter.shape, generator=generator) * 0.3
                parameter.copy_(value)
            if only not in (None, concept):
                adapter.load(concept, None)
    words = {"content": "sks", "style": "zwx"}
    factors = adapter.factors()
    halves = tuple(adapter.places.items())
    frozen = adapter.frozen(AdapterSettings(rank=rank, seed=seed))
    card = export.Card("tiny", card_hash, rank, placeholders=words, layers=tuple(factors), halves=halves, **frozen)
    export.write(path, factors, card, style)
    return adapter


def adapted(path=None):
    pipe = tiny_pipeline(Adapted)
    pipe.set_progress_bar_config(disable=True)
    if path:
        pipe.load_adapter(path)
    return pipe


@pytest.mark.parametrize("layers", ["attention+feedforward", "all"])
@pytest.mark.parametrize("style", FORMATS)
def test_plain_diffusers_loads_the_same_model(tmp_path, style, layers):
    adapter = make(tmp_path / "a.safetensors", style, layers=layers)
    pipe = tiny_pipeline()
    before = forward(pipe.unet)
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    expected = forward(adapter.denoiser)
    assert not torch.allclose(expected, before, atol=1e-3)
    torch.testing.assert_close(forward(pipe.unet), expected, atol=1e-5, rtol=1e-5)


def test_keys_and_metadata_are_those_of_the_web_uis(tmp_path):
    adapter = make(tmp_path / "a.safetensors", layers="attention")
    tensors = load_file(tmp_path / "a.safetensors")
    names = {f"lora_unet_{layer.name.replace('.', '_')}" for layer in adapter.layers}
    assert tensors.keys() == {f"{n}.{end}" for n in names for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert all(value.item() == RANK for key, value in tensors.items() if key.endswith("alpha"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    card = json.loads(metadata["joinery"])
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == str(RANK)
    assert card["halves"] == {"content": "down", "style": "up"} and card["placeholders"]["content"] == "sks"
    assert card["format"] == 1 and card["scales"] == {"content": 1.0, "style": 1.0} and card["base"] == "tiny"


@pytest.mark.parametrize(
    "family, prediction, version, v2, architecture",
    [
        ("sd1", "epsilon", "sd_v1", "False", "stable-diffusion-v1/lora"),
        ("sd1", "v_prediction", "sd_v1_v", "False", "stable-diffusion-v1/lora"),
        ("sd2", "epsilon", "sd_v2", "True", "stable-diffusion-v2-512/lora"),
        ("sd2", "v_prediction", "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
        ("sdxl", "v_prediction", "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_web_uis_can_tell_the_base(tmp_path, family, prediction, version, v2, architecture):
    """AUTOMATIC1111 takes a file for SDXL by its `ss_base_model_version`, for SD 2 by `ss_v2`, else for SD 1."""
    card = make_card(tmp_path / "a.safetensors", labels=FAMILIES[family].labels(prediction))
    export.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "peft", "float16", title="Mine")
    for name in ("a", "b"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            said = file.metadata()
        assert (said["ss_base_model_version"], said["ss_v2"]) == (version, v2)
        assert said["modelspec.architecture"] == architecture and said["modelspec.sai_model_spec"] == "1.0.0"
        assert said["modelspec.prediction_type"] == {"epsilon": "epsilon", "v_prediction": "v"}[prediction]
    assert export.read(tmp_path / "b.safetensors")[1].labels == card.labels


@pytest.mark.parametrize(
    "family, architecture",
    [("flux1", "flux-1-dev"), ("chroma", "chroma"), ("sd3", "stable-diffusion-3"), ("qwen-image", "Qwen-Image")],
)
def test_an_adapter_of_a_transformer_says_its_base_in_the_usual_words(family, architecture):
    labels = FAMILIES[family].labels("flow")
    assert labels["modelspec.architecture"] == f"{architecture}/lora" and FAMILIES["sana"].labels("flow") == {}


def make_card(path, **more) -> export.Card:
    """The card of a file with one layer."""
    factors = {"mid.to_q": (torch.rand(6, 2), torch.rand(2, 4))}
    card = export.Card("base", "0" * 64, 2, 0, "zero", {"content": "sks"}, tuple(factors), **more)
    export.write(path, factors, card)
    return card


def test_a_file_is_known_again_whatever_is_said_of_it(tmp_path):
    """By the SHA-256 of all that follows the header, as web UIs compute it."""
    make_card(tmp_path / "a.safetensors")
    export.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", title="Another title")
    found = set()
    for name in ("a", "b"):
        data = (tmp_path / f"{name}.safetensors").read_bytes()
        digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            said = file.metadata()
        assert said["sshs_model_hash"] == digest and said["modelspec.hash_sha256"] == f"0x{digest}"
        found.add(digest)
    assert len(found) == 1


@pytest.mark.parametrize("first, second", [FORMATS, FORMATS[::-1]])
def test_formats_convert_into_each_other_to_the_bit(tmp_path, first, second):
    make(tmp_path / "a.safetensors", first)
    export.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", second)
    export.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", first)
    (a, card_a), (c, card_c) = export.read(tmp_path / "a.safetensors"), export.read(tmp_path / "c.safetensors")
    assert load_file(tmp_path / "a.safetensors").keys() == load_file(tmp_path / "c.safetensors").keys()
    assert card_a == card_c and all(torch.equal(x, y) for k in a for x, y in zip(a[k], c[k], strict=True))


@pytest.mark.parametrize(
    "style, half, gates", [("kohya", "down", False), ("peft", "up", False), ("kohya", "down", True)]
)
def test_scales_equal_those_of_training_and_do_not_drift(tmp_path, style, half, gates):
    adapter = make(tmp_path / "a.safetensors", style, half=half, split_gates=gates)
    pipe = adapted(tmp_path / "a.safetensors")
    fresh = forward(pipe.unet)
    torch.testing.assert_close(fresh, forward(adapter.denoiser), atol=1e-5, rtol=1e-5)
    for content, style in [(0.8, 1.0), (0.0, 1.0), (1.0, 0.0), (0.3, 1.7)] * 5:
        pipe.set_scales(content, style)
        adapter.set_scales(content, style)
        torch.testing.assert_close(forward(pipe.unet), forward(adapter.denoiser), atol=1e-5, rtol=1e-5)
    pipe.set_scales()
    assert torch.equal(forward(pipe.unet), fresh)


def test_scales_of_zero_give_the_base_back(tmp_path):
    make(tmp_path / "a.safetensors")
    pipe = adapted()
    base = forward(pipe.unet)
    pipe.load_adapter(tmp_path / "a.safetensors")
    pipe.set_scales(content=0.0, style=0.0)
    assert torch.equal(forward(pipe.unet), base)
    pipe.unload_adapter()
    assert torch.equal(forward(pipe.unet), base)


def test_scales_survive_a_move_and_are_shared_by_from_pipe(tmp_path):
    make(tmp_path / "a.safetensors")
    pipe = adapted(tmp_path / "a.safetensors")
    pipe.set_scales(0.5, 1.0)
    expected = forward(pipe.unet)
    pipe.to(torch.float64).to(torch.float32)
    pipe.set_scales(1.0, 1.0)
    shared = Adapted.from_pipe(pipe)
    shared.set_scales(0.5, 1.0)
    assert torch.equal(forward(pipe.unet), expected)


def test_loading_replaces_the_adapter_before(tmp_path):
    make(tmp_path / "a.safetensors")
    make(tmp_path / "b.safetensors", seed=5)
    pipe = adapted(tmp_path / "a.safetensors")
    pipe.load_adapter(tmp_path / "b.safetensors")
    assert torch.equal(forward(pipe.unet), forward(adapted(tmp_path / "b.safetensors").unet))


def test_a_foreign_lora_has_one_scale_for_all(tmp_path):
    make(tmp_path / "a.safetensors")
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "foreign.safetensors")
    pipe = adapted(tmp_path / "foreign.safetensors")
    full = forward(pipe.unet)
    assert torch.equal(full, forward(adapted(tmp_path / "a.safetensors").unet))
    pipe.set_scales(0.5, 0.5)
    assert not torch.equal(forward(pipe.unet), full)
    with pytest.raises(UserError, match="no separate content and style"):
        pipe.set_scales(content=0.5, style=1.0)


def test_pickles_are_refused_whatever_their_name(tmp_path):
    make(tmp_path / "a.safetensors")
    for name in ("weights.bin", "weights.safetensors"):
        torch.save(load_file(tmp_path / "a.safetensors"), tmp_path / name)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            adapted(tmp_path / name)


@pytest.mark.parametrize("what", ["missing", "truncated", "unfit"])
def test_files_that_cannot_be_used_are_told_and_leave_the_base_alone(tmp_path, what):
    path = tmp_path / "a.safetensors"
    if what != "missing":
        make(path)
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    if what == "unfit":
        wide = {key: torch.zeros(8, 999) if "down" in key else value for key, value in load_file(path).items()}
        save_file(wide, path)
    pipe = adapted()
    base = forward(pipe.unet)
    with pytest.raises(UserError):
        pipe.load_adapter(path)
    assert torch.equal(forward(pipe.unet), base)
    with pytest.raises(UserError, match="no adapter to scale"):
        pipe.set_scales()


def test_on_a_relative_of_its_base_an_adapter_is_loaded_with_a_warning(tmp_path, caplog):
    make(tmp_path / "a.safetensors")
    turbo, own = tiny_pipeline(Adapted, seed=1), adapted()
    before = forward(turbo.unet)
    turbo.load_adapter(tmp_path / "a.safetensors")
    assert "was trained on tiny, and this base is a relative" in caplog.text
    assert not torch.equal(forward(turbo.unet), before)
    turbo.set_scales(0, 0)
    assert torch.equal(forward(turbo.unet), before)
    caplog.clear()
    own.load_adapter(tmp_path / "a.safetensors")
    assert not caplog.text


def test_on_a_base_without_some_of_its_layers_it_is_refused_unless_asked_for(tmp_path):
    make(tmp_path / "a.safetensors", base="other", layers="all")
    factors, card = export.read(tmp_path / "a.safetensors")
    factors |= {"mid_block.attentions.7.to_q": tuple(factor.clone() for factor in next(iter(factors.values())))}
    export.write(tmp_path / "a.safetensors", factors, replace(card, layers=tuple(factors)))
    pipe = adapted()
    base = forward(pipe.unet)
    with pytest.raises(UserError, match=r"trained on tiny, and 1 of its layers are not in this base\. Load it on a"):
        pipe.load_adapter(tmp_path / "a.safetensors")
    assert torch.equal(forward(pipe.unet), base)
    pipe.load_adapter(tmp_path / "a.safetensors", any_base=True)
    assert not torch.equal(forward(pipe.unet), base)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="who may read everything")
def test_a_file_that_may_not_be_read_is_not_said_to_be_gone(tmp_path):
    make(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").chmod(0)
    for read in (lambda: adapted(tmp_path / "a.safetensors"), lambda: export.read(tmp_path / "a.safetensors")):
        with pytest.raises(UserError, match="may not be read"):
            read()


def without(key):
    return lambda card: {name: value for name, value in card.items() if name != key}


CARDS = {
    "no table": lambda card: [3],
    "newer": lambda card: card | {"format": 2},
    "no halves": without("halves"),
    "no layers": without("layers"),
    "no base": without("base_hash"),
    "a layer that is not there": lambda card: card | {"layers": [*card["layers"], "nowhere"]},
    "a rank in words": lambda card: card | {"rank": "many"},
    "halves in a list": lambda card: card | {"halves": ["down"]},
    "a half that is none": lambda card: card | {"halves": {"content": "sideways", "style": "up"}},
    "placeholders that are none": lambda card: card | {"placeholders": 3},
    "a scale in words": lambda card: card | {"scales": {"content": "much"}},
}


@pytest.mark.parametrize("what", CARDS)
def test_a_card_that_is_damaged_or_newer_is_a_sentence(tmp_path, what):
    make(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        card = CARDS[what](json.loads(file.metadata()["joinery"]))
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "a.safetensors", {"joinery": json.dumps(card)})
    with pytest.raises(UserError, match=r"a\.safetensors says about itself is damaged or from a newer version"):
        export.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "peft")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_base_s_fingerprint_is_that_of_its_weights():
    unet = tiny_pipeline().unet
    found = fingerprint(unet)
    for dtype in (torch.bfloat16, torch.float16):
        assert fingerprint(tiny_pipeline().unet.to(dtype)) == found
    PartlyLearnable(unet, RANK)
    assert fingerprint(unet) == found
    assert fingerprint(tiny_pipeline(seed=1).unet) != found
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    assert fingerprint(unet) != found


GATES = {"split_gates": True}
APART = {"layers": "all", "learns_in": {"content": "words", "style": "not words"}}


RANKS = {"layers": "all", "split": "rank", "learns_in": {"style": "not words"}}


@pytest.mark.parametrize(
    "how", [{"half": "down"}, {"half": "up"}, APART, {"learns_in": {"content": "words"}}, GATES, RANKS]
)
def test_halves_join_without_training(tmp_path, how):
    make(tmp_path / "c.safetensors", only="content", **how)
    make(tmp_path / "s.safetensors", "peft", only="style", **how)
    both = make(tmp_path / "both.safetensors", **how)
    export.join(tmp_path / "c.safetensors", tmp_path / "s.safetensors", tmp_path / "joined.safetensors")
    pipe = adapted(tmp_path / "joined.safetensors")
    torch.testing.assert_close(forward(pipe.unet), forward(both.denoiser), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "other, word",
    [
        ({"seed": 1}, "seed"),
        ({"rank": 4}, "rank"),
        ({"base": "b"}, "base"),
        ({"layers": "cross-attention"}, "layers"),
        ({"learns_in": {"content": "words"}}, "adapt different layers"),
        ({"half": "up"}, "halves"),
        (GATES, "values and gates"),
    ],
)
def test_halves_that_do_not_belong_together_are_not_joined(tmp_path, other, word):
    make(tmp_path / "c.safetensors")
    make(tmp_path / "s.safetensors", **other)
    with pytest.raises(UserError, match=word):
        export.join(tmp_path / "c.safetensors", tmp_path / "s.safetensors", tmp_path / "j.safetensors")
    assert not (tmp_path / "j.safetensors").exists()


def test_foreign_files_are_not_joined(tmp_path):
    make(tmp_path / "c.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "s.safetensors")
    with pytest.raises(UserError, match="not an adapter made by Joinery"):
        export.join(tmp_path / "c.safetensors", tmp_path / "s.safetensors", tmp_path / "j.safetensors")


def test_a_finished_run_exports_what_it_trained(finished):
    factors, card = export.read(finished.adapter)
    assert card.rank == 4 and card.placeholders == {"content": "sks", "style": "zwx"}
    assert factors.keys() == set(card.layers)


@pytest.mark.parametrize(
    "style, halves, how",
    [
        ("kohya", ("down", "up"), {}),
        ("peft", ("first rank", "second rank"), {}),
        ("kohya", ("down", "up"), APART),
        ("kohya", ("down", "up"), GATES),
    ],
)
def test_scales_precision_and_words_are_baked_into_an_export(tmp_path, style, halves, how):
    make(tmp_path / "a.safetensors", **how)
    factors, card = export.read(tmp_path / "a.safetensors")
    card = replace(card, halves=tuple(zip(("content", "style"), halves, strict=True)))
    export.write(tmp_path / "a.safetensors", factors, card)
    scales = {"content": 0.5, "style": 1.25}
    words = {"title": "Koala in ink", "trigger": "sks, zwx"}
    export.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", style, scales=scales, **words)
    pipe, expected = adapted(tmp_path / "b.safetensors"), adapted(tmp_path / "a.safetensors")
    expected.set_scales(**scales)
    torch.testing.assert_close(forward(pipe.unet), forward(expected.unet), atol=1e-6, rtol=1e-6)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["joinery"])["scales"] == scales
    assert metadata["modelspec.title"] == "Koala in ink" and metadata["modelspec.trigger_phrase"] == "sks, zwx"

    export.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", style, precision="bfloat16")
    halved = load_file(tmp_path / "c.safetensors")
    assert {value.dtype for key, value in halved.items() if "lora" in key and "alpha" not in key} == {torch.bfloat16}
    adapted(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="Both scales are 0"):
        export.convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", style, scales=dict.fromkeys(scales, 0.0))
