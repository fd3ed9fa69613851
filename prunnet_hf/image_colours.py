"""From an image of any kind to upright RGB with 8 bits: training, galleries and queries all see images so."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

SIXTEEN_BIT_FILES = ("PNG", "PPM")
"""Formats that Pillow opens in mode `I` only if the values are from 0 to 65535."""
_KINDS = "Pass a PIL image, uint8, uint16 (0 to 65535), floats from 0 to 1, or booleans."
_LAST, _FIRST = "channels_last", "channels_first"


def to_rgb(image: Any, channels: str | None = None, *, upright: bool = True) -> Image.Image:
    """Convert an image to RGB, with white behind transparency, and turn it upright, as its EXIF data say.

    Args:
        image: A PIL image of any mode, or an array or tensor `(height, width)`, `(height, width, channels)` or
            `(channels, height, width)` of uint8, uint16 (0 to 65535), floats from 0 to 1, or booleans. What has more
            than 8 bits is rounded to 8.
        channels: `"channels_first"` or `"channels_last"` for an array whose shape doesn't tell.
        upright: False leaves a PIL image as it lies.

    Raises:
        TypeError: If `image` is of another kind.
        ValueError: If the range of its values is unknown or its shape is not that of an image.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if isinstance(image, np.ndarray):
        return _composited(_from_array(image, channels))
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image can't be of type {type(image).__name__}. {_KINDS}")
    return _composited(_eight_bit_image(_upright(image) if upright else image))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # TIFF is turned upright by this, and has no orientation then
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    upright = ImageOps.exif_transpose(image)
    upright.format = image.format
    return upright


def _composited(image: Image.Image) -> Image.Image:
    """An image of a mode with 8 bits as RGB, over white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit_image(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        return Image.fromarray(_levels(np.asarray(image)))
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "I":
        _check_sixteen_bits(values, image.format)
    levels = _levels(values.astype(np.uint16))
    transparent = image.info.get("transparency")
    return Image.fromarray(levels if transparent is None else np.where(values == transparent, np.uint8(255), levels))


def _check_sixteen_bits(values: NDArray[np.int32], file_format: str | None) -> None:
    """Refuse an image of mode I whose values may be from any range; those above 255 are of 16 bits."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    unknown = 0 < high < 256 and file_format not in SIXTEEN_BIT_FILES
    if low < 0 or high > 65535 or unknown:
        raise ValueError(
            f"an image of mode 'I' must hold 16 bits, values from 0 to 65535; got {low} to {high}"
            f"{', which could as well be 8 bits' if unknown else ''}. {_KINDS}"
        )


def _from_array(array: NDArray[Any], channels: str | None) -> Image.Image:
    levels = _levels(_channels_last(array, channels))
    return Image.fromarray(np.ascontiguousarray(levels[..., 0] if levels.shape[-1] == 1 else levels))


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """The same values as levels from 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values / 257.0).round().astype(np.uint8)
    if values.dtype.kind != "f":
        raise TypeError(f"an image can't have values of type {values.dtype}, whose range is unknown. {_KINDS}")
    if not ((values >= 0) & (values <= 1)).all():  # false for NaN, too
        raise ValueError(f"an image of floats must be from 0 to 1; got {values.min()} to {values.max()}. {_KINDS}")
    return (values * 255.0).round().astype(np.uint8)


def _channels_last(array: NDArray[Any], channels: str | None) -> NDArray[Any]:
    if array.ndim == 2 and array.size:
        return array[..., None]
    last = array.ndim == 3 and array.size > 0 and array.shape[-1] in (1, 2, 3, 4) and channels != _FIRST
    first = array.ndim == 3 and array.size > 0 and array.shape[0] in (1, 3, 4) and channels != _LAST
    if last == first:
        reason = "which of its axes holds the channels is unclear" if last else "the shape isn't that of an image"
        raise ValueError(
            f"an image must be (height, width), (height, width, channels) or (channels, height, width); got "
            f"{array.shape}: {reason}. Pass it as a PIL image."
        )
    return array if last else np.moveaxis(array, 0, -1)
