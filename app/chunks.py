"""The text chunks of a picture, which may come from anywhere."""

import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipelines.errors import UserError
from training.formats import FORMATS


def chunks_of(path: Path) -> dict[str, str]:
    """Texts by their keys.

    Raises:
        UserError: it is no picture.
    """
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            raise UnidentifiedImageError
        with Image.open(path, formats=tuple(FORMATS)) as picture:
            if not any(isinstance(text, str) for text in picture.info.values()):
                picture.load()  # texts may stand after the pixels, but those of one program stand together
            return {str(key): str(text) for key, text in picture.info.items() if isinstance(text, str)}
    except Exception:  # bytes from anywhere, in a decoder of another's: it may raise whatever it likes
        raise UserError(f"{path.name} cannot be opened as a picture", "Choose a PNG made by Joinery") from None
