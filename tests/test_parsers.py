"""What is read from outside: whatever it is, it is read or refused in words, and what we wrote is read back."""

import json
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from app import drawing
from app.chunks import chunks_of
from app.parameters import KEY, NEGATIVE, Parameters, text_of
from app.recipe import KEY as RECIPE
from app.recipe import Recipe
from pipelines.errors import MOST, UserError
from training import Customization, captions

settings.register_profile("parsers", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("parsers")

PLAIN = Recipe("a dog", 7, 1.0, 1.0, "APG", {}, 5.0, 3, 64, "base")
RANGES = {"content": (0, 1.5), "eta": (0, 1), "guidance_scale": (1, 15), "steps": (1, 50), "seed": (0, 2**31 - 1)}
OK = {"content": {"pictures": ["content"]}, "style": {"pictures": ["style"]}}
LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(LETTERS, max_size=200)
WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXTS)
VALUES = st.recursive(SCALARS, lambda one: st.lists(one, max_size=4) | st.dictionaries(TEXTS, one, max_size=4))


def pieces(*parts: str) -> st.SearchStrategy[str]:
    """Texts of these, in any order."""
    return st.lists(st.sampled_from(parts), max_size=40).map("".join)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("parsers") / "a.png"


def with_text(path: Path, key: str, text: str) -> Path:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(key, text)
    Image.new("RGB", (1, 1)).save(path, pnginfo=chunks)
    return path


@given(text=TEXTS)
def test_a_text_comes_back_from_its_chunk(place, text):
    assert chunks_of(with_text(place, "Some Key", text)).get("Some Key", "") == text


@given(data=st.binary(max_size=200), start=st.integers(0, 60))
def test_any_bytes_are_texts_or_no_picture(place, data, start):
    whole = with_text(place, KEY, "Steps: 3").read_bytes()
    place.write_bytes(whole[:start] + data)
    try:
        assert all(isinstance(text, str) for text in chunks_of(place).values())
    except UserError as error:
        assert error.what == "a.png cannot be opened as a picture"


@given(text=pieces(*'aä:,"\\<>\n ', "<lora:", "Steps: 3, ", NEGATIVE) | TEXTS)
def test_any_text_is_parameters(text):
    found = Parameters.of(text)
    assert isinstance(found.values["prompt"], str) and isinstance(found.values["negative_prompt"], str)
    values, _ = drawing.recall_elsewhere(found, ["a"], RANGES)
    assert all(low <= values[name] <= high for name, (low, high) in RANGES.items() if name in values)


@given(
    prompt=st.lists(WORDS, min_size=1, max_size=9).map(" ".join),
    negative=st.lists(WORDS, max_size=4).map(", ".join),
    seed=st.integers(0, 2**31 - 1),
    steps=st.integers(1, 50),
    adapter=WORDS | st.just(""),
)
def test_parameters_that_we_wrote_are_read_back(prompt, negative, seed, steps, adapter):
    recipe = replace(PLAIN, prompt=prompt, negative_prompt=negative, seed=seed, steps=steps, adapter=adapter)
    found = Parameters.of(text_of(recipe))
    assert {name: found.values[name] for name in ("prompt", "negative_prompt", "seed", "steps")} == {
        "prompt": prompt,
        "negative_prompt": negative,
        "seed": seed,
        "steps": steps,
    }
    assert found.loras == ({adapter: 1.0} if adapter else {})


@pytest.mark.parametrize("part", ["a", " ", "<lora:", "<lora:a:", 'a: "', "a: b, ", "\\", "a ", "<"])
def test_a_million_letters_of_parameters_take_no_time(part):
    text = part * (1_000_000 // len(part))
    assert Parameters.of(f"a dog\n{text}x").values["prompt"].startswith("a dog")
    assert Parameters.of(f"a {text} dog\nSteps: 3, Seed: 4, Size: 5x5").values["seed"] == 4


@given(key=st.sampled_from(sorted(asdict(PLAIN))), value=VALUES)
def test_a_recipe_with_any_value_is_read_or_refused(place, key, value):
    path = with_text(place, RECIPE, json.dumps(asdict(PLAIN) | {key: value}))
    try:
        recipe = Recipe.read(path)
    except UserError:
        return
    values, odd = drawing.recall(recipe, RANGES)
    assert not set(odd) & values.keys()


@given(prompt=TEXTS, seed=st.integers(0, 2**31 - 1), scale=st.floats(0, 1.5), style=st.floats(0, 1.5))
def test_a_recipe_that_we_wrote_is_read_back(place, prompt, seed, scale, style):
    recipe = replace(PLAIN, prompt=prompt, seed=seed, content=scale, style=style)
    assert Recipe.read(recipe.save(Image.new("RGB", (1, 1)), place)) == recipe


@given(before=TEXTS, after=TEXTS, word=WORDS, class_word=WORDS)
def test_a_caption_is_filled_and_its_word_found_and_taken_out(before, after, word, class_word):
    filled = captions.fill(f"{before} {{placeholder}} {after}", Path("01 a-b.png"), {"placeholder": word})
    assert captions.holds(filled, word) and filled == " ".join(filled.split()).replace(" ,", ",")
    assert "{placeholder}" not in captions.unknown(filled)
    if class_word.lower() != word.lower():
        assert isinstance(captions.without(filled, word, class_word), str)
    assert captions.without(filled, word, "") == filled


@given(text=pieces(*"0123456789.,-+eE_ ", "nan", "inf", "١"), name=st.sampled_from([*RANGES]))
def test_the_values_of_a_grid_lie_in_their_range(text, name):
    low, high = RANGES[name]
    try:
        found = drawing.Axis.read(name, text, RANGES).values
    except UserError:
        return
    assert found and all(low <= value <= high for value in found) and len(set(found)) == len(found)


@given(values=st.lists(st.integers(1, 50), min_size=1, unique=True))
def test_the_values_of_a_grid_are_read_as_they_are_written(values):
    assert drawing.Axis.read("steps", ", ".join(map(str, values)), RANGES).values == values


KEYS = [f"{table}.{key}" for table in ("content", "steps", "adapter", "samples", "optimizer") for key in
        Customization(**OK).model_dump(by_alias=True)[table]]  # fmt: skip


@given(key=st.sampled_from([*KEYS, "seed", "base", "name", "content", "steps", "memory", "preset", "x"]), value=VALUES)
def test_a_project_with_any_value_is_read_and_written_back_or_refused(key, value):
    table, _, name = key.rpartition(".")
    data = OK | {table: OK.get(table, {}) | {name: value}} if table else OK | {key: value}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "project.toml"
        try:
            path.write_text(tomli_w.dumps(data), encoding="utf-8")
        except TypeError:  # null is no TOML
            return
        try:
            config = Customization.load(path)
            config.save(path)
        except UserError as error:
            assert len(str(error)) < 2 * MOST + 5 and str(error).isprintable()
            return
        again = Customization.load(path)
        assert again == config and all(map(math.isfinite, (again.seed, again.samples.guidance_scale)))


def test_a_sentence_is_one_line_and_short_whatever_was_seen():
    error = UserError("x" * 10**6 + "\x1b[2J\n\u202e\udcff", "y\r" * 10**6)
    assert (
        len(str(error)) < 2 * MOST + 5 and str(error).startswith("xxx") and "\\x1b[2J\\n\\u202e\\udcff." in str(error)
    )
    assert UserError(error.what, error.remedy).what == error.what
    assert str(UserError("ä 🙂 'x'", "Give 1")) == "ä 🙂 'x'. Give 1."
