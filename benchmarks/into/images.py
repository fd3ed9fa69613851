"""The folders of images that steps need: shifted queries, a part of the classes, and validation classes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from prunnet_hf.data.folder_walk import find_images
from prunnet_hf.retrieval.embedding_table import read_embeddings, write_embeddings

SHIFTED = "-shifted"
"""What is added to the name of a training image's shifted copy."""
BLUR, SMALLER, NOISE = 0.035, 0.2, 0.25
"""Of the shorter side: the radius of a blur, and a low resolution. Of white: the deviation of noise."""
SHARE_OF_PART = 0.3
HELD_OUT = "Korean"
"""The training classes whose names begin so are those of the validation."""


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As out of focus."""
    return image.filter(ImageFilter.GaussianBlur(BLUR * min(image.size)))


def smaller(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As from far away: of low resolution, and enlarged again."""
    width, height = (max(1, round(SMALLER * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As in the dark."""
    pixels = np.asarray(image, dtype=np.float32)
    noise = rng.normal(0, 255 * NOISE, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


KINDS: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (blurred, smaller, noisy)


def shift(image: Image.Image, name: str) -> Image.Image:
    """One of `KINDS`, which the image's name decides, and all that is random in it."""
    digest = hashlib.sha256(name.encode()).digest()
    kind = KINDS[digest[0] % len(KINDS)]
    return kind(image.convert("RGB"), np.random.default_rng(list(digest)))


def make_shifted(data: Path, folder: Path) -> None:
    """Training images with a shifted copy of each, and test images of which only the shifted copies are there.

    A test image has the name of the clean one, so that its target and its place in the gallery are found by it.
    """
    if folder.exists():
        return
    begun = folder.with_name(f"{folder.name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    for name in find_images(data).images:
        clean, copy = data / name, begun / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("train/"):
            shutil.copyfile(clean, copy)
            copy = begun / shifted_name(name)
        with Image.open(clean) as image:
            shift(image, name).save(copy)
    begun.rename(folder)


def shifted_name(name: str) -> str:
    """What a training image's shifted copy is called.

    Example:
        >>> shifted_name("train/a/1.png")
        'train/a/1-shifted.png'
    """
    return Path(name).with_stem(f"{Path(name).stem}{SHIFTED}").as_posix()


def write_targets(table: Path, output: Path) -> None:
    """A table in which the shifted copy of a training image has the vector of the clean one.

    Args:
        table: Of all clean images.
        output: To be written.
    """
    known = read_embeddings(table)
    trained = [row for row, path in enumerate(known.paths) if path.startswith("train/")]
    rows = [*range(len(known.paths)), *trained]
    paths = [*known.paths, *(shifted_name(known.paths[row]) for row in trained)]
    labels = [known.labels[row] for row in rows] if known.labels else []
    write_embeddings(output, replace(known, embeddings=known.embeddings[rows], paths=paths, labels=labels))


def make_part(data: Path, folder: Path) -> None:
    """Links to 30 % of the training classes, drawn at random, and to all test classes."""
    classes = sorted(path.name for path in (data / "train").iterdir())
    count = round(SHARE_OF_PART * len(classes))
    chosen = np.random.default_rng(0).permutation(classes)[:count].tolist()
    _link({f"train/{name}": data / "train" / name for name in chosen} | {"test": data / "test"}, folder)


def make_validation(data: Path, folder: Path) -> None:
    """Links to the training classes, those of `HELD_OUT` under `test/`."""
    classes = sorted(path.name for path in (data / "train").iterdir())
    _link(
        {f"{'test' if name.startswith(HELD_OUT) else 'train'}/{name}": data / "train" / name for name in classes},
        folder,
    )


def _link(links: dict[str, Path], folder: Path) -> None:
    for name, source in links.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another job makes them too
            os.symlink(source.resolve(), link, target_is_directory=True)
