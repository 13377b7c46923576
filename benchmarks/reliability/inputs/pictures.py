"""Pictures: cut, bent, too large, too small, something else."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

from app.checks import check
from app.chunks import chunks_of
from app.copies import Copies
from app.given import Given
from app.parameters import Parameters
from app.recipe import Recipe
from benchmarks.reliability.inputs.case import Case, Unclear, World, ask, cut, flipped
from training.pictures import LARGEST, open_picture, read_pictures

FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "AVIF": ".avif",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "GIF": ".gif",
}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<html><script>alert(1)</script></html>"


def cases(chance: Random) -> Iterator[Case]:
    noise = Image.fromarray(np.random.default_rng(chance.randrange(2**32)).integers(0, 256, (40, 48, 3), np.uint8))
    whole = {name: written(noise, name) for name in FORMATS}
    for name, suffix in FORMATS.items():
        for number in range(6):
            yield picture(f"{name} cut, {number}", cut(whole[name], chance), suffix)
            yield picture(f"{name} bent, {number}", flipped(whole[name], chance), suffix)
        yield picture(f"{name} by another's name", whole[name], chance.choice([*FORMATS.values(), ".heic", ".svg"]))
        yield picture(f"{name} with a page behind it", whole[name] + HTML, suffix)
        yield picture(f"{name} with an archive behind it", whole[name] + archive(), suffix)
    for what, data, suffix in special(noise):
        yield picture(what, data, suffix)
    for what, make in PLACES.items():
        yield Case(f"a picture that is {what}", lambda world, folder, make=make: look(make(folder / "a.png"), folder))


def picture(what: str, data: bytes, suffix: str) -> Case:
    def act(world: World, folder: Path) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        look(path, folder)

    return Case(what, act)


def look(path: Path, folder: Path) -> None:
    """All that opens a picture."""
    opened = ask(open_picture, path)
    if opened is not None and (opened.mode != "RGB" or opened.width * opened.height > LARGEST):
        raise Unclear(f"It was opened as {opened.mode}, {opened.size}")
    copy = ask(Copies(folder / "copies").of, path, 64)
    if copy is not None and (b"alert" in copy.read_bytes() or not copy.is_relative_to(folder)):
        raise Unclear("The copy holds more than pixels, or lies elsewhere")
    del opened
    for read in (chunks_of, Recipe.read, Recipe.is_in, Parameters.read):
        ask(read, path)
    ask(check, "content", [Given(path)], 64)
    ask(read_pictures, [path], 64, None)


def written(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../evil.sh", "#!/bin/sh\n")
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zeros, as deflate packs them."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    return b"".join(packer.compress(block[: min(2**20, count - i)]) for i in range(0, count, 2**20)) + packer.flush()


def special(noise: Image.Image) -> Iterator[tuple[str, bytes, str]]:
    for width, height in (
        (30_000, 30_000),
        (2**31 - 1, 2**31 - 1),
        (0, 0),
        (1, 1),
        (15, 16),
        (100_000, 16),
        (16, 10**6),
    ):
        yield f"PNG that says {width} x {height}", png(width, height, 8, 2, zeros(1000)), ".png"
    for side, depth, colour in ((10_000, 16, 0), (9_999, 8, 6), (10_001, 1, 0)):
        row = 1 + side * depth * {0: 1, 2: 3, 6: 4}[colour] // 8 + bool(side * depth % 8)
        data = zeros(side * row)
        yield f"PNG of {side} px a side, {depth} bits, kind {colour}", png(side, side, depth, colour, data), ".png"
    small = zlib.compress(bytes(49 * 16))
    bomb = zeros(300 * 2**20)
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        packed = b"joinery\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + bomb
        yield f"PNG with a bomb in {kind.decode()}", png(16, 16, 8, 2, small, chunk(kind, packed)), ".png"
    yield (
        "PNG with 3,000 texts",
        png(16, 16, 8, 2, small, *[chunk(b"tEXt", b"parameters\0" + b"a" * 9000)] * 3000),
        ".png",
    )
    yield "PNG without a palette", png(16, 16, 8, 3, zlib.compress(bytes(17 * 16))), ".png"
    yield "PNG of 3 bits", png(16, 16, 3, 0, small), ".png"
    yield "PNG with pixels for more", png(16, 16, 8, 2, bomb), ".png"
    for number in (*range(1, 10), 65_535):
        exif = Image.Exif()
        exif[0x0112] = number
        yield f"JPEG that is turned, {number}", written(noise, "JPEG", exif=exif), ".jpg"
    yield (
        "JPEG with EXIF that is none",
        written(noise, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 5000),
        ".jpg",
    )
    yield "JPEG of inks", written(noise.convert("CMYK"), "JPEG"), ".jpg"
    yield "JPEG with a profile that is none", written(noise, "JPEG", icc_profile=b"\xff" * 3000), ".jpg"
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 20)).astype(np.uint16)
    yield "PNG of 16 bits", written(Image.fromarray(deep), "PNG"), ".png"
    for what, value in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf), ("1e38", 1e38)):
        yield f"TIFF of {what}", written(Image.fromarray(np.full((20, 20), value, np.float32)), "TIFF"), ".tif"
    low = np.full((20, 20), -(2**31), np.int32)
    low[0] = 2**31 - 1
    yield "TIFF of 32 bits", written(Image.fromarray(low), "TIFF"), ".tif"
    frames = [Image.new("RGB", (200, 200), "red")] * 400
    for name in ("GIF", "PNG", "WEBP"):
        moving = written(frames[0], name, save_all=True, append_images=[f.copy() for f in frames[1:]])
        yield f"{name} of many frames", moving, FORMATS[name]
    clear = [Image.new("RGBA", (64, 64), (i % 256, 0, 0, 0)) for i in range(200)]
    yield "PNG of clear frames", written(clear[0], "PNG", save_all=True, append_images=clear[1:]), ".png"
    text = PngImagePlugin.PngInfo()
    text.add_itxt("joinery", "[" * 100_000)
    yield "PNG with a deep recipe", written(noise, "PNG", pnginfo=text), ".png"
    yield "PNG that is an SVG", SVG, ".png"
    yield "SVG with a script", SVG, ".svg"
    yield "no byte", b"", ".png"
    yield "one byte", b"\x89", ".png"
    yield "zeros", bytes(10_000), ".jpg"
    yield "HEIC that is none", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\xff" * 2000, ".heic"
    yield "TIFF that leads to itself", b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0", ".tif"
    yield (
        "TIFF of countless fields",
        b"II*\0\x08\0\0\0" + b"\xff\xff" + b"\x00\x01\x04\x00\xff\xff\xff\xff" * 9000,
        ".tif",
    )
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) run\n", ".png"
    yield "archive", archive(), ".png"
    yield "page", HTML, ".png"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _link(target: str) -> object:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


PLACES = {"a folder": _folder, "a pipe": _pipe, "a link to itself": _link("a.png"), "a link to nothing": _link("none")}
PLACES |= {"a link to a device": _link("/dev/zero"), "a link to a password": _link("/etc/passwd")}
PLACES |= {"not there": lambda path: path}
