"""Images as data URIs, small enough for a page that shows many."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

import numpy as np

from ferbal.shapes import UInt8

if TYPE_CHECKING:
    from PIL import Image

LARGEST: Final = 160  # pixels of a side: enough to see what a photo shows, little enough for a page of hundreds


def uri(image: UInt8[np.ndarray, "c h w"], largest: int = LARGEST) -> str:
    """The image as a PNG of at most so many pixels a side."""
    from PIL import Image

    pixels = image[0] if len(image) < 3 else image[:3].transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((largest, largest))
    return png(picture)


def png(picture: Image.Image) -> str:
    """The picture as a data URI, every pixel of it."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
