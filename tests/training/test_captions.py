"""Where captions come from, and what is said of them before a run starts."""

from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPTokenizer

from pipelines import UserError
from tests.tiny import tiny_tokenizer
from training import Customization, captions, findings, pictures
from training.concepts import read_all_pictures
from training.config import HOUSE, Content, Style

EMOJI = HOUSE / "models" / "emoji"


def picture(path: Path) -> Path:
    image = Image.new("RGB", (40, 32), "red")
    image.paste("white", (8, 8, 16, 16))
    image.save(path)
    return path


def test_captions_come_from_beside_then_from_the_concept_then_from_the_name(tmp_path):
    for name in ("a.png", "b.png", "red-car.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("{placeholder} {class_word}, noto style\n")
    words = {"placeholder": "sks", "class_word": ""}
    read = pictures.read_pictures([tmp_path], 32, "a {class_word} {placeholder}", words)
    assert [p.caption for p in read] == ["sks, noto style", "a sks", "a sks"]
    assert pictures.read_pictures([tmp_path / "red-car.png"], 32, None)[0].caption == "red car"


def test_a_file_s_name_can_be_part_of_a_caption(tmp_path):
    picture(tmp_path / "03-red_car.png")
    (read,) = pictures.read_pictures([tmp_path], 32, "{file_name}, {placeholder} style", {"placeholder": "zwx"})
    assert read.caption == "red car, zwx style"


@pytest.mark.parametrize("written", [b"\xef\xbb\xbfa dog,\r\nzwx style\r\n", b"a  dog,\tzwx style\r"])
def test_marks_and_line_ends_are_no_words(tmp_path, written):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(written)
    assert pictures.read_pictures([tmp_path], 32, "x")[0].caption == "a dog, zwx style"


@pytest.mark.parametrize("written", ["Köln".encode("latin-1"), "a dog".encode("utf-16")])
def test_a_caption_that_is_not_utf_8_is_named(tmp_path, written):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(written)
    with pytest.raises(UserError, match=r"a\.txt cannot be read .*Save it as UTF-8 text"):
        pictures.read_pictures([tmp_path], 32, "x")


def test_a_placeholder_that_no_caption_holds_is_said():
    content = Content(pictures=["x"], placeholder="sks", class_word="dog")
    given = [(Path("a.png"), "my dog"), (Path("b.png"), "a SKS dog, masks"), (Path("c.png"), "")]
    (said,) = findings.of_captions(content, given)
    assert said.startswith("the placeholder sks is missing in the captions of a.png;")
    (said,) = findings.of_captions(content, [(Path("a.png"), "masks"), (Path("b.png"), "sks2")])
    assert said.startswith("no caption holds the placeholder sks")
    assert findings.of_captions(content, given[1:]) == []
    composed = Content(pictures=["x"], placeholder="k\u00f6ln")
    assert findings.of_captions(composed, [(Path("a.png"), "ko\u0308ln at night")]) == []


def test_short_captions_keep_the_placeholder_or_it_is_said():
    content = Content(pictures=["x"], placeholder="sks", short_captions=True)
    (said,) = findings.of_captions(content, [(Path("a.png"), "a photo, sks"), (Path("b.png"), "sks, a photo")])
    assert said == "short_captions leave the placeholder sks out of a.png; write it before the comma"


def test_a_style_s_pictures_need_captions_of_their_own():
    style = Style(pictures=["x"], placeholder="zwx")
    given = [(Path("bus.png"), ""), (Path("cat.png"), "a cat, {placeholder} style"), (Path("fox.png"), "")]
    (said,) = findings.of_captions(style, given)
    assert "learned as part of the style: bus.png, fox.png;" in said
    assert findings.of_captions(style, given[1:2]) == []
    style.caption = "{file_name}, {placeholder} style"
    assert findings.of_captions(style, given) == []
    content = Content(pictures=["x"])
    assert findings.of_captions(content, [(Path("bus.png"), "")]) == []


@pytest.mark.parametrize(
    "text, class_word, known",
    [
        ("sks bear, zwx ink style", "bear", "bear, zwx ink style"),
        ("a SKS on a table", "teddy bear", "a teddy bear on a table"),
        ("sks bears and sks, sksy", "bear", "bear bears and bear, sksy"),
        ("sks on a table", "", "sks on a table"),
    ],
)
def test_what_is_not_learned_is_asked_for_by_its_class_word(text, class_word, known):
    assert captions.without(text, "sks", class_word) == known


def test_unknown_words_in_braces_are_said():
    style = Style(pictures=["x"], placeholder="zwx")
    given = [(Path("a.png"), "{plaecholder}, {placeholder} style"), (Path("b.png"), "{plaecholder} zwx {}")]
    assert findings.of_captions(style, given) == [
        "{plaecholder} is not known in captions and stays as it is: a.png, b.png",
        "{} is not known in captions and stays as it is: b.png",
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(EMOJI, subfolder="tokenizer")


def test_the_word_from_which_the_base_reads_no_more_is_named(tokenizer):
    """Held against what the tokenizer itself leaves of the text."""
    words = [f"fox{number}" for number in range(40)]
    for count in range(1, 40):
        text = " ".join(words[:count])
        whole = tokenizer(text, truncation=False, padding=False)["input_ids"]
        word = captions.cut_from(text, [tokenizer])
        assert (word == "") == (len(whole) <= 32)
    kept = tokenizer.decode(tokenizer(text, truncation=True)["input_ids"], skip_special_tokens=True).replace(" ", "")
    before, after = (" ".join(words[: words.index(word) + more]).replace(" ", "") for more in (0, 1))
    assert kept.startswith(before) and not kept.startswith(after)
    assert captions.cut_from("a \udcff", [tokenizer]) == ""  # half a letter, which no tokenizer takes


def test_which_caption_is_cut_and_from_where_is_said(tokenizer):
    content = Content(pictures=["x"], placeholder="sks")
    long = "sks " + "red fox " * 20 + "meadow"
    (said,) = findings.of_captions(content, [(Path("a.png"), long), (Path("b.png"), "sks")], [tokenizer])
    assert said.startswith("the base reads 32 tokens, and so not the caption from ") and said.endswith(": a.png")
    letters = tiny_tokenizer()  # a token a letter, 77 of them
    (said,) = findings.of_captions(content, [(Path("a.png"), "sks " + "x" * 71 + " seen unseen")], [letters])
    assert said.startswith("the base reads 77 tokens, and so not the caption from 'seen' on: a.png")
    assert findings.of_captions(content, [(Path("a.png"), long)], [tokenizer, letters])[0].startswith(
        "the base reads 32"
    )


def test_what_is_amiss_in_a_prompt_is_said(tokenizer):
    assert findings.of_prompt("sks bear, zwx style", ["sks", "zwx"], [tokenizer]) == []
    assert findings.of_prompt("a bear", [], [tokenizer]) == []
    braces, none, cut = findings.of_prompt("{placeholder} " + "red fox " * 20, ["sks", "zwx"], [tokenizer])
    assert braces.startswith("The prompt's {placeholder} stays as it is")
    assert none.startswith("The prompt holds no placeholder, sks or zwx")
    assert cut.startswith("The base reads 32 tokens, and so not the prompt from 'fox' on")


def said_of(config: Customization, tokenizers=()) -> list[str]:
    read = read_all_pictures(config)
    given = findings.given_captions(config, read)
    return findings.of_pictures(config, read) + findings.of_words(config, given, tokenizers)


def test_nothing_is_said_of_a_sound_project(config):
    assert said_of(config, [tiny_tokenizer()]) == []
    sample = Customization.load(HOUSE / "samples/project.toml")
    assert said_of(sample, captions.local_tokenizers(sample.resolved_base())) == []


def test_all_folders_of_a_project_are_looked_at(config, project):
    for place in ("content", "style", "other_contents", "other_styles"):
        (project.parent / place / "plan.svg").write_text("<svg/>")
        (project.parent / place / "picture-1.txt").write_text("{who} sks zwx")
    config.samples.prompt = "a fox"
    said = said_of(config)
    for label in ("Content", "Style", "Other contents", "Other styles"):
        assert f"{label}: plan.svg left out (a drawing of lines, not of pixels; export it as PNG)" in said
        assert f"{label}: {{who}} is not known in captions and stays as it is: picture-1.png" in said
    assert len(said) == 9 and said[-1].startswith("The prompt holds no placeholder, sks or zwx")


def test_tokenizers_are_found_without_opening_a_base(base):
    assert [tokenizer.model_max_length for tokenizer in captions.local_tokenizers(str(base))] == [602]
    for nothing in ("nobody/nothing", str(base / "unet" / "diffusion_pytorch_model.safetensors"), str(base / "no")):
        assert captions.local_tokenizers(nothing) == ()
