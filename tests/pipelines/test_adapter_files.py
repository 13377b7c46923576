"""Adapter files as people bring them: what can be read is used, whatever was done to the pipeline; the rest is said."""

import copy
import json
import logging

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from pipelines import UserError, guided
from pipelines.fingerprint import fingerprint
from tests.pipelines.test_guided_pipeline import call
from tests.pipelines.test_ip_adapter import BOTH, weights
from tests.tiny import tiny_pipeline

RANK, ALPHA = 4, 2.0
PICTURE = BOTH["ip_adapter_image_embeds"][0]
ORIGINAL = {  # of the tiny UNet, by hand
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "down_blocks.2.attentions.0": "input_blocks.5.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "down_blocks.1.resnets.0.conv1": "input_blocks.3.0.in_layers.2",
    "down_blocks.1.resnets.0.time_emb_proj": "input_blocks.3.0.emb_layers.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "conv_in": "input_blocks.0.0",
}
CONVOLUTIONS = [name for name in ORIGINAL if "attentions" not in name and "mid_block" not in name]


@pytest.fixture(scope="module", params=[StableDiffusionPipeline, StableDiffusionXLPipeline], ids=["SD", "SDXL"])
def base(request):
    return tiny_pipeline(guided(request.param))


@pytest.fixture(scope="module")
def sd():
    return tiny_pipeline(guided(StableDiffusionPipeline))


def fresh(base):
    """The same pipeline, for one test."""
    pipe = type(base)(**{name: copy.deepcopy(part) for name, part in base.components.items()})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def layers(unet, convolutions=True) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name -> down and up, of every projection in an attention, and of some convolutions."""
    generator, found = torch.Generator().manual_seed(3), {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_v", "to_out.0", "ff.net.2")) or (convolutions and name in CONVOLUTIONS):
            outputs, *inputs = module.weight.shape
            down = torch.randn(RANK, *inputs, generator=generator) * 0.3
            found[name] = down, torch.randn(outputs, RANK, *[1] * (len(inputs) - 1), generator=generator) * 0.3
    return found


def merged(base, *scaled):
    """A copy of the network with factors added to its weights."""
    unet = copy.deepcopy(base.unet)
    for factors, scale in scaled:
        for name, (down, up) in factors.items():
            weight = unet.get_submodule(name).weight
            weight.data += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return unet


def draw(pipe, picture=False):
    """What the network says of some latents."""
    unet = pipe.unet if isinstance(pipe, DiffusionPipeline) else pipe
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    prompt = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
    added = {"text_embeds": torch.ones(2, 32), "time_ids": torch.ones(2, 6)}
    if picture:
        added["image_embeds"] = [PICTURE]
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 500]), prompt, added_cond_kwargs=added).sample


def drawn_with(base, *scaled):
    return draw(merged(base, *scaled))


def near(a, b, tolerance=1e-4):
    return (a - b).norm() <= tolerance * b.norm()


def original(name: str) -> str:
    ours = max((key for key in ORIGINAL if name.startswith(key)), key=len)
    return ORIGINAL[ours] + name[len(ours) :]


def old(name: str) -> str:
    parent, _, layer = name.removesuffix(".0").rpartition(".")
    return f"unet.{parent}.processor.{layer}_lora" if "attn" in parent else f"unet.{name}.lora"


NEW = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")
STYLES = {
    "diffusers": (lambda name: f"unet.{name}", NEW),
    "peft": (lambda name: f"base_model.model.{name}", NEW),
    "peft, named": (lambda name: name, ("lora_A.default.weight", "lora_B.default.weight")),
    "no prefix": (lambda name: name, NEW),
    "kohya": (lambda name: f"lora_unet_{name.replace('.', '_')}", KOHYA),
    "kohya, original blocks": (lambda name: f"lora_unet_{original(name).replace('.', '_')}", KOHYA),
    "ComfyUI": (lambda name: f"diffusion_model.{original(name)}", KOHYA),
    "ComfyUI, diffusers' blocks": (lambda name: f"diffusion_model.{name}", NEW),
    "diffusers once": (old, ("down.weight", "up.weight")),
}


def write(path, factors, style="diffusers", alpha=ALPHA, metadata=None):
    name_of, ends = STYLES[style]
    tensors = {}
    for name, (down, up) in factors.items():
        key = name_of(name)
        tensors |= {f"{key}.{ends[0]}": down, f"{key}.{ends[1]}": up}
        if style != "diffusers once":  # which had no alpha
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata)
    return path


def joinery(base, halves) -> dict[str, str]:
    return {"joinery": json.dumps({"format": 1, "base": "b", "base_hash": fingerprint(base.unet), "halves": halves})}


@pytest.mark.parametrize("style", STYLES)
def test_every_way_to_name_layers_is_read(base, tmp_path, style):
    pipe, factors = fresh(base), layers(base.unet)
    pipe.load_adapter(write(tmp_path / "a.safetensors", factors, style))
    want = drawn_with(base, (factors, 1.0 if style == "diffusers once" else ALPHA / RANK))
    assert near(draw(pipe), want) and not near(want, draw(base), 1e-2)


def test_alpha_may_stand_in_a_file_beside(sd, tmp_path):
    factors = layers(sd.unet)
    tensors = {f"base_model.model.{key}.lora_A.weight": down for key, (down, _) in factors.items()}
    tensors |= {f"base_model.model.{key}.lora_B.weight": up for key, (_, up) in factors.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    settings = {"r": RANK, "lora_alpha": 8, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    pipe = fresh(sd)
    pipe.load_adapter(tmp_path / "adapter_model.safetensors")
    assert near(draw(pipe), drawn_with(sd, (factors, 8 / RANK**0.5)))


@pytest.mark.parametrize("said", ['{"lora_alpha": "x"}', '{"lora_alpha": [1]}', '{"alpha_pattern": [3]}', "[" * 10**5])
def test_an_alpha_that_is_none_is_refused_in_words(sd, tmp_path, said):
    path = write(tmp_path / "a.safetensors", layers(sd.unet, convolutions=False))
    (tmp_path / "adapter_config.json").write_text(said)
    with pytest.raises(UserError, match="says of its alpha cannot be read"):
        fresh(sd).load_adapter(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bool])
def test_factors_that_cannot_be_computed_with_are_brought_to_floats(sd, tmp_path, dtype):
    factors = {key: (down.sign(), up.sign()) for key, (down, up) in layers(sd.unet, convolutions=False).items()}
    if dtype is torch.bool:
        factors = {key: (down.abs(), up.abs()) for key, (down, up) in factors.items()}
    pipe = fresh(sd)
    pipe.load_adapter(
        write(tmp_path / "a.safetensors", {k: (d.to(dtype), u.to(dtype)) for k, (d, u) in factors.items()})
    )
    expected = fresh(sd)
    expected.load_adapter(write(tmp_path / "b.safetensors", factors))
    assert near(draw(pipe), draw(expected))


def test_sizes_of_a_fused_layer_that_are_not_its_own_are_refused_before_anything_is_changed(sd, tmp_path):
    factors = layers(sd.unet, convolutions=False)
    name = next(iter(factors))
    metadata = json.loads(joinery(sd, {"content": "down", "style": "up"})["joinery"]) | {"fused": {name: {"up": [1]}}}
    pipe = fresh(sd)
    with pytest.raises(UserError, match="is not what it holds"):
        pipe.load_adapter(write(tmp_path / "a.safetensors", factors, metadata={"joinery": json.dumps(metadata)}))
    assert torch.equal(draw(pipe), draw(sd))


def test_the_text_encoder_s_layers_are_read(sd, tmp_path):
    pipe, tensors = fresh(sd), {}
    for name, module in sd.text_encoder.named_modules():
        if name.endswith("q_proj"):
            key = f"lora_te_text_model_{name.removeprefix('text_model.').replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(RANK, module.in_features)
            tensors[f"{key}.lora_up.weight"] = torch.randn(module.out_features, RANK)
    save_file(tensors, tmp_path / "a.safetensors")
    pipe.load_adapter(tmp_path / "a.safetensors")
    assert not near(call(pipe), call(sd), 1e-3)
    pipe.set_scales(0.0, 0.0)
    assert near(call(pipe), call(sd), 1e-6)


def rename(tensors, change):
    return {change(key): value for key, value in tensors.items()}


def first(tensors) -> str:
    """The first layer as a file names it."""
    return next(iter(tensors)).partition(".lora_")[0]


BAD = {
    "no tensors": (lambda t: {}, "holds no tensors"),
    "another family": (
        lambda t: rename(t, lambda k: k.replace("unet.", "unet.joint.")),
        r"changes nothing here: none of",
    ),
    "no LoRA": (lambda t: {"conv.weight": torch.ones(2, 2)}, "holds no layers of a LoRA"),
    "LoHa": (lambda t: rename(t, lambda k: k.replace("lora_A", "hada_w1_a")), "is a LoHa"),
    "LoKr": (lambda t: rename(t, lambda k: k.replace("lora_A", "lokr_w1")), "is a LoKr"),
    "OFT": (lambda t: {"unet.mid_block.oft_blocks": torch.ones(2, 2)}, "is an OFT"),
    "DoRA": (lambda t: t | {"unet.mid_block.dora_scale": torch.ones(2)}, "is a DoRA"),
    "zero": (lambda t: {k: 0 * v if "lora_B" in k else v for k, v in t.items()}, "its factors are zero"),
    "not finite": (lambda t: {k: v / 0 if "lora_B" in k else v for k, v in t.items()}, "is not finite"),
    "alpha": (lambda t: t | {f"{first(t)}.alpha": torch.tensor(float("nan"))}, "is not finite"),
    "rank 0": (lambda t: {k: v[:0] if "lora_A" in k else v[:, :0] for k, v in t.items()}, "has a rank of 0"),
    "another width": (lambda t: {k: torch.ones(4, 99) if "to_q.lora_A" in k else v for k, v in t.items()}, "to_q has"),
}


@pytest.mark.parametrize("change, words", BAD.values(), ids=BAD)
def test_what_would_change_nothing_is_refused_with_the_reason_and_what_was_loaded_stays(sd, tmp_path, change, words):
    pipe, factors = fresh(sd), layers(sd.unet)
    pipe.load_adapter(write(tmp_path / "a.safetensors", factors))
    before = draw(pipe)
    tensors = {f"unet.{key}.lora_A.weight": down.clone() for key, (down, _) in factors.items()}
    tensors |= {f"unet.{key}.lora_B.weight": up.clone() for key, (_, up) in factors.items()}
    save_file(change(tensors), tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=words):
        pipe.load_adapter(tmp_path / "b.safetensors")
    assert torch.equal(draw(pipe), before)
    pipe.set_scales(0.5, 0.5)
    assert near(draw(pipe), drawn_with(sd, (factors, 0.5 * ALPHA / RANK)))


def test_a_failure_in_the_middle_leaves_all_as_it_was(sd, tmp_path, monkeypatch):
    pipe, factors = fresh(sd), layers(sd.unet)
    path = write(tmp_path / "a.safetensors", factors)
    pipe.load_lora_weights(write(tmp_path / "o.safetensors", factors, "kohya"), adapter_name="other")
    pipe.load_adapter(path)
    before, names = draw(pipe), pipe.get_list_adapters()

    def fail(*args, **kwargs):
        raise RuntimeError("no luck")

    with monkeypatch.context() as broken:
        broken.setattr("peft.set_peft_model_state_dict", fail)
        with pytest.raises(UserError, match="no luck"):
            pipe.load_adapter(path)
    assert torch.equal(draw(pipe), before) and pipe.get_list_adapters() == names
    pipe.load_adapter(path)
    assert near(draw(pipe), before, 1e-6)


def test_layers_that_are_unknown_are_counted_and_named(sd, tmp_path, caplog):
    pipe, factors = fresh(sd), layers(sd.unet)
    strange = {f"strange.{i}": (torch.ones(RANK, 8), torch.ones(8, RANK)) for i in range(7)}
    with caplog.at_level(logging.WARNING, "joinery"):
        pipe.load_adapter(write(tmp_path / "a.safetensors", factors | strange))
    number = len(factors)
    assert f"{number} of the {number + 7} layers" in caplog.text and "unet.strange.0" in caplog.text
    assert "and 2 more" in caplog.text
    assert near(draw(pipe), drawn_with(sd, (factors, ALPHA / RANK)))


@pytest.mark.parametrize("kind", ["plain", "Joinery's"])
def test_adapters_of_others_stay_active(sd, tmp_path, kind):
    pipe, factors = fresh(sd), layers(sd.unet, convolutions=False)
    other = {name: (down.flip(0), up.flip(0)) for name, (down, up) in factors.items() if "to_q" in name}
    metadata = joinery(sd, {"content": "first rank", "style": "second rank"}) if kind != "plain" else None
    pipe.load_lora_weights(write(tmp_path / "o.safetensors", other, "kohya"), adapter_name="other")
    pipe.set_adapters("other", 0.7)
    pipe.load_adapter(write(tmp_path / "a.safetensors", factors, metadata=metadata))
    share = ALPHA / RANK
    assert near(draw(pipe), drawn_with(sd, (other, 0.7 * share), (factors, share)))
    pipe.set_scales(0.5, 0.5)
    assert near(draw(pipe), drawn_with(sd, (other, 0.7 * share), (factors, 0.5 * share)))
    pipe.set_adapters("other", 0.3)  # which leaves ours out
    pipe.set_scales(1.5, 1.5)
    assert near(draw(pipe), drawn_with(sd, (other, 0.3 * share), (factors, 1.5 * share)))
    pipe.unload_adapter()
    assert near(draw(pipe), drawn_with(sd, (other, 0.3 * share)))


def offloaded(pipe):
    cpu_offload(pipe.unet, execution_device="cpu")


def model_offloaded(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def compiled(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def in_eight_bits(pipe):
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def with_a_picture(pipe):
    pipe.load_ip_adapter(weights(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)


def fused_projections(pipe):
    pipe.unet.fuse_qkv_projections()


def fused_lora(pipe):
    if pipe.get_list_adapters():
        pipe.fuse_lora()


DONE = [
    offloaded,
    model_offloaded,
    pytest.param(compiled, marks=pytest.mark.slow),
    in_eight_bits,
    with_a_picture,
    fused_projections,
    fused_lora,
]


@pytest.mark.parametrize(
    "first",
    [pytest.param(True, marks=pytest.mark.slow, id="then an adapter"), pytest.param(False, id="after an adapter")],
)
@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.slow), "Joinery's"])
@pytest.mark.parametrize("change", DONE, ids=lambda change: change.__name__)
def test_whatever_was_done_to_a_pipeline_its_base_is_known_and_scales_act(sd, tmp_path, change, kind, first):
    pipe, factors = fresh(sd), layers(sd.unet, convolutions=False)
    metadata = joinery(sd, {"content": "first rank", "style": "second rank"}) if kind != "plain" else None
    path = write(tmp_path / "a.safetensors", factors, metadata=metadata)
    picture = change is with_a_picture
    if first:
        change(pipe)
        pipe.load_adapter(path)  # one of Joinery's asks for the fingerprint
    else:
        pipe.load_adapter(path)
        change(pipe)
    assert fingerprint(pipe.unet) == fingerprint(sd.unet)
    bare = fresh(sd)
    if change is not fused_lora:
        change(bare)
    # Eight bits hold the base, and after the adapter its factors, to two digits.
    tolerance = 0.2 if change is in_eight_bits else 1e-4
    pictures = {scale: None for scale in (1.0, 0.0, 0.5)}
    for scale in pictures:
        pipe.set_scales(scale, scale)
        pictures[scale] = draw(pipe, picture)
        if change is not with_a_picture:
            assert near(pictures[scale], drawn_with(sd, (factors, scale * ALPHA / RANK)), tolerance)
    assert near(pictures[0.0], draw(bare, picture), 1e-4)
    assert not near(pictures[1.0], pictures[0.5], 1e-3) and not near(pictures[0.5], pictures[0.0], 1e-3)


def test_projections_that_were_fused_after_an_adapter_do_not_leave_it_out(sd, tmp_path):
    pipe, factors = fresh(sd), layers(sd.unet, convolutions=False)
    pipe.load_adapter(write(tmp_path / "a.safetensors", factors))
    expected = call(pipe)
    pipe.unet.fuse_qkv_projections()
    assert near(call(pipe), expected) and not near(expected, call(sd), 1e-2)


def test_of_a_quantized_base_it_is_said_that_it_cannot_be_told(sd, tmp_path, caplog):
    pipe, factors = fresh(sd), layers(sd.unet, convolutions=False)
    metadata = joinery(tiny_pipeline(seed=1), {"content": "down", "style": "up"})
    path = write(tmp_path / "a.safetensors", factors, metadata=metadata)
    pipe.load_adapter(path)
    assert "is a relative" in caplog.text
    pipe.unet.is_quantized = True
    with caplog.at_level(logging.WARNING, "joinery"):
        pipe.load_adapter(path)
    assert "cannot be told" in caplog.text


def test_a_card_that_is_damaged_is_refused_in_words(sd, tmp_path):
    factors = layers(sd.unet, convolutions=False)
    whole = {"format": 1, "base": "b", "base_hash": fingerprint(sd.unet)}
    halves = ([], ["down"], {"content": "sideways"}, {"motif": "down"}, {"content": ["down"]})
    strange = [json.dumps(whole | {"halves": value}) for value in halves]
    sizes = (3, [], {"a": 3}, {"a": {"up": 3}}, {"a": {"up": ["x"]}}, {"a": {"up": [-1, 5]}})
    strange += [json.dumps(whole | {"halves": {"content": "up"}, "fused": value}) for value in sizes if value]
    for text in ("{", "[]", '{"format": 2}', '{"format": 1, "base": "b"}', *strange):
        path = write(tmp_path / "a.safetensors", factors, metadata={"joinery": text})
        with pytest.raises(UserError, match="damaged or from a newer version"):
            fresh(sd).load_adapter(path)


def test_rounding_leaves_a_fingerprint_and_training_does_not(sd):
    """The docstring's claim: every float format, and no more than some steps of training."""
    found = fingerprint(sd.unet)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        assert fingerprint(copy.deepcopy(sd.unet).to(dtype)) == found
    trained = copy.deepcopy(sd.unet).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        latents, prompt = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
        trained(latents, 500, encoder_hidden_states=prompt).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert fingerprint(trained) != found
