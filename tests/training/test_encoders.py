"""Where the networks beside the denoiser are while it learns."""

import torch

from tests.tiny import tiny_pipeline
from training.model import encode_pictures, encoders_at_hand, rest_encoders


def test_encoders_rest_while_the_denoiser_learns_and_come_back_to_draw(monkeypatch):
    pipe, moves = tiny_pipeline(), []
    pipe.unet.to("meta")  # any device that is not the encoders'
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, where: moves.append((type(self).__name__, str(where))))
    rest_encoders(pipe)
    resting = [("AutoencoderKL", "cpu"), ("CLIPTextModel", "cpu")]
    assert sorted(moves) == resting
    moves.clear()
    with encoders_at_hand(pipe):
        assert sorted(moves) == [(name, "meta") for name, _ in resting]
        moves.clear()
    assert sorted(moves) == resting


def test_pictures_are_encoded_in_float32_in_whatever_the_base_was_opened():
    pipe, pixels = tiny_pipeline(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pipe.vae.to(torch.bfloat16)
    found = encode_pictures(pipe, pixels)
    assert pipe.vae.dtype == torch.bfloat16
    pipe.vae.to(torch.float32)
    assert torch.equal(found, encode_pictures(pipe, pixels))


def test_encoders_that_are_beside_the_denoiser_stay(monkeypatch):
    pipe = tiny_pipeline()
    monkeypatch.setattr(torch.nn.Module, "to", None)
    with encoders_at_hand(pipe):
        assert pipe.vae.device == pipe.unet.device
