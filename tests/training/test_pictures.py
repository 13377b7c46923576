"""What is taken for a picture, and the colours and the crop with which it is trained on."""

import base64
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageFilter, ImageOps

from app.checks import check
from app.given import Given
from pipelines import UserError
from training import colours, formats, pictures
from training.config import HOUSE, Customization
from training.run import decisive

# 64 x 48, red at the left and blue at the right, as a telephone writes it.
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERA"
    "AAEAAQAAAAABoQABAAAAAAAAAGAAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAA"
    "AHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAA"
    "MAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAGhtZGF0AAAAXCgBrwngOSMkv//5/7//"
    "9qF5D9pbVwX/8HCH3+DmB//vTd1FdlVHywpxbsO03dYlSjCkFrGzkY8pNjDnV1TvcVE8mlgRlQa9d9+1LKus0B/2uYSN9WiRHAR9Aed+"
)
RED, BLUE = (200, 30, 40), (20, 60, 220)


def two_colours(size=(64, 48)) -> Image.Image:
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def write_as(path: Path) -> None:
    name = next(name for name, suffixes in formats.FORMATS.items() if path.suffix in suffixes.split())
    if name == "HEIF":
        path.write_bytes(base64.b64decode(HEIC))
    else:
        two_colours().save(path, name, **({"quality": 95} if name in ("JPEG", "WEBP", "AVIF") else {}))


@pytest.mark.parametrize("suffix", sorted(formats.SUFFIXES))
def test_every_suffix_of_the_list_is_found_and_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_as(path)
    write_as(path.with_name(f"B{suffix.upper()}").with_suffix(suffix))
    (found, _) = pictures.read_pictures([tmp_path], 32, "x")
    assert found.path.suffix == suffix
    image = pictures.open_picture(path)
    assert image.size == (64, 48)
    for place, colour in (((8, 8), RED), ((56, 40), BLUE)):
        assert np.abs(np.subtract(image.getpixel(place), colour)).max() <= 12


def test_what_is_not_used_is_named_and_what_systems_leave_is_not(tmp_path):
    saved(tmp_path / "a.png", two_colours())
    (tmp_path / "a.txt").write_text("x")
    for name in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "a.xmp", ".hidden.jpg", "IMG_1.AAE"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    for name in ("b.svg", "c.psd", "d.cr2", "e.mp4", "f.zip", "a.caption", "lost.txt", "g.xyz", "h"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "old.png").mkdir()
    saved(tmp_path / "old.png" / "z.png", two_colours())
    (tmp_path / "notes").mkdir()
    found = formats.survey([tmp_path])
    assert found.pictures == [tmp_path / "a.png"]
    reasons = {path.name: reason for path, reason in found.left_out.items()}
    assert reasons.keys() == {
        "b.svg", "c.psd", "d.cr2", "e.mp4", "f.zip", "a.caption", "lost.txt", "g.xyz", "h", "old.png"
    }  # fmt: skip
    assert "drawing of lines" in reasons["b.svg"] and "no picture there has this name" in reasons["lost.txt"]
    assert "folder in the folder" in reasons["old.png"]
    assert formats.find_pictures([tmp_path / "old.png"]) == [tmp_path / "old.png" / "z.png"]


def test_a_folder_of_what_is_no_picture_says_what_it_holds(tmp_path):
    (tmp_path / "b.svg").write_text("<svg/>")
    (tmp_path / "10_sks").mkdir()
    saved(tmp_path / "10_sks" / "z.png", two_colours())
    with pytest.raises(UserError, match=r"No pictures were found in .*10_sks left out \(a folder.*b.svg left out"):
        formats.survey([tmp_path])


def text(path):
    path.write_text("not a picture")
    return path


def truncated(path):
    saved(path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
    path.write_bytes(path.read_bytes()[:500])
    return path


def tiny(path):
    return saved(path, two_colours((8, 200)))


def missing(path):
    return path


def drawing(path):
    path = path.with_suffix(".svg")
    path.write_text("<svg/>")
    return path


def script(path):
    """Pillow would hand it to Ghostscript."""
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")
    return path


def folder(path):
    path.mkdir()
    return [path]


def pipe(path):
    os.mkfifo(path)
    return path


def nowhere(path):
    path.symlink_to(path.with_name("gone.png"))
    return path


def nul(path):
    return path.with_name("a\0.png")


def unreadable_name(path):
    path = path.parent / "new" / os.fsdecode(b"caf\xe9.png")
    path.parent.mkdir()
    saved(path, two_colours())
    return path.parent


def too_long(path):
    return path.with_name("x" * 300 + ".png")


def no_folder(path):
    return path.with_name("gone")


def clear(path):
    return saved(path, Image.new("RGBA", (32, 32), (255, 0, 0, 0)))


FAULTS = {
    "bad.png cannot be opened": text,
    "bad.png cannot be opened .*truncated": truncated,
    "bad.png is 8 x 200 pixels": tiny,
    "The picture .*bad.png does not exist": missing,
    "bad.svg cannot be opened .a drawing of lines, not of pixels.. Export it as PNG": drawing,
    "bad.png cannot be opened .it is none of JPEG, PNG": script,
    "No pictures were found in .*bad.png": folder,
    "The picture .*gone does not exist": no_folder,
    "bad.png is no file": pipe,
    "bad.png does not exist": nowhere,
    r"a\\x00\.png does not exist": nul,
    r"caf\\udce9.png is not readable text. Rename it": unreadable_name,
    "cannot be read .File name too long": too_long,
    "bad.png shows nothing: it is transparent all over": clear,
}


@pytest.mark.parametrize("said", FAULTS)
def test_what_cannot_be_read_is_a_sentence(tmp_path, said):
    try:
        path = FAULTS[said](tmp_path / "bad.png")
    except OSError as error:
        pytest.skip(f"not on this file system ({error})")
    with pytest.raises(UserError, match=said) as told:
        pictures.read_pictures(path if isinstance(path, list) else [path], 32, "x")
    str(told.value).encode()


def test_a_folder_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read every folder
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\). Give the right"):
        formats.survey([tmp_path])


# Colours


def as_before(path: Path) -> Image.Image:
    """How ordinary pictures have always been read, and their runs must resume."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def ordinary() -> dict[str, Image.Image]:
    numbers = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    rgba = Image.fromarray(numbers)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    found = {"rgba.png": rgba, "rgb.png": rgb, "grey.png": grey, "one.png": rgba.convert("1")}
    return found | {"la.png": rgba.convert("LA"), "palette.png": rgb.quantize(16), "a.gif": rgba}


def test_pictures_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.avif"):
        image = pictures.open_picture(saved(tmp_path / name, two_colours(), exif=exif))
        assert image.size == (48, 64) and np.abs(np.subtract(image.getpixel((8, 8)), RED)).max() <= 12, name


@pytest.mark.parametrize("name", ordinary())
def test_ordinary_pictures_keep_their_bits(tmp_path, name):
    path = saved(tmp_path / name, ordinary()[name])
    assert pictures.open_picture(path).tobytes() == as_before(path).tobytes()
    keyed = saved(tmp_path / "keyed.png", ordinary()["grey.png"], transparency=7)
    assert pictures.open_picture(keyed).tobytes() == as_before(keyed).tobytes()


def test_the_samples_keep_their_bits():
    for place in ("content", "style"):
        for one in pictures.read_pictures([HOUSE / "samples" / place], 64, None):
            assert one.image.tobytes() == ImageOps.fit(as_before(one.path), (64, 64)).tobytes() and not one.notes


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def profile(kind: bytes, gamma: float, primaries=()) -> bytes:
    """An ICC profile of version 2: a curve, and for RGB the primaries' XYZ under D50."""
    white = (0.9642, 1.0, 0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": xyz(*white)}
    tags |= {b"kTRC": curve} if kind == b"GRAY" else {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    tags |= {letter + b"XYZ": xyz(*one) for letter, one in zip((b"r", b"g", b"b"), primaries, strict=False)}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12x4s28x", start + len(body), b"lcms", 0x02100000, b"mntr", kind, b"XYZ ", b"acsp")
    return (head + xyz(*white)[8:]).ljust(128, b"\0") + table + body


ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def encoded(linear: np.ndarray) -> np.ndarray:
    """sRGB's curve (IEC 61966-2-1)."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("veiled", [False, True])
def test_embedded_profiles_are_converted(tmp_path, suffix, veiled):
    colour = np.array([90, 180, 60])
    image = Image.new("RGBA" if veiled else "RGB", (32, 32), (*colour, 255)[: 4 if veiled else 3])
    if veiled:
        image.putpixel((0, 0), (0, 0, 0, 0))
    lossless = {".webp": {"lossless": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}.get(suffix, {})
    path = saved(tmp_path / f"a{suffix}", image, icc_profile=profile(b"RGB ", 563 / 256, ADOBE), **lossless)
    linear = np.linalg.inv(np.transpose(SRGB)) @ np.transpose(ADOBE) @ (colour / 255) ** (563 / 256)
    frame = pictures.look_at(path)
    assert np.abs(np.subtract(frame.image.getpixel((20, 20)), encoded(linear))).max() <= 3
    assert np.abs(encoded(linear) - colour).max() > 20
    assert (colours.TRANSPARENT in frame.notes) == veiled and not frame.image.info
    assert not veiled or frame.image.getpixel((0, 0))[0] > 250


def test_a_grey_profile_is_converted_and_one_that_does_not_fit_is_said(tmp_path):
    grey = saved(tmp_path / "a.png", Image.new("L", (32, 32), 100), icc_profile=profile(b"GRAY", 1.0))
    assert abs(pictures.open_picture(grey).getpixel((3, 3))[0] - encoded(np.array(100 / 255))) <= 2
    broken = saved(tmp_path / "b.png", two_colours(), icc_profile=b"no profile")
    other = saved(tmp_path / "c.png", two_colours(), icc_profile=profile(b"GRAY", 1.0))
    for path in (broken, other):
        frame = pictures.look_at(path)
        assert frame.image.tobytes() == two_colours().tobytes() and colours.BAD_PROFILE in frame.notes


def test_srgb_s_own_profile_changes_no_bit(tmp_path):
    image = ordinary()["rgb.png"]
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frame = pictures.look_at(saved(tmp_path / "a.png", image, icc_profile=own))
    assert frame.image.tobytes() == image.tobytes() and not frame.notes


def test_inks_without_a_profile_are_said(tmp_path):
    path = saved(tmp_path / "a.jpg", two_colours().convert("CMYK"), quality=95)
    frame = pictures.look_at(path)
    assert colours.NO_PROFILE in frame.notes
    assert np.abs(np.subtract(frame.image.getpixel((4, 4)), RED)).max() <= 8


RAMP = np.linspace(0, 1, 32)[None].repeat(32, 0)
WIDE = {
    "a.png": (RAMP * 65535, np.uint16),
    "a.tif": (RAMP * 65535, np.uint16),
    "whole.tif": (RAMP * (2**31 - 1), np.int32),
    "narrow.tif": (RAMP * 255, np.int32),
    "float.tif": (RAMP, np.float32),
    "radiance.tif": (RAMP * 900, np.float32),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_numbers_are_scaled_and_not_clipped(tmp_path, name):
    values, kind = WIDE[name]
    frame = pictures.look_at(saved(tmp_path / name, Image.fromarray(values.astype(kind))))
    assert np.abs(np.asarray(frame.image)[..., 0] - RAMP * 255).max() <= 1
    assert (colours.SCALED in frame.notes) == (name == "radiance.tif")


def test_wide_numbers_with_a_clear_one_lie_on_white(tmp_path):
    values = (RAMP * 65535).astype(np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values), transparency=0)
    frame = pictures.look_at(path)
    assert frame.image.getpixel((0, 0)) == (255, 255, 255) and colours.TRANSPARENT in frame.notes


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
@pytest.mark.parametrize("ground", [(0, 0, 0, 0), (255, 255, 255, 255)])
def test_an_empty_first_frame_is_no_picture(tmp_path, name, ground):
    frames = [Image.new("RGBA", (64, 48), ground), two_colours().convert("RGBA")]
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], duration=100)
    frame = pictures.look_at(path)
    assert pictures.ONE_OF_SEVERAL in frame.notes and pictures.PLAIN not in frame.notes
    assert np.abs(np.subtract(frame.image.getpixel((8, 8)), RED)).max() <= 12


def test_one_colour_is_said_and_pages_are(tmp_path):
    assert pictures.look_at(saved(tmp_path / "a.png", Image.new("RGB", (32, 32), "red"))).notes == (pictures.PLAIN,)
    pages = saved(tmp_path / "a.tif", two_colours(), save_all=True, append_images=[two_colours()])
    assert pictures.look_at(pages).notes == (pictures.ONE_OF_SEVERAL,)


# The crop


def photo(size, busy=(0, 0, 0, 0)) -> Image.Image:
    """An even ground with a subject, or with grain all over."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse(busy, "navy", "red", 4)
    return image


def test_what_the_crop_leaves_out_is_said():
    def said(image, resolution=64):
        return pictures.said_of_size(image, resolution)

    grain = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8))
    middle, border = photo((300, 200), (100, 50, 200, 150)), photo((300, 200), (50, 50, 150, 150))
    for fine in (grain, middle, border, photo((200, 200), (0, 50, 60, 150)), two_colours()):
        assert said(fine) == ()
    assert said(photo((300, 200), (0, 50, 100, 150))) == (pictures.CUT_OFF,)
    assert said(photo((200, 300), (50, 0, 150, 100))) == (pictures.CUT_OFF,)
    assert said(photo((500, 200), (200, 50, 300, 150))) == (pictures.NARROW,)
    assert said(photo((200, 200), (50, 50, 150, 150)), 400) == ()
    assert said(photo((200, 200), (50, 50, 150, 150)), 408) == (f"{pictures.ENLARGED}, to 408 pixels",)


def test_the_square_moves_along_the_longer_side(tmp_path):
    left = photo((300, 200), (0, 50, 100, 150))
    assert pictures.said_of_size(left, 64, 0) == () != pictures.said_of_size(left, 64)
    for name, image in (("a", left), ("b", left.rotate(90, expand=True)), ("c", left)):
        image.save(tmp_path / f"{name}.png")
    there = {"a.png": 0.0, "b.png": 1.0}
    read = pictures.read_pictures([tmp_path], 100, "x", crops=there)
    squares = [left.crop((0, 0, 200, 200)), left.rotate(90, expand=True).crop((0, 100, 200, 300)), left]
    for found, square in zip(read, squares, strict=True):
        expected = ImageOps.fit(square, (100, 100), Image.Resampling.LANCZOS)
        assert found.image.tobytes() == expected.tobytes()
    assert [found.duplicate_of for found in read] == [None] * 3 and [bool(found.notes) for found in read] == [0, 0, 1]
    with pytest.raises(UserError, match=r"crops names d\.png, and no picture is called so"):
        pictures.read_pictures([tmp_path], 100, "x", crops=there | {"d.png": 0.5})


def test_a_crop_is_kept_in_the_project_file(tmp_path):
    config = Customization(content={"pictures": [str(tmp_path)], "crops": {"my dog.png": 0.25}}, resolution=64)
    config.save(tmp_path / "project.toml")
    assert Customization.load(tmp_path / "project.toml").content.crops == {"my dog.png": 0.25}
    Customization(content={"pictures": [str(tmp_path)]}).save(tmp_path / "bare.toml")
    assert "crops" not in (tmp_path / "bare.toml").read_text()
    assert decisive(config) == decisive(Customization(content={"pictures": [str(tmp_path)]}))  # the pixels count
    with pytest.raises(UserError, match=r"content\.crops.* is 2.* for each name a number, at least 0, at most 1"):
        Customization(content={"pictures": [str(tmp_path)], "crops": {"a.png": 2}})


@pytest.mark.parametrize("side", [64, 256])
def test_a_blurred_picture_is_told_from_a_sharp_and_from_an_even_one(side):
    """The sample project's pictures are sharp, drawn as they are or larger from their own pixels."""
    for path in sorted((HOUSE / "samples").glob("*/*.png")):
        sharp = pictures.open_picture(path).resize((side, side), Image.Resampling.NEAREST)
        assert pictures.said_of_detail(sharp) == ()
        for radius in (1.5, 3):
            assert pictures.said_of_detail(sharp.filter(ImageFilter.GaussianBlur(radius))) == (pictures.BLURRED,)
    assert pictures.said_of_detail(Image.new("RGB", (side, side), "red")) == ()


def test_a_blurred_picture_is_named_before_it_is_learned(tmp_path):
    path = sorted((HOUSE / "samples").glob("*/*.png"))[0]
    pictures.open_picture(path).filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "soft.png")
    (read,) = pictures.read_pictures([tmp_path], 64, "x")
    assert read.notes == (pictures.BLURRED,)
    (finding,) = [one.text for one in check("style", [Given(tmp_path / "soft.png")], 64) if one.number == 0]
    assert finding == f"soft.png: {pictures.BLURRED}."
