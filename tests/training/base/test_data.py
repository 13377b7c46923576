"""The data set of the base, on packages made here: no test needs the registry."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.common.pictures import reference_pictures
from pipelines import UserError
from training import treatments
from training.base import data, join, npm

REAL = reference_pictures()
SQUARE = '<path fill="currentColor" d="M0 0h8v8H0z"/>'


def archive(files: dict) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            text = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A registry that is a folder, with one package @sets/a 1.0.0 that the lock file knows."""
    file = archive({"icons.json": {"icons": {"fox": {"body": SQUARE}}}})
    path = tmp_path / "registry/@sets/a/-/a-1.0.0.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(file)
    monkeypatch.setattr(
        npm, "LOCK", {"@sets/a": {"version": "1.0.0", "integrity": npm._integrity(file), "licence": "MIT"}}
    )
    monkeypatch.setenv("npm_config_registry", (tmp_path / "registry").as_uri())
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path / "data"))
    return tmp_path / "registry"


def test_a_package_is_downloaded_once(registry):
    assert npm.read("@sets/a", "icons.json")["icons"].keys() == {"fox"}
    next(registry.rglob("*.tgz")).unlink()
    assert npm.read("@sets/a", "icons.json")["icons"].keys() == {"fox"}


def test_another_file_than_the_locked_one_is_refused(registry):
    next(registry.rglob("*.tgz")).write_bytes(archive({"icons.json": {}}))
    with pytest.raises(UserError, match=r"integrity sha512-.* but packages.json says"):
        npm.fetch("@sets/a")
    assert not list(npm.base_folder().rglob("*.tgz"))


def test_a_registry_that_does_not_answer_is_named(registry, monkeypatch):
    monkeypatch.setenv("npm_config_registry", (registry / "none").as_uri())
    with pytest.raises(UserError, match="none/@sets/a"):
        npm.fetch("@sets/a")


def test_every_package_is_locked_and_share_alike_stays_out():
    sets = join.SETS | join.SHARE_ALIKE
    assert {*sets.values(), "unicode-emoji-json", "emojibase-data"} == npm.LOCK.keys()
    for style, package in sets.items():
        assert ("-SA-" in npm.LOCK[package]["licence"]) == (style in join.SHARE_ALIKE)
    assert not {*join.SETS, *data.FIRST_COMPUTED} & join.SHARE_ALIKE.keys()
    assert {source for source, _ in data.FIRST_COMPUTED.values()} <= join.SETS.keys()


def test_the_split_is_consistent():
    split = {key: set(map(tuple, value) if "pairs" in key else value) for key, value in data.SPLIT.items()}
    assert not split["contents"] & split["held_out_contents"] and not split["styles"] & split["held_out_styles"]
    assert split["styles"] | split["held_out_styles"] == {*join.SETS, *join.SHARE_ALIKE, *data.FIRST_COMPUTED}
    assert all(content in split["contents"] and style in split["styles"] for content, style in split["left_out_pairs"])


def entry(name: str, group: str = "Objects") -> dict:
    return {"name": name, "group": group}


@pytest.fixture
def drawings(monkeypatch):
    """Packages with a few emoji, in place of the real ones."""
    files = {
        ("unicode-emoji-json", "data-by-emoji.json"): {
            "🦊": entry("fox"),
            "❤️": entry("red heart"),
            "🤝": entry("handshake"),
            "💤": entry("ZZZ"),
            "😴": entry("sleeping face"),
            "👩‍🌾": entry("woman farmer"),
            "🧑‍🌾": entry("farmer"),
            "💃": entry("woman dancing"),
            "💋": entry("kiss mark"),
            "👩‍❤️‍💋‍👩": entry("kiss woman, woman"),
            "👪": entry("family"),
            "1️⃣": entry("keycap 1"),
            "🏴": entry("black flag", "Flags"),
        },
        ("@iconify-json/noto", "chars.json"): {"1f98a": "fox", "2764-fe0f": "heart", "1f3f4": "flag"},
        ("@iconify-json/noto", "icons.json"): {"aliases": {"love": {"parent": "heart"}}},
        ("@iconify-json/fxemoji", "chars.json"): {},
        ("@iconify-json/fxemoji", "icons.json"): {
            "icons": {icon: {} for icon in ("love", "shaking-hands", "sleeping", "zzz", "reynard", "unknown")},
            "aliases": {"fox": {"parent": "reynard"}},
        },
        **{("emojibase-data", f"en/shortcodes/{name}.json"): {} for name in join.SHORT_CODES},
    }
    files["emojibase-data", "en/shortcodes/github.json"] = {"1F91D": ["shaking_hands"], "1F634": "sleeping"}
    monkeypatch.setattr(npm, "read", lambda name, file: files[name, file])
    join._codes.cache_clear()
    yield
    join._codes.cache_clear()


def test_flags_keycaps_families_and_doublets_are_no_contents(drawings):
    kept = ["fox", "red heart", "handshake", "ZZZ", "sleeping face", "farmer", "woman dancing", "kiss mark"]
    assert list(join.contents().values()) == kept


def test_sets_are_joined_by_code_point_or_by_name(drawings):
    assert join.icons("noto") == {"1f98a": "fox", "2764": "heart"}
    # By an alias of the icon, by Noto's name of the code, by a short code, by Unicode's own name ("SLEEPING SYMBOL").
    found = {"1f98a": "reynard", "2764": "love", "1f91d": "shaking-hands", "1f4a4": "sleeping"}
    assert join.icons("fxemoji") == found


def test_a_drawing_is_squared_and_black_where_it_takes_the_colour_of_text():
    pytest.importorskip("resvg_py")
    file = {"icons": {"half": {"body": SQUARE, "width": 4, "height": 8}}, "width": 16, "height": 16}
    picture = data.render(data.svg(file, "half"))
    assert picture.shape == (64, 64, 4)
    # The box goes from -2 to 6, so the square 0..8 covers the right three quarters.
    assert not picture[:, :16].any() and (picture[:, 16:] == (0, 0, 0, 255)).all()
    assert (data.on_white(picture)[:, :16] == 255).all()


def opaque(content: str, style: str) -> np.ndarray:
    return np.asarray(Image.open(REAL[content, style]).convert("RGBA"))


@pytest.mark.parametrize("content", ["guitar", "koala", "pineapple", "umbrella"])
def test_pixel_art_is_what_the_given_pictures_show(content):
    real = np.asarray(Image.open(REAL[content, "pixel-art"]).convert("RGB"))
    assert np.array_equal(data.pixel_art(opaque(content, "fluent-flat")), real)


def test_blueprint_draws_edges_on_blue():
    picture = np.full((64, 64, 4), 255, dtype=np.uint8)
    picture[16:48, 16:48, :3] = 0
    drawn = data.blueprint(picture)
    edges = (drawn == treatments.CHALK).all(-1)
    # Above and left of the square's first pixels, and of the first pixels after it.
    assert edges[16, 16:48].all() and edges[48, 16:48].all() and edges[16:48, 16].all() and edges[16:48, 48].all()
    assert edges.sum() == 4 * 32 - 1 and (drawn[~edges] == treatments.PAPER).all()


def test_sepia_has_six_tones_that_rise_with_brightness():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
    drawn = data.sepia(np.concatenate([ramp, np.full((256, 1, 1), 255, np.uint8)], 2))
    assert len(np.unique(drawn[:, 0], axis=0)) == treatments.TONES + 1
    assert (drawn[0, 0] == treatments.SHADOW).all() and (drawn[-1, 0] == treatments.LIGHT).all()
    assert (np.diff(drawn[:, 0].astype(int), axis=0) >= 0).all()


def test_neon_glows_in_the_drawings_hue_on_night():
    picture = np.zeros((64, 64, 4), dtype=np.uint8)
    picture[20:44, 20:44] = (200, 0, 0, 255)
    drawn = data.neon(picture).astype(int) - data.NIGHT
    assert not drawn[:8].any() and not drawn[28:36, 28:36].any()
    tube, glow = drawn[20, 32], drawn[23, 32]
    assert tube[0] > 200 and tube[1] < 60 and 0 < glow[0] < tube[0]
    assert drawn[18, 32].max() < glow[0]  # outside the drawing a fifth of the light


def test_wrong_pixels_are_told_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path))
    monkeypatch.setattr(data, "_rendered", lambda: iter([(("fox", "noto"), np.zeros((64, 64, 3), np.uint8))]))
    with pytest.raises(UserError, match=f"The 1 pictures have SHA-256 .*, not {data.SHA256['pictures']}"):
        data.build()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_built_set_is_read_back_and_a_damaged_one_made_again(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    pairs = [("fox", "noto"), ("fox", "blob")]
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path))
    monkeypatch.setattr(data, "_rendered", lambda: zip(pairs, pixels, strict=True))
    monkeypatch.setitem(data.SHA256, "pictures", data.hashlib.sha256(pixels.tobytes()).hexdigest())
    for _ in range(2):
        pictures = data.load()
        assert pictures.pairs == pairs and np.array_equal(pictures.pixels, pixels)
        (path,) = tmp_path.rglob("*.safetensors")
        damaged = path.read_bytes()[:100]
        path.unlink()  # its pages are still mapped
        path.write_bytes(damaged)
    assert torch.equal(pictures.take(pairs[1:]).pixels, torch.from_numpy(pixels[1:]))
    shown = data.to_network(pictures.pixels)
    assert shown.shape == (2, 3, 64, 64) and shown.min() >= -1 and shown.max() <= 1
    assert torch.equal(data.to_pixels(shown), pictures.pixels)
