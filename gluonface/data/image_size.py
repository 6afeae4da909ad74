"""The size of an image from its header, without decoding it."""

from __future__ import annotations

import io
import os

from PIL import Image

from ..errors import ImageError

__all__ = ["image_size"]

_ORIENTATION = 0x0112
_TURNED_BY_QUARTERS = (5, 6, 7, 8)


def image_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Height and width that `gluonface.image.load_image` would give, EXIF rotation included.

    Raises
    ------
    ImageError
        When the file is missing or no image.
    """
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fsdecode(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED_BY_QUARTERS
    except FileNotFoundError as error:
        raise ImageError(name, "no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise ImageError(name, f"is not an image that can be read: {error}") from error
    return (width, height) if turned else (height, width)
