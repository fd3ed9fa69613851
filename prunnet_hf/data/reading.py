"""From a stored image to pixels: decoded late, cropped to its box where it has one, named where it can't be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Image
from PIL import Image as PILImage

from .splits import IMAGE
from .streams import ImageDataset

BOX = "bbox"
"""Column of data sets whose images are cropped: x1, y1, x2, y2 in pixels."""
DECODING_ERRORS = (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError)
"""What Pillow raises on damaged files, found by damaging files."""


def stored_images(images: ImageDataset) -> ImageDataset:
    """The same data set with images as they are stored, for `read_image`: shuffled, skipped and sent undecoded."""
    return images.cast_column(IMAGE, Image(decode=False))


def read_image(row: Mapping[str, Any]) -> PILImage.Image:
    """Decode the image of a row of `stored_images`, and crop it where the row has a `bbox`.

    Raises:
        ValueError: If the image is missing, can't be decoded or lies outside its box; the message names its file.
    """
    stored = row[IMAGE]
    if stored is None:
        raise ValueError(f"A row has no image: {dict(row)}.")
    try:
        image: PILImage.Image = Image().decode_example(stored)
    except DECODING_ERRORS as error:
        name = stored.get("path") or f"{len(stored['bytes'] or b'')} bytes without a name"
        raise ValueError(f"The image {name} can't be decoded ({error}). Repair it, or take it out.") from error
    return _cropped(image, row) if BOX in row else image


def _cropped(image: PILImage.Image, row: Mapping[str, Any]) -> PILImage.Image:
    left, upper, right, lower = row[BOX]
    if left >= image.width or upper >= image.height or right <= 0 or lower <= 0:
        raise ValueError(
            f"The box {row[BOX]} holds nothing of the image {row[IMAGE].get('path')}, which is of size {image.size}. "
            "Correct the list of boxes."
        )
    return image.crop((left, upper, right, lower))
