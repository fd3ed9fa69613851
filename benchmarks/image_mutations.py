"""Does any damaged image end encoding or training with an error that doesn't name it?

    python benchmarks/image_mutations.py --count 100000 --seed 0

damages small images of all formats that are read, in many modes and with EXIF data: flipped bits, moved and missing
bytes, extreme numbers in headers, PNG's checksums made to fit. Each goes the way of an image that is embedded. It
either gives pixel values of the right shape and finite, or an UnreadableImageError that names it. Anything else is an
*escape*: another error, more memory than `--memory` GB, more than `--seconds`, a crash. The exit status is 1 if there
were any. The mutations depend on the seed and their number only.
"""

import argparse
import io
import multiprocessing
import random
import resource
import signal
import sys
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

import mutants
from prunnet_hf import PrunNetImageProcessor
from prunnet_hf.data.reading import read_image
from prunnet_hf.image_files import UnreadableImageError

NAME = "birds/7.img"
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 10**6, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 400
CHUNK = 500


def main() -> None:
    """Mutate, read and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=float, default=4.0, help="address space that each process may add, in GB")
    parser.add_argument("--seconds", type=int, default=20, help="time for each image")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    escapes: Counter[str] = Counter()
    with multiprocessing.get_context("fork").Pool(1, _limit, (arguments.memory,), maxtasksperchild=20) as pool:
        for start in range(0, arguments.count, CHUNK):
            numbers = range(start, min(start + CHUNK, arguments.count))
            done = pool.apply_async(read_all, (arguments.seed, numbers, arguments.seconds))
            try:
                of_chunk, escaped = done.get(timeout=CHUNK * arguments.seconds)
            except multiprocessing.TimeoutError:  # also when the process was killed by a signal
                of_chunk, escaped = Counter(), Counter({f"crash in {numbers}": 1})
            counts += of_chunk
            escapes += escaped
    total = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"{arguments.count} damaged images: {total}, {escapes.total()} escapes")
    for escape, count in escapes.most_common():
        print(f"  {count} x {escape}")
    sys.exit(bool(escapes))


def read_all(seed: int, numbers: range, seconds: int) -> tuple[Counter[str], Counter[str]]:
    """Mutate and read images; return how many had each outcome, and the escapes."""
    counts: Counter[str] = Counter()
    escapes: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, _too_slow)
    warnings.simplefilter("ignore")
    whole, processor = seeds(), PrunNetImageProcessor()
    if {outcome(blob, processor) for blob in whole.values()} != {"read"}:
        raise AssertionError("an undamaged image is refused")
    for number in numbers:
        kind, blob = mutate(whole, random.Random(f"{seed} {number}"))
        signal.alarm(seconds)
        try:
            counts[outcome(blob, processor)] += 1
        except (Exception, _TooSlow) as error:  # noqa: BLE001 - what escapes is what is counted
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            escapes[f"{kind}: {type(error).__name__} at {where}: {str(error)[:80]} (number {number})"] += 1
        finally:
            signal.alarm(0)
    return counts, escapes


def outcome(blob: bytes, processor: Callable[..., Any]) -> str:
    """Read a damaged image as an encoder does: `read` or `refused`; any other error is raised."""
    try:
        image = read_image({"image": {"bytes": blob, "path": NAME}})
    except UnreadableImageError as error:
        if NAME not in str(error) or "\n" in str(error):
            raise AssertionError(f"no one line that names the file: {error}") from error
        return "refused"
    pixel_values = processor([image], return_tensors="pt")["pixel_values"]
    if pixel_values.shape != (1, 3, 224, 224) or not pixel_values.isfinite().all():
        raise AssertionError(f"pixel values of shape {tuple(pixel_values.shape)}")
    return "read"


def mutate(whole: dict[str, bytes], draw: random.Random) -> tuple[str, bytes]:
    """Damage one of the images in one to three ways; return its kind and the damaged file."""
    kind = draw.choice(sorted(whole))
    blob = whole[kind]
    ways = [mutants.flip_bits, mutants.overwrite, mutants.delete_slice, mutants.insert, mutants.cut, extreme, extreme]
    for _ in range(draw.choice((1, 1, 2, 3))):
        blob = draw.choice(ways)(blob, draw) or blob
    return kind, with_checksums(blob) if kind.startswith("PNG") and draw.random() < 0.7 else blob


def extreme(blob: bytes, draw: random.Random) -> bytes:
    """Put an extreme number somewhere in the header."""
    begin, size = draw.randrange(min(len(blob), HEADER_BYTES)), draw.choice((1, 2, 4))
    number = draw.choice(EXTREMES) & (256**size - 1)
    return (blob[:begin] + number.to_bytes(size, draw.choice(("little", "big"))) + blob[begin + size :])[: len(blob)]


def with_checksums(blob: bytes) -> bytes:
    """A PNG with the checksum of each chunk made to fit."""
    changed, place = bytearray(blob), 8
    while place + 12 <= len(blob):
        end = place + 8 + int.from_bytes(blob[place : place + 4], "big")
        changed[end : end + 4] = zlib.crc32(blob[place + 4 : end]).to_bytes(4, "big") if end + 4 <= len(blob) else b""
        place = end + 4
    return bytes(changed)


def seeds() -> dict[str, bytes]:
    """Whole images by kind: formats, modes, compressions, frames, EXIF data and colour profiles."""
    return dict(_seeds())


def _seeds() -> Iterator[tuple[str, bytes]]:
    grid = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    grid[4:20, 4:28] = 90
    rgba = Image.fromarray(grid)
    modes = {
        "JPEG": ["RGB", "L", "CMYK"],
        "PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
        "GIF": ["P", "L"],
        "BMP": ["RGB", "L", "P", "1", "RGBA"],
        "WEBP": ["RGB", "RGBA"],
        "TIFF": ["RGB", "RGBA", "L", "P", "1", "I;16", "I", "F", "CMYK", "LAB", "YCbCr"],
        "JPEG2000": ["RGB", "L", "RGBA"],
        "PPM": ["RGB", "L", "1"],
        "AVIF": ["RGB", "RGBA"] if features.check("avif") else [],
    }
    for name, of_format in modes.items():
        for mode in of_format:
            yield f"{name} {mode}", _saved(_in_mode(rgba, mode), name)
    rgb = rgba.convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    for name in ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])):
        yield f"{name} with EXIF", _saved(rgb, name, exif=exif)
    yield "JPEG progressive", _saved(rgb, "JPEG", progressive=True)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        yield (
            f"TIFF {compression}",
            _saved(rgb.convert("1") if compression == "group4" else rgb, "TIFF", compression=compression),
        )
    for name in ("GIF", "PNG", "WEBP", "TIFF"):
        yield f"{name} of two frames", _saved(rgb, name, save_all=True, append_images=[rgb.rotate(90)])
    yield "PNG with transparency", _saved(rgb, "PNG", transparency=(90, 90, 90))


def _in_mode(rgba: Image.Image, mode: str) -> Image.Image:
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(rgba.convert("L"))
        scaled = {"I;16": grey.astype(np.uint16) * 257, "I": grey.astype(np.int32) * 257, "F": grey / np.float32(255)}
        return Image.fromarray(scaled[mode])
    if mode == "LAB":
        return Image.merge("LAB", rgba.convert("RGB").split())
    return rgba.convert(mode if mode in ("RGBA", "LA") else "RGB").convert(mode)


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


class _TooSlow(BaseException):
    """Not an Exception, so that no one takes it for an error of decoding."""


def _too_slow(number: int, frame: object) -> None:
    raise _TooSlow("takes too long")


def _limit(gigabytes: float) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
