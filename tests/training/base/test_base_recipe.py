"""The whole recipe, tiny, on drawings made here: autoencoder, denoiser, and the model that comes of them."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from pipelines import UserError
from tests.tiny import tiny_unet
from training.base import __main__ as command_line
from training.base import autoencoder, data, denoiser, muon, recipes, tokenizer
from training.base.computed import COMPUTED
from training.base.data import SPLIT, Pictures
from training.base.learning import Schedule
from training.draws import choose, keyed
from training.run import Run


@pytest.fixture
def pictures() -> Pictures:
    torch.set_num_threads(1)
    y, x = np.mgrid[:32, :32] // 8
    colours = {"noto": (220, 30, 30), "blob": (30, 60, 220)}
    pairs, pixels = [], []
    for style, colour in colours.items():
        for form, content in zip((y % 2 == 0, x % 2 == 0, (x + y) % 2 == 0), ("dog face", "frog", "fox"), strict=True):
            pixels.append(np.where(form[..., None], colour, 255).astype(np.uint8))
            pairs.append((content, style))
    return Pictures(torch.from_numpy(np.stack(pixels)), pairs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path / "data"))
    return tmp_path


def test_the_tiny_recipe_makes_a_model_that_draws(pictures, folder, capsys):
    vae = autoencoder.make(recipes.AUTOENCODERS["tiny"], pictures, folder / "autoencoder")
    latents = autoencoder.encode(vae, pictures.pixels)
    assert latents.shape == (6, 4, 8, 8)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-2 * latents.std()
    assert latents.std() * vae.config.scaling_factor == pytest.approx(1, abs=1e-3)
    again = AutoencoderKL.from_pretrained(folder / "autoencoder").eval()
    assert torch.equal(autoencoder.encode(again, pictures.pixels), latents)

    denoiser.make(recipes.DENOISERS["tiny"], vae, pictures, pictures.pairs, folder / "model")
    runs = folder / "data/base/runs"
    assert {path.name for path in runs.rglob("step-0000*.png")} == {f"step-00000{i}.png" for i in (3, 4, 6)}
    said = capsys.readouterr().out
    for part in ("autoencoder step 6/6", "smooth      step 4/4", "denoiser    step 6/6"):
        assert part in said
    for words in ("s/step", "pictures/s", "loss", "passes", "left"):
        assert said.count(words) == 3

    files = {path.suffix for path in (folder / "model").rglob("*") if path.is_file()}
    assert files <= {".json", ".safetensors", ".txt"}
    pipe = StableDiffusionPipeline.from_pretrained(folder / "model")
    assert pipe.text_encoder.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    image = pipe("fox, sks style", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (32, 32)


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_a_part_that_was_stopped_is_the_same_as_one_that_was_not(pictures, folder, monkeypatch, part):
    torch.manual_seed(5)
    vae = autoencoder.Learner(recipes.AUTOENCODERS["tiny"], 32).vae

    def make(place: str, stop_after: float):
        monkeypatch.setenv("JOINERY_DATA", str(folder / place))
        torch.manual_seed(stop_after == 0)  # what others draw has no part in it
        if part == "autoencoder":
            return autoencoder.make(recipes.AUTOENCODERS["tiny"], pictures, folder / "out", stop_after)
        return denoiser.make(recipes.DENOISERS["tiny"], vae, pictures, pictures.pairs, folder / "out", stop_after)

    whole, parts = make("whole", float("inf")), None
    while parts is None:
        parts = make("parts", 0)
    one, two = (made if part == "autoencoder" else made.unet for made in (whole, parts))
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    losses = [[entry["loss"] for entry in Run(run).read_metrics()] for run in sorted(folder.rglob("runs/out/*"))]
    half = len(losses) // 2
    assert losses[:half] == losses[half:] and all(losses)


def test_a_model_that_is_gone_on_with_keeps_its_words_and_what_it_had_learned(pictures, folder):
    torch.manual_seed(5)
    vae = autoencoder.Learner(recipes.AUTOENCODERS["tiny"], 32).vae
    recipe = replace(recipes.DENOISERS["tiny"], schedule=Schedule(1, 4, average=0.0), optimizer="adamw", lr=1e-12)
    first = denoiser.make(recipe, vae, pictures, pictures.pairs, folder / "first")

    def go_on(stop_after: float):
        begun = StableDiffusionPipeline.from_pretrained(folder / "first")
        longer = replace(recipe, schedule=Schedule(3, 4, average=0.0), seed=1)
        return denoiser.make(longer, vae, pictures, [], folder / "longer", stop_after, begun)

    assert go_on(0) is None
    longer = go_on(float("inf"))
    assert longer.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    for part in ("unet", "text_encoder"):
        weights = [getattr(pipe, part).state_dict() for pipe in (first, longer)]
        assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-3) for key in weights[0])
    assert len(Run(folder / "data/base/runs/longer/denoiser").read_metrics()) == 3


def test_a_share_of_each_batch_shows_the_contents_of_the_split(pictures, folder, monkeypatch):
    torch.manual_seed(5)
    vae = autoencoder.Learner(recipes.AUTOENCODERS["tiny"], 32).vae
    others = [("zebra" if content != "fox" else content, style) for content, style in pictures.pairs]
    shown, captions = [], denoiser.captions
    monkeypatch.setattr(denoiser, "captions", lambda pairs, *rest: shown.append(pairs) or captions(pairs, *rest))
    schedule = Schedule(4, 8, save_every=4, sheet_every=9)
    recipe = replace(recipes.DENOISERS["tiny"], schedule=schedule, contents="all", split_share=0.75)
    denoiser.make(recipe, vae, Pictures(pictures.pixels, others), others, folder / "model")
    assert [len(batch) for batch in shown] == [8] * 4
    assert all(content == "fox" for batch in shown for content, _ in batch[2:])
    assert {content for batch in shown for content, _ in batch[:2]} == {"fox", "zebra"}


def test_the_model_learns_what_it_is_shown(pictures, folder):
    recipe = replace(
        recipes.AUTOENCODERS["tiny"], schedule=Schedule(60, 12, average=0.9), smooth=Schedule(0, 6), lr=1e-2
    )
    autoencoder.make(recipe, pictures, folder / "out")
    losses = [entry["loss"] for entry in Run(folder / "data/base/runs/out/autoencoder").read_metrics()]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_the_tokenizer_knows_every_byte_and_a_word_that_no_caption_uses():
    captions = ["dog face, noto style", "a frog in noto style", "a fox in blob style"]
    made = tokenizer.make_tokenizer(captions, 560, denoiser.POSITIONS)
    assert made.tokenize("sks") == ["sks</w>"] and made.tokenize("Noto style") == ["noto</w>", "style</w>"]
    for text in ("fox, noto style", "Žluťoučký 漢字 🦊 #!", "naïve\x07¿"):
        ids = made(text).input_ids
        assert made.eos_token_id not in ids[1:-1] and ids[0] == made.bos_token_id
    assert (made.bos_token_id, made.eos_token_id) == (len(made) - 2, len(made) - 1)
    assert len(made) <= 560 and made.model_max_length == denoiser.POSITIONS


def test_byte_pairs_are_learned_by_count_then_by_alphabet():
    words = tokenizer.Counter({("l", "o", "w</w>"): 5, ("l", "o", "t</w>"): 2, ("b", "a</w>"): 2})
    assert tokenizer._learn(words, 4) == [("l", "o"), ("lo", "w</w>"), ("b", "a</w>"), ("lo", "t</w>")]
    assert tokenizer._learn(words, 99) == tokenizer._learn(words, 4)


def test_captions_come_in_all_forms_as_often_as_they_should():
    pairs = [("fox", "noto")] * 4000
    found = denoiser.captions(pairs, keyed("captions"))
    for form, share in denoiser.CAPTIONS:
        text = form.format(content="fox", style="noto")
        assert found.count(text) / len(pairs) == pytest.approx(share, abs=0.03)


def test_nothing_held_out_is_learned_from():
    blank = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    pairs = [(c, s) for c in ("fox", "koala", "cat face", "a thing") for s in ("noto", "neon", "streamline")]
    everything = Pictures(blank.expand(len(pairs), 1, 1, 3), pairs)
    assert ["cat face", "noto"] in SPLIT["left_out_pairs"]
    assert autoencoder.trainable(everything).pairs == [("fox", "noto"), ("a thing", "noto")]
    assert denoiser.chosen(everything, "all").pairs == [("fox", "noto"), ("a thing", "noto")]
    assert denoiser.chosen(everything, "split").pairs == [("fox", "noto")]
    assert data.held_out_pairs(everything) == [("koala", "noto")]


def test_smooth_latents_survive_averaging():
    rough = torch.randn(4, 4, 16, 16, generator=keyed("rough"))
    smooth = torch.nn.functional.interpolate(rough[..., :4, :4], scale_factor=4)
    assert autoencoder.surviving(smooth) == pytest.approx((1, 1), abs=1e-5)
    two, four = autoencoder.surviving(rough)
    assert two == pytest.approx(1 / 4, abs=0.05) and four == pytest.approx(1 / 16, abs=0.05)


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_muon_makes_the_update_orthogonal(shape):
    update = muon.orthogonal(torch.randn(shape, generator=keyed("muon", *shape)))
    values = torch.linalg.svdvals(update)
    assert update.shape == shape and values.min() > 0.3 and values.max() < 1.3


def test_muon_and_adamw_find_the_minimum():
    for kind in ("muon", "adamw"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        x, y = torch.randn(32, 4), torch.randn(32, 4)
        optimizer = muon.optimizer_for(model, kind, 1e-2, embedding_lr=1e-2)
        assert len(optimizer.param_groups) == (2 if kind == "muon" else 1)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            losses.append((model(x) - y).square().mean())
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < 0.7 * losses[0]


def test_a_missing_autoencoder_is_told(folder):
    with pytest.raises(UserError, match="holds no autoencoder"):
        command_line.denoiser(autoencoder=folder / "none")


def test_a_model_to_go_on_from_must_be_one(folder):
    with pytest.raises(UserError, match="holds no model"):
        command_line.denoiser(start=folder / "none")


def test_an_autoencoder_that_is_gone_on_with_gives_the_same_pictures_with_more_channels(pictures):
    torch.manual_seed(5)
    recipe = recipes.AUTOENCODERS["tiny"]
    start = autoencoder.Learner(recipe, 32).vae
    wider = autoencoder.Learner(replace(recipe, channels=7), 32, start)
    x = data.to_network(pictures.pixels)
    means = autoencoder.Learner(recipe, 32, start).encode(x)[0]
    more, logvar = wider.encode(x)
    assert more.shape[1] == logvar.shape[1] == 7 and more[:, 4:].std() > 0
    assert torch.allclose(more[:, :4], means, atol=1e-5)
    assert torch.allclose(wider.decode(more), start.decode(means).sample, atol=1e-5)


def test_a_denoiser_for_more_channels_says_the_same_of_the_old_ones(pictures):
    torch.manual_seed(5)
    unet = denoiser.fresh(recipes.DENOISERS["tiny"], tokenizer.make_tokenizer(["fox"], 300, 8), 8, 4).unet
    wider = denoiser.widened(unet, 6)
    x, words = torch.randn(2, 6, 8, 8), torch.randn(2, 8, 16)
    before = unet(x[:, :4], 500, encoder_hidden_states=words).sample
    after = wider(x, 500, encoder_hidden_states=words).sample
    assert torch.allclose(after[:, :4], before, atol=1e-6) and not after[:, 4:].any()
    assert denoiser.widened(unet, 4) is unet


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_a_share_of_each_batch_shows_computed_styles(pictures, folder, monkeypatch, part):
    style = next(iter(COMPUTED))
    both = data.both(pictures, Pictures(255 - pictures.pixels, [(content, style) for content, _ in pictures.pairs]))
    shown, module = [], {"autoencoder": autoencoder, "denoiser": denoiser}[part]
    monkeypatch.setattr(module, "choose", lambda *key: shown.append(key[2]) or choose(*key))
    if part == "autoencoder":
        recipe = replace(recipes.AUTOENCODERS["tiny"], computed=0.5)
        autoencoder.make(recipe, both, folder / "out")
        assert {"crops", "crops computed"} <= {*shown}
    else:
        torch.manual_seed(5)
        vae = autoencoder.Learner(recipes.AUTOENCODERS["tiny"], 32).vae
        recipe = replace(recipes.DENOISERS["tiny"], computed=0.5, split_share=0.5)
        groups = denoiser._groups(recipe, both)
        assert {name: size for name, (_, size) in groups.items()} == {
            "pictures": 1, "own": 1, "computed pictures": 1, "computed own": 1,
        }  # fmt: skip
        for name, (some, _) in groups.items():
            assert all((both.pairs[i][1] == style) == ("computed" in name) for i in some.tolist())
        denoiser.make(recipe, vae, both, both.pairs, folder / "out")
        assert {*groups} <= {*shown}


def test_captions_have_unknown_words_before_contents_and_styles_as_often_as_asked():
    pairs = [("red apple", "noto")] * 4000
    plain, mixed = (denoiser.captions(pairs, keyed("captions"), share) for share in (0.0, 0.3))
    assert not any(re.search(r"\b[a-z]{3} (red apple|noto)", text) for text in plain)
    for name, words in (("red apple", "content"), ("noto", "style")):
        found = [text for text in mixed if name in text]
        before = [re.search(rf"\b([a-z]{{3}}) {name}", text) for text in found]
        share = sum(match is not None for match in before) / len(found)
        assert 0.25 < share < 0.35, words
    assert len({text.split()[0] for text in mixed if text}) > 500


WRONG = {
    "nowhere holds no autoencoder": ["autoencoder", "--start", "{}/nowhere"],
    "unet holds no autoencoder that can be read": ["denoiser", "--autoencoder", "{}/unet"],
    "nowhere holds no model": ["denoiser", "--start", "{}/nowhere"],
    r"--out \S+file cannot be made: \S+file is a file": ["judge", "--out", "{}/file"],
    r"--out \S+file/vae cannot be made: \S+file is a file": ["autoencoder", "--out", "{}/file/vae"],
    r"--out \S+file/x/y cannot be made: \S+file is a file": ["denoiser", "--out", "{}/file/x/y"],
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_said_before_the_pictures_are_read(folder, monkeypatch, capsys, said):
    tiny_unet().save_pretrained(folder / "unet")
    (folder / "file").touch()
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr(sys, "argv", ["training.base", *(word.format(folder) for word in WRONG[said])])
    assert command_line.main() == 2
    assert re.search(said, capsys.readouterr().err.splitlines()[-1])
