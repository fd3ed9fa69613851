"""Image files: whatever is wrong with one, the error is of one kind and names it; our own faults are not hidden."""

from __future__ import annotations

import errno
import importlib
import io
import os
import random
import resource
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from prunnet_hf import PrunNetImageProcessor
from prunnet_hf.image_files import (
    MissingImageError,
    UnreadableImageError,
    image_formats,
    image_suffixes,
    open_image,
    refuse_ratio,
)

PIXELS = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


def saved(file_format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, file_format, **options)
    return file.getvalue()


class RaisingFile(ImageFile.ImageFile):
    """A format of another package, whose reader raises an error of any kind while it decodes."""

    format = "RAISING"
    error: BaseException = RuntimeError()

    def _open(self) -> None:
        self._size, self._mode = (4, 4), "RGB"

    def load(self):
        raise self.error


@pytest.fixture
def raising(monkeypatch):
    """Pillow with that format; it is gone after the test."""
    Image.init()
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.register_open("RAISING", RaisingFile, lambda prefix: prefix.startswith(b"RAISING"))
    Image.register_extension("RAISING", ".raising")
    return RaisingFile


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken data stream"),
        SyntaxError("not a file"),
        RuntimeError("Failed to decode frame 0"),
        struct.error("unpack requires a buffer of 4 bytes"),
        TypeError("a bytes-like object is required"),
        AttributeError("'NoneType' object has no attribute 'x'"),
        ZeroDivisionError("division by zero"),
        RecursionError("maximum recursion depth exceeded"),
        KeyError(274),
        StopIteration(),
        Exception("two\nlines"),
    ],
)
def test_any_error_of_decoding_names_the_file(raising, monkeypatch, error):
    monkeypatch.setattr(raising, "error", error)
    with pytest.raises(
        UnreadableImageError, match=r"^The image birds/7\.img can't be decoded \(.+\)\. Repair"
    ) as seen:
        open_image(b"RAISING", "birds/7.img")
    assert seen.value.__cause__ is error
    assert "\n" not in str(seen.value)


def test_what_pillow_raises_while_it_converts_is_damage_but_a_fault_of_ours_is_not(raising, monkeypatch):
    def load(image):
        image._mode, image.palette = "P", None  # as a damaged PNG of mode P that has lost its palette

    monkeypatch.setattr(raising, "load", load)
    with pytest.raises(UnreadableImageError, match=r"birds/7\.img can't be decoded"):
        open_image(b"RAISING", "birds/7.img")

    def fail(image, *, upright):
        raise TypeError("a fault of ours")

    monkeypatch.setattr("prunnet_hf.image_files.to_rgb", fail)
    with pytest.raises(TypeError, match="fault of ours"):
        open_image(saved("PNG"))


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(1)])
def test_what_says_nothing_of_the_file_passes_through(raising, monkeypatch, error):
    monkeypatch.setattr(raising, "error", error)
    with pytest.raises(type(error)) as seen:
        open_image(b"RAISING", "birds/7.img")
    assert seen.value is error


def test_a_process_without_free_file_numbers_does_not_blame_the_image(tmp_path):
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(tmp_path, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as seen:
            open_image(tmp_path / "a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert seen.value.errno == errno.EMFILE


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_read_or_refused_by_name(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    mutations = importlib.import_module("image_mutations")  # it tries many more
    whole, processor = mutations.seeds(), PrunNetImageProcessor()
    assert {mutations.outcome(blob, processor) for blob in whole.values()} == {"read"}
    damaged = [mutations.mutate(whole, random.Random(f"test {number}"))[1] for number in range(300)]
    assert {mutations.outcome(blob, processor) for blob in damaged} == {"read", "refused"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["EPS", "PSD", "ICNS", "PCX", "TGA", "SGI", "DDS"])
def test_formats_that_are_not_ours_are_not_opened(file_format):
    content = b"8BPS\0\1" + bytes(20) if file_format == "PSD" else saved(file_format)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg can't be decoded.*identify"):
        open_image(content, "a.jpg")
    assert file_format not in image_formats()


def test_suffixes_are_those_of_the_formats():
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".bmp", ".gif", ".jp2", ".ppm"} <= suffixes
    assert suffixes.isdisjoint({".eps", ".ps", ".psd", ".pdf", ".wmf", ".mpg", ".h5", ".fits", ".raising"})


def test_a_format_that_somebody_registers_later_is_ours_too(raising):
    assert image_formats()[-1] == "RAISING"
    assert ".raising" in image_suffixes()


def test_a_pillow_without_a_format_opens_the_others(monkeypatch):
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: reader for name, reader in Image.OPEN.items() if name != "AVIF"})
    assert open_image(saved("PNG")).size == (12, 8)


def test_pipes_sockets_devices_and_folders_are_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
        for name in ("pipe.png", "link.png", "zero.png", "folder.png", "socket.png"):
            with pytest.raises(UnreadableImageError, match=rf"{name} can't be decoded.*not a file"):
                open_image(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere.png", tmp_path / "file" / "inside.png"):
        with pytest.raises(MissingImageError, match=rf"^The image {path} doesn't exist\. Check its path"):
            open_image(path)
    assert issubclass(MissingImageError, UnreadableImageError)  # what skips images that can't be used skips these
    assert issubclass(MissingImageError, FileNotFoundError)


def test_a_name_that_no_file_can_have_is_named():
    with pytest.raises(UnreadableImageError, match=r"a\\x00b\.png can't be decoded.*null"):
        open_image("a\0b.png")


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_of_several_frames_is_whole_when_its_file_is_closed(tmp_path, file_format):
    file = tmp_path / "a.img"
    first = Image.new("RGB", (9, 6), (255, 0, 0))
    first.save(file, file_format, save_all=True, append_images=[Image.new("RGB", (9, 6), (0, 0, 255))])
    image = open_image(file)
    file.unlink()
    red, green, blue = image.convert("RGB").getpixel((4, 3))
    assert image.size == (9, 6)
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_images_are_turned_upright_unless_their_stored_pixels_are_wanted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.png").write_bytes(saved("PNG", exif=exif))
    upright = open_image(tmp_path / "a.png")
    assert np.array_equal(np.asarray(upright), np.rot90(PIXELS, -1))
    assert 0x0112 not in upright.getexif()
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png", upright=False)), PIXELS)


@pytest.mark.parametrize("size", [(101, 1), (1, 101), (0, 5), (10**6, 1)])
def test_an_image_that_processing_would_make_huge_is_refused(size):
    with pytest.raises(UnreadableImageError, match=rf"image a\.png has {size[0]} x {size[1]} pixels.*100 times.*Crop"):
        refuse_ratio(size, "a.png ")
    refuse_ratio((100, 1))


def test_the_processor_refuses_such_images_before_it_resizes_them():
    for image in (Image.new("L", (10**6, 1)), np.zeros((10**6, 1, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match=r"1000000.*100 times"):
            PrunNetImageProcessor()([image], return_tensors="pt")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    header = saved("BMP")[:18] + (60_000).to_bytes(4, "little") * 2 + saved("BMP")[26:]
    Path(tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(UnreadableImageError, match=r"bomb\.bmp can't be decoded.*3600000000 pixels"):
        open_image(tmp_path / "bomb.bmp")


def test_an_image_far_too_long_is_refused_before_it_is_decoded(tmp_path):
    Image.new("L", (10**6, 1)).save(tmp_path / "long.png")
    whole = (tmp_path / "long.png").read_bytes()
    (tmp_path / "long.png").write_bytes(whole[:-100])  # decoding would fail
    with pytest.raises(UnreadableImageError, match=r"long\.png has 1000000 x 1 pixels"):
        open_image(tmp_path / "long.png")
    (tmp_path / "long.png").write_bytes(whole)
    assert open_image(tmp_path / "long.png", any_ratio=True).size == (10**6, 1)
