import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines import UserError
from tests.tiny import tiny_pipeline
from training import concepts, model, pictures


def picture(path, colour="red", size=(40, 32), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


def test_pictures_stand_upright_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    image = pictures.open_picture(picture(tmp_path / "a.jpg", exif=exif))
    assert image.size == (32, 40) and image.mode == "RGB"
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pictures.open_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (32, 32), 7).save(tmp_path / "grey.png")
    assert pictures.open_picture(tmp_path / "grey.png").getpixel((0, 0)) == (7, 7, 7)


def text(path):
    path.write_text("not a picture")


def truncated(path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:500])


def tiny(path):
    picture(path, size=(8, 200))


def missing(path):
    pass


@pytest.mark.parametrize("fault", [text, truncated, tiny, missing])
def test_a_picture_that_cannot_be_used_is_named(tmp_path, fault):
    fault(tmp_path / "bad.png")
    with pytest.raises(UserError, match=r"bad\.png"):
        pictures.read_pictures([tmp_path / "bad.png"], 32, "x")


def test_a_folder_without_pictures_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No pictures were found in .*empty"):
        pictures.read_pictures([tmp_path / "empty"], 32, "x")


def test_captions_come_from_beside_then_from_the_concept_then_from_the_name(tmp_path):
    for name in ("a.png", "b.png", "red-car.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("{placeholder} {class_word}, noto style\n")
    words = {"placeholder": "sks", "class_word": ""}
    read = pictures.read_pictures([tmp_path], 32, "a {class_word} {placeholder}", words)
    assert [p.caption for p in read] == ["sks, noto style", "a sks", "a sks"]
    assert pictures.read_pictures([tmp_path / "red-car.png"], 32, None)[0].caption == "red car"


def test_a_caption_that_is_not_text_is_named(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match=r"a\.txt"):
        pictures.read_pictures([tmp_path], 32, "x")


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
    other = concepts.prepare(pipe, pictures.read_pictures([tmp_path], 32, "y"), tmp_path / "cache")
    assert other.digest != first.digest and len(encoded) == 2


def test_latents_are_the_scaled_mean_of_the_posterior():
    pipe = tiny_pipeline()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(model.encode_pictures(pipe, pixels), expected)


def test_a_base_that_is_no_model_is_told(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "file.safetensors")
    (tmp_path / "folder").mkdir()
    for base in ("file.safetensors", "folder"):
        with pytest.raises(UserError, match="cannot be opened"):
            model.open_base(str(tmp_path / base))
