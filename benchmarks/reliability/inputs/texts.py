"""Recipes, the web UIs' parameters, captions, prompts, and the values of a grid."""

import json
import string
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

from PIL import Image, PngImagePlugin

from app import drawing, parameters
from app.chunks import chunks_of
from app.painter import LARGEST_SEED, Model
from app.parameters import Parameters
from app.recipe import KEY, Recipe
from benchmarks.reliability.inputs.case import VALUES, Case, Unclear, World, ask
from training import captions
from training.findings import of_prompt
from training.pictures import read_pictures

RECIPE = Recipe("a dog", 7, 1.0, 1.0, "APG", {}, 5.0, 3, 64, "base", adapter="fox", adapter_hash="x")
RANGES = {
    "content": (0, 1.5),
    "style": (0, 1.5),
    "guidance_scale": (1, 15),
    "steps": (1, 50),
    "seed": (0, LARGEST_SEED),
}
RANGES |= {"eta": (0, 1), "norm_threshold": (0, 50), "momentum": (-1, 0), "start": (0, 1), "stop": (0, 1)}
MODEL = Model("base", "base", "fp32", 64, "emoji")
PROMPTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[2J",
    "x" * 10**6,
    "x " * 10**5,
    "🙂" * 1000,
    "\u202e",
    "\udcff",
    "\n" * 1000,
    "{" * 10**4,
]
PROMPTS += [
    "a" + "\u0301" * 5000,
    "<b>",
    "{file_name}" * 1000,
    "sks " * 1000,
    "<|endoftext|>" * 500,
    "(" * 5000,
    "%s%n",
    "\ufeff",
]
REPEATED = [
    "a",
    "a ",
    ", ",
    ": ",
    '"',
    "\\",
    '\\"',
    "<lora:",
    "<lora:a:",
    "a: b, ",
    'a: "',
    "Negative prompt: ",
    "\n",
    "<",
    "a:",
]


def cases(chance: Random) -> Iterator[Case]:
    for key in asdict(RECIPE):
        for value in chance.sample(VALUES, 3):
            text = json.dumps(asdict(RECIPE) | {key: value})
            yield Case(f"a recipe whose {key} is {value!r:.40}", lambda world, folder, t=text: recipe(folder, KEY, t))
    for name in ("eta", "norm_threshold", "momentum", "interval", "nothing", "__class__"):
        for value in chance.sample([*VALUES, [1, 0], ["a", "b"], [0, 1, 2]], 3):
            text = json.dumps(asdict(RECIPE) | {"guidance_settings": {name: value}})
            yield Case(f"a recipe with {name} of {value!r:.40}", lambda world, folder, t=text: recipe(folder, KEY, t))
    for text in ("[" * 10**5, '{"format": 1}', "null", "1e999", '{"format": 1, "self": {}}', "\0", "9" * 10**5):
        yield Case(f"a recipe of {text:.20}", lambda world, folder, t=text: recipe(folder, KEY, t))
    for part in REPEATED:
        for text in (part * 20_000, part * (900_000 // len(part))):
            yield Case(
                f"parameters of {len(text)} letters, {part!r} again and again",
                lambda world, folder, t=text: recipe(folder, parameters.KEY, t),
            )
    whole = parameters.text_of(RECIPE)
    for number in range(20):
        letters = list(whole)
        for _ in range(chance.randint(1, 30)):
            letters[chance.randrange(len(letters))] = chance.choice(string.printable + "ä\0🙂")
        text = "".join(letters)
        yield Case(f"parameters bent, {number}", lambda world, folder, t=text: recipe(folder, parameters.KEY, t))
    for field in parameters.FIELDS:
        for value in ("1e999", "nan", "9" * 5000, "-1", "0x1", "١", "1_0", '"'):
            text = f"a\nSteps: 1, Seed: 2, CFG scale: 3, {field}: {value}"
            yield Case(
                f"parameters with {field} {value:.9}", lambda world, folder, t=text: recipe(folder, parameters.KEY, t)
            )
    for text in PROMPTS:
        yield Case(
            f"a prompt of {len(text)} letters, {text[:6]!r}", lambda world, folder, t=text: prompt(world, folder, t)
        )
        yield Case(
            f"a caption of {len(text)} letters, {text[:6]!r}", lambda world, folder, t=text: caption(world, folder, t)
        )
    for name in ("content", "steps", "seed", "guidance", "eta"):
        for text in (
            "",
            ",",
            "nan",
            "inf, -inf",
            "1e999",
            "9" * 10**5,
            "1_0",
            "0x1",
            "١",
            "1," * 10**5,
            "\0",
            "a",
            "1.5, 1e-400",
        ):
            yield Case(f"a grid over {name} of {text:.12}", lambda world, folder, n=name, t=text: grid(n, t))


def recipe(folder: Path, key: str, text: str) -> None:
    """A picture with a text, and what the Play page makes of it."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(key, text)
    path = folder / "a.png"
    Image.new("RGB", (16, 16)).save(path, pnginfo=chunks)
    ask(chunks_of, path)
    found = ask(Recipe.read, path)
    if found:
        said = drawing.recall(found, RANGES)
        drawing.recalled(found, said[1], "", "x")
    else:
        read = ask(Parameters.read, path)
        if read:
            values, odd = drawing.recall_elsewhere(read, ["fox"], RANGES)
            drawing.recalled_elsewhere(read, odd, MODEL, "fox")
            if any(not low <= values[name] <= high for name, (low, high) in RANGES.items() if name in values):
                raise Unclear(f"A field got {values}")


def prompt(world: World, folder: Path, text: str) -> None:
    given = dict.fromkeys(("content", "style"), 1.0) | {"guidance": "APG", "guidance_scale": 5.0, "steps": 3, "seed": 1}
    given |= {"eta": 0.0, "norm_threshold": 0, "momentum": 0.0, "start": 0.0, "stop": 1.0, "fresh": False}
    given |= {"size": drawing.SQUARE, "sampler": ""}
    made = ask(drawing.recipe_of, given | {"prompt": text, "negative_prompt": text}, MODEL)
    ask(of_prompt, text, ["sks", "zwx"], [world.pipe.tokenizer])
    if made and (path := ask(made.save, Image.new("RGB", (16, 16)), folder / "a.png")) and Recipe.read(path) != made:
        raise Unclear("What is written is not what is read")
    if made:
        ask(lambda: world.pipe(made.prompt, num_inference_steps=1, height=32, width=32, output_type="latent"))


def caption(world: World, folder: Path, text: str) -> None:
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    (folder / "a.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    ask(captions.beside, folder / "a.png")
    ask(read_pictures, [folder], 32, None, {"placeholder": "sks", "class_word": "dog"})
    for function in (captions.holds, captions.without):
        ask(function, text, "sks", *["dog"][: function is captions.without])
    captions.unknown(text)


def grid(name: str, text: str) -> None:
    axis = ask(drawing.Axis.read, name, text, RANGES)
    if axis and name != "guidance" and any(not RANGES[name][0] <= value <= RANGES[name][1] for value in axis.values):
        raise Unclear(f"The grid has {axis.values[:5]}")
