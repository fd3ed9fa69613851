"""From an image file to pixels: only formats of photographs and drawings, and one error for all that damage can raise.

Pillow opens many more formats. Some start other programs (EPS starts Ghostscript), some are only headers without
pixels, and some of their readers have a record of faults. None of them holds the images that one searches for.
"""

import errno
import io
import os
import stat
from typing import BinaryIO

from PIL import Image, ImageOps

from .image_colours import to_rgb

_OWN_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_PLUGINS_OF_PILLOW = "PIL."
_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
LONGEST_RATIO = 100
"""The longer side may have up to so many times the pixels of the shorter one.

Processing brings the shorter side to a given length: without a limit a file of 200 bytes would take gigabytes.
"""


class UnreadableImageError(ValueError):
    """An image that can't be used, as it is damaged or of another kind; the message names its file."""


class MissingImageError(UnreadableImageError, FileNotFoundError):
    """An image whose file isn't there; the message names it."""


def image_formats() -> list[str]:
    """The formats that are read, by Pillow's names.

    They are those of `_OWN_FORMATS`, and those that other packages have registered in Pillow, as pillow-heif's
    `register_heif_opener()` does when somebody asks for it.
    """
    Image.init()
    added = [name for name, (reader, _) in Image.OPEN.items() if not reader.__module__.startswith(_PLUGINS_OF_PILLOW)]
    own = [name for name in _OWN_FORMATS if name in Image.OPEN]  # Pillow before 11.3 has no AVIF
    return [*own, *(name for name in added if name not in own)]


def image_suffixes() -> frozenset[str]:
    """The suffixes of files in these formats, in lower case and with their dot."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def open_image(
    source: str | os.PathLike[str] | bytes, name: str | None = None, *, upright: bool = True, any_ratio: bool = False
) -> Image.Image:
    """Decode an image to RGB, see `to_rgb`.

    Args:
        source: The path of a file, or its content.
        name: The file's name for errors; the path if not given.
        upright: Whether to turn it as its EXIF data say.
        any_ratio: Whether to decode an image that `refuse_ratio` refuses, as it is going to be cropped.

    Raises:
        UnreadableImageError: If it can't be decoded, or there is no such file (`MissingImageError`); the message names
            it.
    """
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), name or f"{len(source)} bytes without a name", upright, any_ratio)
    name = name or os.fspath(source)
    try:
        file = _opened(source)
    except OSError as error:
        if error.errno in _NOT_THE_FILES_FAULT:
            raise
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise (missing_image(name) if missing else _unreadable(name, error)) from error
    except ValueError as error:  # no file can have this name, as it holds a null character
        raise _unreadable(ascii(name)[1:-1], error) from error
    with file:
        return _decoded(file, name, upright, any_ratio)


def missing_image(name: str) -> MissingImageError:
    """The error of an image whose file isn't there."""
    return MissingImageError(f"The image {name} doesn't exist. Check its path, or leave it out.")


def refuse_ratio(size: tuple[int, int], name: str = "") -> None:
    """Refuse an image that processing would turn into a huge one.

    Args:
        size: Width and height in pixels.
        name: The image's name and a space, for the error.

    Raises:
        UnreadableImageError: If one side is more than `LONGEST_RATIO` times the other.
    """
    if min(size) < 1 or max(size) > LONGEST_RATIO * min(size):
        raise UnreadableImageError(
            f"The image {name}has {size[0]} x {size[1]} pixels: neither side may be 0, and the longer one may have at "
            f"most {LONGEST_RATIO} times the pixels of the shorter one. Crop or remove it."
        )


def _decoded(file: BinaryIO, name: str, upright: bool, any_ratio: bool) -> Image.Image:
    """Decode an open file.

    Damage makes Pillow raise nearly anything: SyntaxError, struct.error, RuntimeError, AttributeError. A list of these
    would never be complete. So the place decides, not the kind: in the first part only Pillow runs. The second is ours
    too: there the file's fault is what is refused on purpose, and what Pillow itself raises.
    """
    formats = image_formats()
    try:
        image: Image.Image = Image.open(file, formats=formats)
        if not any_ratio:
            refuse_ratio(image.size, f"{name} ")
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        raise _unreadable(name, error) from error
    try:
        return to_rgb(image, upright=upright)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) or _is_raised_by_pillow(error):
            raise _unreadable(name, error) from error
        raise


def _is_raised_by_pillow(error: Exception) -> bool:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__")).startswith(_PLUGINS_OF_PILLOW)


def _unreadable(name: str, error: Exception) -> UnreadableImageError:
    shown = " ".join(str(error).split()) or type(error).__name__
    return UnreadableImageError(f"The image {name} can't be decoded ({shown}). Repair or remove it.")


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file. Pipes and devices are refused unopened, as opening them may wait for ever, or do things."""
    _refuse_irregular(os.stat(path))
    # It may have become a pipe since.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        _refuse_irregular(os.fstat(descriptor))
    except OSError:
        file.close()
        raise
    return file


def _refuse_irregular(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise OSError("it is a folder, a pipe, a socket or a device, not a file")
