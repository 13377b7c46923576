import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file

from tests.tiny import tiny_pipeline
from training import concepts, model, pictures
from training.families import FAMILIES, family_of


def picture(path, colour="red", size=(40, 32), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


def test_duplicates_are_noticed_and_left_out(tmp_path, caplog):
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        picture(tmp_path / name, colour)
    read = pictures.read_pictures([tmp_path], 32, "x")
    assert [p.duplicate_of for p in read] == [None, tmp_path / "a.png", None]
    concept = concepts.prepare(tiny_pipeline(), read, tmp_path / "cache")
    assert len(concept) == 2 and "same pixels as" in caplog.text


def test_what_was_encoded_is_cached_by_content(tmp_path, monkeypatch):
    pipe = tiny_pipeline()
    picture(tmp_path / "a.png")
    read = pictures.read_pictures([tmp_path], 32, "x")
    first = concepts.prepare(pipe, read, tmp_path / "cache")
    encoded = []
    monkeypatch.setattr(concepts, "encode_pictures", lambda *a: encoded.append(1) or model.encode_pictures(*a))
    again = concepts.prepare(pipe, read, tmp_path / "cache")
    assert not encoded and torch.equal(again.latents, first.latents) and again.digest == first.digest
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"broken")
    again = concepts.prepare(pipe, read, tmp_path / "cache")
    assert len(encoded) == 1 and torch.equal(again.latents, first.latents)
    save_file({"x": torch.zeros(1)}, file)
    again = concepts.prepare(pipe, read, tmp_path / "cache")
    assert len(encoded) == 2 and torch.equal(again.latents, first.latents)
    other = concepts.prepare(pipe, pictures.read_pictures([tmp_path], 32, "y"), tmp_path / "cache")
    assert other.digest != first.digest and len(encoded) == 3


def test_latents_are_the_scaled_mean_of_the_posterior():
    pipe = tiny_pipeline()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(model.encode_pictures(pipe, pixels), expected)


def test_an_autoencoder_that_says_its_statistics_is_drawn_back_by_diffusers():
    """Of SDXL's descendants: its own pipeline undoes them when it decodes."""
    pipe = tiny_pipeline(StableDiffusionXLPipeline)
    stated = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [2.0, 0.5, 1.0, 3.0]}
    pipe.vae.register_to_config(**stated)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        raw = pipe.vae.encode(pixels).latent_dist.mode()
    found, scale = model.encode_pictures(pipe, pixels), pipe.vae.config.scaling_factor
    mean, std = (torch.tensor(stated[name]).view(1, -1, 1, 1) for name in stated)
    torch.testing.assert_close(found * std / scale + mean, raw)
    img2img = StableDiffusionXLImg2ImgPipeline(**pipe.components)
    theirs = img2img.prepare_latents(pixels, None, 2, 1, torch.float32, "cpu", None, add_noise=False)
    spread = found - theirs  # which draws from the posterior: as far off as that is wide
    with torch.no_grad():
        wide = pipe.vae.encode(pixels).latent_dist.std / std * scale
    assert (spread.abs() < 6 * wide + 1e-5).all()


def test_latents_are_found_again_by_all_that_decides_them(tmp_path):
    """Another scale of the autoencoder, and a tokenizer that reads fewer words, give other latents and prompts."""
    picture(tmp_path / "a.png")
    read = pictures.read_pictures([tmp_path / "a.png"], 32, "a red picture")

    def digest(change) -> str:
        pipe = tiny_pipeline()
        change(pipe)
        return concepts.prepare(pipe, read, tmp_path / "cache").digest

    changes = {
        "none": lambda pipe: None,
        "again": lambda pipe: None,
        "scale": lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5),
        "words": lambda pipe: setattr(pipe.tokenizer, "model_max_length", 8),
        "encoder": lambda pipe: setattr(pipe.text_encoder.config, "hidden_act", "gelu"),
        "weights": lambda pipe: pipe.vae.quant_conv.weight.data.neg_(),
    }
    found = {name: digest(change) for name, change in changes.items()}
    assert found["none"] == found["again"] and len(set(found.values())) == len(found) - 1


def test_a_run_goes_on_only_on_the_same_noise_schedule():
    pipe = tiny_pipeline()
    before = family_of(pipe).noise_schedule(pipe)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_end=0.5)
    assert family_of(pipe).noise_schedule(pipe) != before


def test_sdxl_hears_how_a_picture_was_framed(tmp_path):
    """Of a file of 128 x 64 pixels, learned at 32: its size, where the square begins, and the square's size."""
    Image.effect_noise((128, 64), 50).save(tmp_path / "a.png")
    Image.effect_noise((16, 16), 50).save(tmp_path / "b.png")
    wide, small = pictures.read_pictures([tmp_path], 32, "x", crops={"a.png": 1.0})
    found = FAMILIES["sdxl"].framing([wide, wide.mirrored(), small])
    assert found["time_ids"].tolist() == [[64, 128, 0, 32, 32, 32], [64, 128, 0, 0, 32, 32], [16, 16, 0, 0, 32, 32]]
