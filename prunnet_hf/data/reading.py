"""From a stored image to pixels: decoded late, cropped if it has a box, and named in the error if it can't be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The same data set with images as they are stored, so that shuffling, skipping and sending don't decode them."""
    return images.cast_column(IMAGE, Image(decode=False))


def read_image(row: Mapping[str, Any]) -> PILImage.Image:
    """Decode the image of a row of `stored_images`, and crop it if the row has a `bbox`.

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
        raise ValueError(f"The image {name} can't be decoded ({error}). Repair or remove it.") from error
    return _cropped(image, row) if BOX in row else image


def _cropped(image: PILImage.Image, row: Mapping[str, Any]) -> PILImage.Image:
    left, upper, right, lower = row[BOX]
    check_box(row[BOX], image.size, row[IMAGE].get("path"))
    return image.crop((left, upper, right, lower))


def check_box(box: Sequence[int], size: tuple[int, int], name: object) -> None:
    """Refuse a box (x1, y1, x2, y2) that lies outside its image.

    Args:
        box: In pixels.
        size: Width and height of the image.
        name: The image's name, for the error.

    Raises:
        ValueError: If no pixel of the image is in the box.
    """
    if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"The box {box} lies outside the image {name}, whose size is {size}. Correct the box.")
