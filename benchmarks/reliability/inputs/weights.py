"""Safetensors: headers that lie, tensors that do not fit, cards and checkpoints that were changed."""

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save

from app.bases import about
from benchmarks.reliability.inputs.case import VALUES, Case, World, ask, cut, flipped
from pipelines.adapter_file import read_file
from training import checkpoint, export
from training.recognise import recognise

LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"  # of the tiny base, 16 to 16
DOWN, UP = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
HEADERS = {
    "an empty header": "",
    "a header of spaces": " " * 64,
    "a list": "[]",
    "a deep list": "[" * 100_000,
    "a deep table": '{"a":' * 100_000,
    "no table of a tensor": '{"a": 3}',
    "an unknown type": '{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}',
    "a negative side": '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    "a side that is no whole number": '{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}',
    "sides whose product has no room": '{"a": {"dtype": "U8", "shape": [8589934592, 8589934592], '
    '"data_offsets": [0, 4]}}',
    "a tensor larger than the file": '{"a": {"dtype": "F32", "shape": [999999999], "data_offsets": [0, 3999999996]}}',
    "a tensor that ends before it begins": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    "tensors one over the other": '{"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, '
    '"b": {"dtype": "U8", "shape": [3], "data_offsets": [1, 4]}}',
    "one name twice": '{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, '
    '"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}',
    "metadata that is no text": '{"__metadata__": {"a": 3}}',
    "metadata that is a list": '{"__metadata__": []}',
    "no tensor": "{}",
}


def cases(chance: Random) -> Iterator[Case]:
    good = save({DOWN: torch.ones(2, 16), UP: torch.ones(16, 2)}, {"a": "b"})
    for number in range(14):
        yield weights(f"an adapter cut, {number}", cut(good, chance))
        yield weights(f"an adapter bent, {number}", flipped(good, chance))
    for length in (0, 1, len(good), len(good) - 8, 2**31, 2**32, 2**63, 2**64 - 1, 10**8, 10**8 + 1):
        yield weights(f"a header of {length} bytes, it says", struct.pack("<Q", length) + good[8:])
    for what, header in HEADERS.items():
        yield weights(what, struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    many = {f"a{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}
    text = json.dumps(many).encode()
    yield weights("200,000 tensors", struct.pack("<Q", len(text)) + text)
    yield weights("a name of a million letters", save({"x" * 10**6 + ".lora_A.weight": torch.ones(2, 2)}))
    yield weights("a pickle", b"cposix\ngetcwd\n.")
    yield weights("an archive", b"PK\3\4" + bytes(500))
    yield weights("no byte", b"")
    for what, tensors in factors():
        yield weights(what, save({key: value.clone() for key, value in tensors.items()}))
    for what, beside in settings():
        yield weights(f"beside it, {what}", good, beside)
        yield weights(
            f"in it, {what}", save({DOWN: torch.ones(2, 16), UP: torch.ones(16, 2)}, {"lora_adapter_metadata": beside})
        )
    for what, kind in (("a folder", Path.mkdir), ("a pipe", os.mkfifo)):
        yield Case(f"an adapter that is {what}", lambda world, folder, kind=kind: _made(world, folder, kind))
    for file in ("model_index", "unet/config", "vae/config", "scheduler/scheduler_config"):
        for text in ("[" * 10**5, "[]", "null", "\0", "{"):
            yield Case(
                f"a base whose {file} is {text:.9}", lambda world, folder, f=file, t=text: based(world, folder, f, t)
            )
    for file, key in BASE:
        for value in chance.sample(VALUES, 2):
            yield Case(
                f"a base whose {file} has a {key} of {value!r:.40}",
                lambda world, folder, f=file, k=key, v=value: based(world, folder, f, key=k, value=v),
            )
    for _ in range(40):
        key, value = chance.choice(CARD), chance.choice(VALUES)
        yield Case(
            f"a card whose {key} is {value!r:.40}", lambda world, folder, k=key, v=value: carded(world, folder, k, v)
        )
    for _ in range(30):
        key, value = chance.choice(MANIFEST), chance.choice(VALUES)
        yield Case(
            f"a checkpoint whose {key} is {value!r:.40}",
            lambda world, folder, k=key, v=value: saved(world, folder, k, v),
        )


def _made(world: World, folder: Path, kind: object) -> None:
    kind(folder / "a.safetensors")
    read(world, folder / "a.safetensors")


def weights(what: str, data: bytes, beside: str = "") -> Case:
    def act(world: World, folder: Path) -> None:
        path = folder / "a.safetensors"
        path.write_bytes(data)
        if beside:
            (folder / "adapter_config.json").write_text(beside)
        read(world, path)

    return Case(what, act)


def read(world: World, path: Path) -> None:
    """All that reads a safetensors file."""
    ask(read_file, path)
    ask(world.pipe.load_adapter, path, any_base=True)
    ask(export.convert, path, path.with_name("out.safetensors"), None)
    ask(recognise, str(path))


def factors() -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    down, up = torch.ones(2, 16), torch.ones(16, 2)
    for value in (float("nan"), float("inf"), -float("inf"), 3e38, 0.0):
        yield f"factors of {value}", {DOWN: down * value, UP: up}
    for dtype in ("bool", "uint8", "int8", "int64", "float64", "float16", "bfloat16", "float8_e4m3fn"):
        yield f"factors of {dtype}", {DOWN: down.to(getattr(torch, dtype)), UP: up.to(getattr(torch, dtype))}
    for shape in ((0, 16), (2, 0), (2,), (), (2, 16, 1), (2, 16, 3, 3), (2, 17), (16, 2), (3, 16), (2, 16, 1, 1)):
        yield f"a factor of {shape}", {DOWN: torch.ones(shape), UP: up}
    yield "a factor alone", {DOWN: down}
    for value in (float("nan"), float("inf"), -1.0, 1e38, 0.0):
        yield f"an alpha of {value}", {DOWN: down, UP: up, f"{LAYER}.alpha": torch.tensor(value)}
    yield "two alphas", {DOWN: down, UP: up, f"{LAYER}.alpha": torch.ones(2)}
    yield "no layer of the base", {"unet.x.lora_A.weight": down, "unet.x.lora_B.weight": up}
    yield "more than factors", {DOWN: down, UP: up, "evil": torch.ones(3), "unet.y.lora_A.weight": down}
    yield "a LoHa", {"a.hada_w1_a": down}
    yield "a rank of 100,000", {DOWN: torch.ones(100_000, 16), UP: torch.ones(16, 100_000)}


def settings() -> Iterator[tuple[str, str]]:
    """Of peft."""
    yield from (
        ("a list", "[]"),
        ("a deep list", "[" * 100_000),
        ("text", "alpha"),
        ("an alpha that is a text", '{"lora_alpha": "x"}'),
        ("an alpha that is a list", '{"lora_alpha": [1]}'),
        ("an alpha without end", '{"lora_alpha": 1e999}'),
        ("an alpha that is none", '{"lora_alpha": null}'),
        ("a pattern that is no expression", '{"alpha_pattern": {"((": 3}}'),
        ("a pattern that is a list", '{"alpha_pattern": [3]}'),
        ("a negative rank", '{"lora_alpha": 1, "use_rslora": true, "r": -4}'),
        ("a rank that is a text", '{"lora_alpha": 1, "use_rslora": true, "r": "x"}'),
    )


CARD = [
    "format",
    "base",
    "base_hash",
    "halves",
    "fused",
    "alone",
    "rank",
    "placeholders",
    "layers",
    "component",
    "halves.content",
]
BASE = [("model_index", key) for key in ("_class_name", "unet", "_name_or_path", "is_distilled")]
BASE += [("unet/config", key) for key in ("in_channels", "sample_size", "cross_attention_dim", "time_cond_proj_dim")]
BASE += [("unet/config", "_name_or_path"), ("unet/config", "addition_embed_type"), ("vae/config", "block_out_channels")]
BASE += [("scheduler/scheduler_config", key) for key in ("_class_name", "prediction_type", "use_flow_sigmas")]
MANIFEST = ["format", "step", "files", "numbers", "files.state.safetensors", "files.../../../outside/a.txt"]


def put(held: dict, key: str, value: object) -> dict:
    """A table with another value at a key, which may lie in a table of it."""
    table, _, name = key.partition(".")
    inner = held.get(table)
    if name and isinstance(inner, dict):
        return held | {table: inner | {name: value}}
    return held | {table: value}


def carded(world: World, folder: Path, key: str, value: object) -> None:
    tensors, metadata = read_file(world.run.adapter)
    card = json.dumps(put(json.loads(metadata["joinery"]), key, value))
    path = folder / "a.safetensors"
    path.write_bytes(save(tensors, metadata | {"joinery": card}))
    read(world, path)
    ask(world.pipe.set_scales, content=0.5, style=0.5)


def saved(world: World, folder: Path, key: str, value: object) -> None:
    shutil.copytree(world.run.checkpoints, folder / "checkpoints")
    manifest = max(folder.glob("checkpoints/*/manifest.json"))
    manifest.write_text(json.dumps(put(json.loads(manifest.read_text()), key, value)))
    ask(checkpoint.read_last, folder / "checkpoints")


def based(world: World, folder: Path, file: str, text: str = "", key: str = "", value: object = None) -> None:
    """A copy of the base with another file, or with another value in it."""
    base = folder / "base"
    shutil.copytree(world.base, base)
    path = base / f"{file}.json"
    path.write_text(text or json.dumps(json.loads(path.read_text()) | {key: value}))
    found = ask(recognise, str(base))
    if found:
        ask(found.check_trains, "emoji", 64)
    ask(about, str(base))
    index = base / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(text or json.dumps({"weight_map": value}))
    ask(recognise, str(base))
