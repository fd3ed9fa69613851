"""From a stored image to pixels: decoded late, cropped if it has a box, and named in the error if it can't be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Image
from datasets.utils.file_utils import is_local_path, xopen
from PIL import Image as PILImage

from ..image_files import UnreadableImageError, open_image, refuse_ratio
from .splits import IMAGE
from .streams import ImageDataset

BOX = "bbox"
"""Column of data sets whose images are cropped: x1, y1, x2, y2 in pixels."""


def stored_images(images: ImageDataset) -> ImageDataset:
    """The same data set with images as they are stored, so that shuffling, skipping and sending don't decode them."""
    return images.cast_column(IMAGE, Image(decode=False))


def read_image(row: Mapping[str, Any]) -> PILImage.Image:
    """Decode the image of a row of `stored_images` to upright RGB, and crop it if the row has a `bbox`.

    Raises:
        UnreadableImageError: If the image is missing, can't be decoded or is far too long; the message names its file.
        ValueError: If it lies outside its box.
    """
    if row[IMAGE] is None:
        raise UnreadableImageError(f"A row has no image: {dict(row)}.")
    image = _decode(row[IMAGE], any_ratio=BOX in row)
    image = _cropped(image, row) if BOX in row else image
    refuse_ratio(image.size, f"{row[IMAGE].get('path') or 'without a name'} ")
    return image


def _decode(stored: Mapping[str, Any], *, any_ratio: bool) -> PILImage.Image:
    """Decode an image of `stored_images`.

    Args:
        stored: `path` and `bytes`, as `datasets` stores them; a path may be an address if there are no bytes.
        any_ratio: See `open_image`.

    Raises:
        UnreadableImageError: If it can't be decoded; the message names its file.
        ValueError: If it can't be fetched from its address.
    """
    path: str | None = stored.get("path")
    if stored["bytes"] is not None:
        return open_image(stored["bytes"], path, any_ratio=any_ratio)
    if path is None:
        raise UnreadableImageError("An image has neither a path nor content. Remove its row.")
    return open_image(path if is_local_path(path) else _fetched(path), path, any_ratio=any_ratio)


def _fetched(address: str) -> bytes:
    try:
        with xopen(address, "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise ValueError(
            f"The image {address} can't be fetched ({error}). Look at the network, or remove it."
        ) from error
    return content


def _cropped(image: PILImage.Image, row: Mapping[str, Any]) -> PILImage.Image:
    left, upper, right, lower = row[BOX]
    check_box(row[BOX], image.size, row[IMAGE].get("path"))
    try:
        return image.crop((left, upper, right, lower))
    except PILImage.DecompressionBombError as error:
        raise ValueError(
            f"The box {row[BOX]} is too large for the image {row[IMAGE].get('path')}, whose size is {image.size}. "
            "Correct the box."
        ) from error


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
