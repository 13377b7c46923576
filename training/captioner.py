"""Captions by a model that looks at pictures, where a person has one: a folder as transformers writes it."""

from pathlib import Path

import torch
from PIL import Image

from pipelines.errors import UserError, first_line
from training.model import device, dtype

REQUEST = "Name what this picture shows in a few words, without its style."  # of models that answer what they are asked
LONGEST = 40  # tokens


class Captioner:
    """A model of pictures and text, BLIP or GIT for example, or one that chats about pictures.

    Args:
        folder: with its weights, as safetensors, and its processor.
    Raises:
        UserError: it is no such model, or it is damaged.
    """

    def __init__(self, folder: Path):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(folder)
            self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype("auto"), use_safetensors=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{folder} holds no captioning model that can be opened ({first_line(error)})",
                "Name a folder of transformers with safetensors, BLIP for example",
            ) from None
        self.model.to(device()).eval()

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> str:
        """What a picture shows, in words, the same each time."""
        if getattr(self.processor, "chat_template", None):
            said = [{"type": "image", "image": picture}, {"type": "text", "text": REQUEST}]
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": said}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            known = inputs["input_ids"].shape[1]
        else:
            inputs, known = {"pixel_values": self.processor(images=picture, return_tensors="pt")["pixel_values"]}, 0
        inputs = {key: self._placed(value) for key, value in inputs.items()}
        tokens = self.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[:, known:]
        text = self.processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split()).rstrip(".")

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
