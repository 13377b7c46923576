"""Prompts of more than 75 tokens: held against the text encoders' own answers, window by window."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from pipelines import CFG, guided
from pipelines.guided_pipeline import stock_class
from pipelines.windows import MOST, split
from tests.tiny import tiny_pipeline
from training.captions import cut_from
from training.model import encode_prompts, tokenizers

KINDS = [StableDiffusionPipeline, StableDiffusionXLPipeline]
SHORT = "a red fox"
LONG = " ".join(f"{letter * 7}" for letter in "abcdefghijklmnopqrstuvwxyz")  # a token a letter: three windows of 75
WINDOWS = [" ".join(LONG.split()[first : first + 10]) for first in (0, 10, 20)]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def pipe(request):
    return tiny_pipeline(guided(request.param))


def by_hand(pipe, texts) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of texts, each in one window: what the networks make of its tokens between start and end, and the pooled ones."""
    tokenizer = pipe.tokenizer
    start, end, pad = (
        tokenizer.convert_tokens_to_ids(one) for one in ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>")
    )
    rows = []
    for text in texts:
        ids = [one for word in text.split() for one in tokenizer(word, add_special_tokens=False)["input_ids"]]
        rows.append([start, *ids, end] + [pad] * (75 - len(ids)))
    ids = torch.tensor(rows)
    with torch.no_grad():
        if not hasattr(pipe, "text_encoder_2"):
            return pipe.text_encoder(ids)[0], None
        one, two = (each(ids, output_hidden_states=True) for each in (pipe.text_encoder, pipe.text_encoder_2))
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], 2), two[0]


def encoded(pipe, prompt, **more):
    with torch.no_grad():
        return pipe.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, **more
        )


def test_a_prompt_within_a_window_is_encoded_as_in_diffusers_to_the_bit(pipe):
    stock = tiny_pipeline(stock_class(type(pipe)))
    full = " ".join(["sevenxx"] * 10 + ["fivex"])
    assert len(pipe.tokenizer(full)["input_ids"]) == 77
    for prompt, negative in ((SHORT, None), (full, full), (["", full], [SHORT, SHORT])):
        ours, theirs = (encoded(one, prompt, negative_prompt=negative) for one in (pipe, stock))
        assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def test_windows_lie_behind_each_other_each_with_its_own_start_and_end(pipe):
    positive, negative, *pooled = encoded(pipe, [LONG, SHORT], negative_prompt=[SHORT, WINDOWS[1] + " indigo"])
    for embeds, texts in (
        (positive, (WINDOWS, [SHORT, "", ""])),
        (negative, ([SHORT, "", ""], [WINDOWS[1], "indigo", ""])),
    ):
        assert embeds.shape[:2] == (2, 3 * 77)
        for row, pieces in zip(embeds, texts, strict=True):
            torch.testing.assert_close(row, by_hand(pipe, pieces)[0].flatten(0, 1), atol=1e-5, rtol=1e-5)
    for summary, first in zip(pooled, ([WINDOWS[0], SHORT], [SHORT, WINDOWS[1]]), strict=bool(pooled)):
        torch.testing.assert_close(summary, by_hand(pipe, first)[1], atol=1e-5, rtol=1e-5)


def test_without_guidance_a_negative_prompt_has_no_windows(pipe):
    found = pipe.encode_prompt(
        SHORT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, negative_prompt=LONG
    )
    assert found[0].shape[1] == 77
    whole = pipe.encode_prompt(LONG, device="cpu", num_images_per_prompt=2, do_classifier_free_guidance=False)
    assert whole[0].shape[:2] == (2, 3 * 77)


def test_a_picture_follows_the_last_words_too(pipe):
    def draw(prompt="", negative=None, **more):
        return pipe(
            prompt or None,
            negative_prompt=negative,
            height=32,
            width=32,
            num_inference_steps=2,
            guidance=CFG(),
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **more,
        ).images

    drawn = draw(LONG, SHORT)
    assert not torch.equal(drawn, draw(LONG + " other", SHORT))
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    assert torch.equal(drawn, draw(**dict(zip(names, encoded(pipe, LONG, negative_prompt=SHORT), strict=False))))


def test_captions_are_learned_whole_and_said_to_be_cut_behind_the_last_window(pipe):
    said = encode_prompts(pipe, [LONG, SHORT], 32)
    expected = torch.stack([by_hand(pipe, pieces)[0].flatten(0, 1) for pieces in (WINDOWS, [SHORT, "", ""])])
    torch.testing.assert_close(said["encoder_hidden_states"], expected, atol=1e-5, rtol=1e-5)
    assert cut_from(LONG, tokenizers(pipe)) == ""
    words = [f"{letter * 5}" for letter in "abcdefghij"] * 13  # 5 tokens each, and 600 are read
    assert cut_from(" ".join(words), tokenizers(pipe)) == words[MOST * 15]
    assert encode_prompts(pipe, [" ".join(words)], 32)["encoder_hidden_states"].shape[1] == MOST * 77


def test_no_word_and_no_letter_is_lost_and_no_window_too_full():
    for text in ("one two  three\nfour", "x" * 79, "ab " + "y" * 25 + " cd", "", " "):
        pieces = split(text, lambda some: len("".join(some.split())), 10)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(len(piece.replace(" ", "")) <= 10 for piece in pieces)
    assert split("one two three four", lambda some: len(some.replace(" ", "")), 10) == ["one two", "three four"]
    assert len(split("word " * 1000, lambda some: len(some.replace(" ", "")), 8)) == MOST


def test_a_learned_word_of_several_vectors_counts_as_many_tokens():
    pipe = tiny_pipeline(guided(StableDiffusionPipeline))
    pipe.load_textual_inversion(torch.randn(20, 32, generator=torch.Generator().manual_seed(0)), token="<fox>")
    text = "sevenxx " * 8 + "<fox>"  # 56 tokens and 20
    assert encoded(pipe, text)[0].shape[1] == 2 * 77
    assert torch.equal(encoded(pipe, text)[0][:, 77:], encoded(pipe, "<fox>")[0])
