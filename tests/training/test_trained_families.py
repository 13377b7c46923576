"""Every family from a folder to an adapter file that diffusers loads; losses and gradients against formulas."""

import inspect
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, SanaPipeline
from torch import Tensor

from pipelines import UserError
from pipelines.adapters import fingerprint
from pipelines.families import family_of as stock_family
from tests.tiny import write_pictures
from tests.training.bases import BASES, made
from tests.training.test_loop import StopAfter, same
from training import Customization, captions, customize, export, sheet
from training.adapters import PartlyLearnable
from training.config import AdapterSettings
from training.draws import keyed
from training.families import FAMILIES, denoiser_of, family_of
from training.model import denoising_loss, encode_prompts, open_base, tokenizers
from training.sampling import guided_pipeline, open_run

PROMPTS = ["sks koala", "a longer caption of some koala", "koala"]
FLOWS = [name for name, family in FAMILIES.items() if family.predictions == ("flow",)]


# The longest test runs in `make test-all` only where a text encoder is deep, and for SD and SDXL, of which `test_loop`
# and `test_export` hold the same.
QUICK = ("sana",)
LONG = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BASES]


@pytest.fixture(scope="session", params=LONG)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / request.param
    made(request.param).save_pretrained(folder)
    return folder


def project(folder: Path, base: Path, steps: int = 2, make: int = 2, **tables: object) -> Customization:
    write_pictures(folder)
    return Customization(
        base=str(base),
        resolution=32,
        content={"pictures": folder / "content", "class_word": "koala", "others": folder / "other_contents"},
        style={"pictures": folder / "style", "others": folder / "other_styles", "steps": 0, "reach": 0},
        adapter={"rank": 4, "layers": "attention+feedforward", "split": "factors", "content_in": "everywhere"},
        steps={"break": steps, "make": make, "batch_size": 2, "others_batch_size": 1, "checkpoint_every": 1},
        samples={"every": 0, "inference_steps": 2},
        **tables,
    )


def test_it_trains_goes_on_to_the_same_bits_and_diffusers_draws_the_same_with_its_file(base, tmp_path):
    config = project(tmp_path, base)
    whole = customize(config, tmp_path / "whole")
    assert customize(config, tmp_path / "run", should_stop=StopAfter(3)).status == "cancelled"
    assert same(customize(config, tmp_path / "run"), whole)

    ours, _ = open_run(whole.folder)
    drawn = {scales: latents(ours, scales) for scales in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))}
    assert all(not torch.equal(drawn[0.0, 0.0], other) for scales, other in drawn.items() if any(scales))

    stock = guided_stock(base)
    bare = latents(stock)
    torch.testing.assert_close(bare, drawn[0.0, 0.0], atol=1e-5, rtol=1e-5)
    stock.load_lora_weights(whole.adapter)
    torch.testing.assert_close(latents(stock), drawn[1.0, 1.0], atol=1e-3, rtol=1e-3)


def guided_stock(base: Path) -> DiffusionPipeline:
    """In diffusers' own class, with the sampler that ours draws with."""
    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.scheduler = family_of(pipe).sampler(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: DiffusionPipeline, scales: tuple[float, float] | None = None) -> Tensor:
    """Of two steps without guidance."""
    if scales:
        pipe.set_scales(*scales)
    scale = stock_family(getattr(diffusers, FAMILIES[family_of(pipe).name].pipeline))
    exact = {"use_resolution_binning": False} if isinstance(pipe, SanaPipeline) else {}
    return pipe(
        prompt="sks koala, zwx style",
        height=32,
        width=32,
        num_inference_steps=2,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
        **{scale.scale: scale.scale_of_none},
        **exact,
    ).images


def given(pipe: DiffusionPipeline) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Latents, conditions, noise and levels of three samples."""
    family, n = family_of(pipe), len(PROMPTS)
    shape = family.encode_picture(pipe, torch.zeros(1, 3, 32, 32)).shape[1:]
    generator = keyed("given")
    drawn = (torch.randn(n, *shape, generator=generator) for _ in range(2))
    levels = family.levels(pipe, torch.tensor([0.1, 0.5, 0.9]))
    x, noise = drawn
    return x, encode_prompts(pipe, PROMPTS, 32), noise, levels


def z_image_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """Sample by sample, as its pipeline calls it."""
    found = []
    for one, level, prompt in zip(noisy, s, PROMPTS, strict=True):
        text = pipe.encode_prompt([prompt], do_classifier_free_guidance=False)[0]
        found.append(-pipe.transformer([one[:, None]], (1000 - 1000 * level[None]) / 1000, text).sample[0][:, 0])
    return torch.stack(found)


def klein_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """A token a pixel of the patched latents, with its row and column."""
    text, text_ids = pipe.encode_prompt(PROMPTS)
    n, _, h, w = noisy.shape
    one = torch.zeros(1, dtype=torch.long)
    places = torch.cartesian_prod(one, torch.arange(h), torch.arange(w), one).repeat(n, 1, 1)
    tokens = noisy.permute(0, 2, 3, 1).reshape(n, h * w, -1)
    output = pipe.transformer(tokens, text, s, img_ids=places, txt_ids=text_ids).sample
    return output.view(n, h, w, -1).permute(0, 3, 1, 2)


def qwen_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """Sample by sample, without padding; a token is a patch of 2 x 2."""
    found = []
    for one, level, prompt in zip(noisy, s, PROMPTS, strict=True):
        text, mask = pipe.encode_prompt([prompt])
        assert mask is None
        c, h, w = one.shape
        tokens = one.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(1, -1, 4 * c)
        output = pipe.transformer(tokens, text, None, level[None], [[(1, h // 2, w // 2)]]).sample
        found.append(output.view(h // 2, w // 2, c, 2, 2).permute(2, 0, 3, 1, 4).reshape(c, h, w))
    return torch.stack(found)


def flux_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """Sample by sample, told a guidance of 1; a token is a patch of 2 x 2, with its row and column."""
    found = []
    for one, level, prompt in zip(noisy, s, PROMPTS, strict=True):
        text, summary, text_ids = pipe.encode_prompt([prompt])
        c, h, w = one.shape
        tokens = one.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(1, -1, 4 * c)
        places = torch.cartesian_prod(torch.tensor([0]), torch.arange(h // 2), torch.arange(w // 2))
        guidance = torch.tensor([1.0])
        output = pipe.transformer(tokens, text, summary, level[None], places, text_ids, guidance).sample
        found.append(output.view(h // 2, w // 2, c, 2, 2).permute(2, 0, 3, 1, 4).reshape(c, h, w))
    return torch.stack(found)


def sd3_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    text, _, summary, _ = pipe.encode_prompt(PROMPTS, PROMPTS, PROMPTS, do_classifier_free_guidance=False)
    return pipe.transformer(noisy, text, summary, 1000 * s).sample


def chroma_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """The whole batch with a mask of truth values: diffusers' pipeline has floats, which are added to the attention."""
    text, text_ids, mask, *_ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    n, c, h, w = noisy.shape
    tokens = noisy.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 4 * c)
    places = torch.cartesian_prod(torch.tensor([0]), torch.arange(h // 2), torch.arange(w // 2))
    seen = torch.cat([mask.bool(), mask.new_ones(tokens.shape[:2]).bool()], dim=1)
    output = pipe.transformer(tokens, text, s, places, text_ids, seen).sample
    return output.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


def krea_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """Sample by sample as its pipeline calls it, with all of its padding and the mask."""
    found = []
    for one, level, prompt in zip(noisy, s, PROMPTS, strict=True):
        text, mask = pipe.encode_prompt([prompt])
        assert not mask.all()
        c, h, w = one.shape
        tokens = one.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(1, -1, 4 * c)
        zero = torch.zeros(1)
        rows, columns = torch.arange(float(h // 2)), torch.arange(float(w // 2))
        places = torch.cat([torch.zeros(text.shape[1], 3), torch.cartesian_prod(zero, rows, columns)])
        output = pipe.transformer(tokens, text, level[None], places, mask).sample
        found.append(output.view(h // 2, w // 2, c, 2, 2).permute(2, 0, 3, 1, 4).reshape(c, h, w))
    return torch.stack(found)


def sana_velocity(pipe: DiffusionPipeline, noisy: Tensor, s: Tensor) -> Tensor:
    """Sample by sample, without what the mask hides."""
    said = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    found = []
    for one, level, prompt in zip(noisy, s, PROMPTS, strict=True):
        text, mask, *_ = pipe.encode_prompt([prompt], False, complex_human_instruction=said)
        found.append(pipe.transformer(one[None], text[:, mask[0].bool()], 1000 * level[None]).sample[0])
    return torch.stack(found)


VELOCITIES: dict[str, Callable[[DiffusionPipeline, Tensor, Tensor], Tensor]] = {
    "z-image": z_image_velocity,
    "flux2-klein": klein_velocity,
    "qwen-image": qwen_velocity,
    "flux1": flux_velocity,
    "sd3": sd3_velocity,
    "chroma": chroma_velocity,
    "krea2": krea_velocity,
    "sana": sana_velocity,
}


# Layers whose output nobody reads: what the last block makes of the text.
UNREAD = {
    "qwen-image": r"transformer_blocks\.1\.(attn\.(add_q_proj|to_add_out)|txt_mlp\..*)",
    "sd3": r"transformer_blocks\.1\.attn\.add_q_proj",
}


@pytest.mark.parametrize("name", FLOWS)
def test_the_loss_of_a_flow_and_its_gradients_are_those_of_the_formula(name):
    pipe = made(name)
    x, conditions, noise, s = given(pipe)
    adapter = PartlyLearnable(denoiser_of(pipe), 4, "all")
    generator = keyed("factors")
    for concept in ("content", "style"):
        for parameter in adapter.parameters(concept):
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    learned = [p for concept in ("content", "style") for p in adapter.parameters(concept)]

    loss = denoising_loss(pipe, x, conditions, noise, s)
    gradients = torch.autograd.grad(loss, learned, allow_unused=True)
    noisy = torch.stack([(1 - level) * one + level * other for one, other, level in zip(x, noise, s, strict=True)])
    predicted = VELOCITIES[name](pipe, noisy, s)
    expected = torch.stack([((v - n + one) ** 2).mean() for v, n, one in zip(predicted, noise, x, strict=True)]).mean()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    names = [layer.name for layer in adapter.layers] * 2
    others = torch.autograd.grad(expected, learned, allow_unused=True)
    for layer, one, other in zip(names, gradients, others, strict=True):
        if re.fullmatch(UNREAD.get(name, ""), layer):
            assert all(gradient is None or not gradient.any() for gradient in (one, other))
        else:
            assert one.abs().max() > 0
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    denoiser_of(pipe).enable_gradient_checkpointing()
    torch.testing.assert_close(denoising_loss(pipe, x, conditions, noise, s), loss, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", FLOWS)
def test_a_file_scales_what_training_scales(name, tmp_path):
    base = tmp_path / "base"
    made(name).save_pretrained(base)
    pipe = guided_pipeline(open_base(str(base), "fp32"), "emoji")
    base_hash = fingerprint(denoiser_of(pipe))
    settings = AdapterSettings(rank=4, layers="all")
    adapter = PartlyLearnable.attach(denoiser_of(pipe), settings)
    for concept in ("content", "style"):
        for parameter in adapter.parameters(concept):
            torch.nn.init.normal_(parameter, std=0.1, generator=keyed(concept))
    factors, drawn = adapter.factors(), {}
    for scales in ((0.3, 0.8), (1.0, 0.0), (0.0, 1.0)):
        adapter.set_scales(*scales)
        drawn[scales] = latents(pipe)
    words = {"content": "sks", "style": "zwx"}
    more = {"component": FAMILIES[name].denoiser, **adapter.frozen(settings)}
    card = export.Card("base", base_hash, 4, placeholders=words, layers=tuple(factors), **more)
    export.write(tmp_path / "a.safetensors", factors, card)

    fresh = guided_pipeline(open_base(str(base), "fp32"), "emoji")
    fresh.load_adapter(tmp_path / "a.safetensors")
    for scales, expected in drawn.items():
        torch.testing.assert_close(latents(fresh, scales), expected, atol=1e-4, rtol=1e-4)
    again, read = export.read(tmp_path / "a.safetensors")
    assert read == card
    adapter.set_scales(0.3, 0.8)
    export.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", scales={"content": 0.3, "style": 0.8})
    baked, read = export.read(tmp_path / "b.safetensors")
    assert dict(read.scales) == {"content": 0.3, "style": 0.8}
    for layer, pair in adapter.factors().items():
        torch.testing.assert_close(baked[layer], pair)
    adapter.set_scales()
    for concept in ("content", "style"):
        for name, learned in adapter.learned_in(again, concept).items():
            assert torch.equal(learned, adapter.learned(concept)[name])


FUSED = {
    "flux2-klein": {"to_qkv_mlp_proj", "linear_in", "to_out"},
    "flux1": {"proj_out"},
    "chroma": {"proj_out"},
    "sana": {"conv_inverted"},
}


@pytest.mark.parametrize("name", FUSED)
def test_half_of_each_matrix_in_a_fused_layer_is_learned(name):
    denoiser = denoiser_of(made(name))
    adapter = PartlyLearnable(denoiser, 4, "all")
    assert {name.rsplit(".", 1)[-1] for name in adapter.fused} == FUSED[name]
    for layer in adapter.layers:
        for which, factor, dim in (("up", layer.up, 0), ("down", layer.down, 1)):
            before, parameter = factor.weight.detach().clone(), factor.parametrizations.weight.original
            torch.nn.init.ones_(parameter)
            changed = (factor.weight != before).unsqueeze(-1).flatten(2).any(-1).any(1 - dim)
            for part in changed.split(adapter.fused.get(layer.name, {}).get(which, [len(changed)])):
                assert not part[: len(part) // 2].any() and part[len(part) // 2 :].all()


SHARES = {
    name: lambda u: torch.special.ndtr(u.logit()) for name in ("sd3", "sana")
}  # below u, where u is not drawn evenly


@pytest.mark.parametrize("name", FLOWS)
def test_a_caption_is_said_to_be_cut_where_the_pipeline_cuts_it(name):
    pipe = made(name)
    longest = inspect.signature(pipe.encode_prompt).parameters["max_sequence_length"].default
    assert family_of(pipe).longest == longest
    assert captions.cut_from(" ".join(["word"] * 5 * longest), tokenizers(pipe)) == "word"


def test_flows_are_not_computed_in_fp16(tmp_path):
    made("sd3").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="precision is 'fp16', in which Stable Diffusion 3 does not compute soundly"):
        open_base(str(tmp_path), "fp16")


@pytest.mark.parametrize("name", FLOWS)
def test_levels_are_those_of_diffusers_own_schedule(name):
    pipe = made(name)
    count = pipe.scheduler.config.num_train_timesteps
    u = 1 - torch.arange(count).double() / count  # its timesteps fall
    found = family_of(pipe).levels(pipe, SHARES.get(name, lambda u: u)(u))  # of pictures of any size
    torch.testing.assert_close(found.float(), pipe.scheduler.timesteps / count, atol=1e-5, rtol=1e-5)
    assert family_of(pipe).noise_schedule(pipe) != {}


def test_levels_of_sd3_are_drawn_as_diffusers_script_draws_them():
    """The logistic function of normal numbers, of which the scheduler's timesteps are taken."""
    pipe, count = made("sd3"), 10_000
    u = torch.randn(count, generator=keyed("normal")).sigmoid()
    script = pipe.scheduler.timesteps[(u * 1000).long()].sort().values / 1000
    found = family_of(pipe).levels(pipe, (torch.arange(count) + 0.5) / count)
    torch.testing.assert_close(found[50:-50], script[50:-50], atol=0.02, rtol=0)
    assert family_of(pipe).levels(pipe, torch.tensor([0.0])) == 0


def test_the_loss_of_sd3_is_that_of_diffusers_script_but_for_a_weight():
    """The script compares denoised pictures by default: an error of v times s."""
    pipe = made("sd3")
    x, conditions, noise, s = given(pipe)
    for i in range(len(PROMPTS)):
        one = {key: value[i : i + 1] for key, value in conditions.items()}
        row = slice(i, i + 1)
        ours = denoising_loss(pipe, x[row], one, noise[row], s[row])
        noisy = s[i] * noise[row] + (1 - s[i]) * x[row]
        velocity = pipe.transformer(noisy, one["prompt_embeds"], one["pooled_prompt_embeds"], 1000 * s[row]).sample
        script = ((noisy - s[i] * velocity - x[row]) ** 2).mean()
        torch.testing.assert_close(s[i] ** 2 * ours, script, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FLOWS)
def test_a_row_of_a_batch_is_the_row_alone(name):
    pipe = made(name)
    whole = encode_prompts(pipe, PROMPTS, 32)
    for i, prompt in enumerate(PROMPTS):
        alone = encode_prompts(pipe, [prompt], 32)
        for key, value in alone.items():
            torch.testing.assert_close(whole[key][i : i + 1, : value.shape[1]], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_layers_of_words_see_the_prompt_and_in_the_first_block_it_alone(name):
    pipe = made(name)
    family, denoiser = FAMILIES[name], denoiser_of(pipe)
    words = [path for path, _ in denoiser.named_modules() if "words" in family.places(denoiser, path)]
    if name in ("z-image", "krea2"):  # their text and picture share all layers
        assert not words
        with pytest.raises(UserError, match=r'adapter\.content_in is "words", and none of the adapted layers of'):
            PartlyLearnable(denoiser, 4, "all", learns_in={"content": "words"})
        return
    x, conditions, noise, s = given(pipe)
    seen = []
    denoiser.get_submodule(words[0]).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    other = encode_prompts(pipe, PROMPTS[1:] + PROMPTS[:1], 32)
    for latents, said in ((x, conditions), (x.flip(0), conditions), (x, other)):
        denoising_loss(pipe, latents, said, noise, s)
    third = len(seen) // 3  # one or more a call: some families go picture by picture
    before, flipped, said = seen[:third], seen[third : 2 * third], seen[2 * third :]
    assert all(torch.equal(one, two) for one, two in zip(before, flipped, strict=True))
    assert any(one.shape != two.shape or not torch.equal(one, two) for one, two in zip(before, said, strict=True))


@pytest.mark.parametrize("name", BASES)
def test_its_sets_of_layers_are_within_one_another(name):
    family, denoiser = FAMILIES[name], denoiser_of(made(name))
    names = [PartlyLearnable(denoiser_of(made(name)), 2, key).layers for key in family.layers]
    sets = [{layer.name for layer in layers} for layers in names]
    assert all(small <= large for small, large in pairwise(sets)) and len(sets[0]) < len(sets[-1])
    lists = {path.rsplit(".", 1)[-1] for path, _ in denoiser.named_modules()}
    assert set(family.blocks) <= lists


def test_guidance_is_off_at_the_paper_s_scale_of_one(base):
    pipe = guided_pipeline(open_base(str(base)), "emoji")
    one, two = (sheet.draw(pipe, "koala", (0,), 32, 1.0, 2)[0] for _ in range(2))
    assert one.tobytes() == two.tobytes() != sheet.draw(pipe, "koala", (0,), 32, 8.0, 2)[0].tobytes()


def test_kohya_has_no_names_for_a_transformer(base, tmp_path):
    if FAMILIES[base.name].denoiser != "transformer":
        return
    card = export.Card("base", "0" * 64, 2, 0, "zero", {"content": "sks"}, ("layer",), component="transformer")
    factors = {"layer": (torch.ones(4, 2), torch.ones(2, 4))}
    with pytest.raises(UserError, match="kohya"):
        export.write(tmp_path / "a.safetensors", factors, card, "kohya")
    export.write(tmp_path / "a.safetensors", factors, card)
    read, again = export.read(tmp_path / "a.safetensors")
    assert again == card and torch.equal(read["layer"][0], factors["layer"][0])


@pytest.mark.slow
def test_four_pictures_are_learned_by_heart(base, tmp_path):
    """The loss at fixed noises falls by a third."""
    pipe = open_base(str(base), "fp32")
    family = family_of(pipe)
    x, conditions, noise, levels = given(pipe)
    adapter = PartlyLearnable(denoiser_of(pipe), 8, "all")
    learned = [p for concept in ("content", "style") for p in adapter.parameters(concept)]
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    first = None
    for _ in range(200):
        loss = family.loss(pipe, x, conditions, noise, levels)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 2 / 3 * first
