"""Image folders, and data sets of the Hub with an image and a label column."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from datasets import concatenate_datasets
from datasets import load_dataset
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from .splits import IMAGE
from .splits import LABEL
from .splits import RetrievalSplits
from .splits import listed
from .splits import renumber

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(PILImage.registered_extensions())
TEST_SHARE_OF_CLASSES = 3
"""One class in so many becomes a test class where a data set's splits share their classes."""


def load_image_folder(data_dir: str | os.PathLike[str]) -> RetrievalSplits:
    """Load `DIR/train/<class>/<image>` and `DIR/test/<class>/<image>`, each test image a query against all others.

    Args:
        data_dir: The folder. Classes are numbered in order of name, in each split by itself. Hidden files and files
            that are no images by their suffix are passed over.

    Raises:
        FileNotFoundError: If the folder, `train` or `test` is missing.
        ValueError: If a split or a class has no images, or a test class only one.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(
            f"data_dir={str(data_dir)!r} is no folder. It must hold train/<class>/<image> and test/."
        )
    test = _load_split(root / "test")
    return RetrievalSplits(_load_split(root / "train"), test, test, "leave_one_out")


def load_hub_dataset(name: str) -> RetrievalSplits:
    """Load a data set of the Hub (or a local one that `datasets.load_dataset` reads) with images and labels.

    Where `test` (or `validation`) has classes that `train` lacks, the splits are taken as they are. Otherwise the task
    would not be one of unseen classes: all images are pooled, every third class is tested on, and the others are
    trained on.

    Args:
        name: What `datasets.load_dataset` takes.

    Raises:
        ValueError: If there is no image or label column, or no class to test on.
    """
    splits: DatasetDict = load_dataset(name)
    parts = {role: _typed_columns(name, part) for role, part in splits.items()}
    train, test = parts.get("train"), parts.get("test", parts.get("validation"))
    if train is not None and test is not None and not set(train[LABEL]) & set(test[LABEL]):
        return RetrievalSplits(renumber(train, sorted(set(train[LABEL]))), test, test, "leave_one_out")
    pooled = concatenate_datasets(list(parts.values()))
    labels = pooled[LABEL]
    classes = sorted(set(labels))
    tested = set(classes[TEST_SHARE_OF_CLASSES - 1 :: TEST_SHARE_OF_CLASSES])
    if not tested:
        raise ValueError(f"dataset={name!r} has {len(classes)} classes; at least {TEST_SHARE_OF_CLASSES} are needed.")
    test = pooled.select([i for i, label in enumerate(labels) if label in tested])
    train = pooled.select([i for i, label in enumerate(labels) if label not in tested])
    return RetrievalSplits(renumber(train, [c for c in classes if c not in tested]), test, test, "leave_one_out")


def check_images(images: Dataset, *, skip_corrupt: bool) -> Dataset:
    """Decode every image once and deal with those that can't be.

    Args:
        images: With a column `image`.
        skip_corrupt: Leave unreadable images out, with a warning, instead of stopping.

    Returns:
        The images that can be read.

    Raises:
        ValueError: If an image can't be read and `skip_corrupt` is false; the message counts and names them.
    """
    stored = images.select_columns(IMAGE).cast_column(IMAGE, Image(decode=False))
    with ThreadPoolExecutor() as pool:
        readable = list(pool.map(_is_readable, stored[IMAGE]))
    corrupt = [stored[i][IMAGE]["path"] or f"image {i}" for i, is_readable in enumerate(readable) if not is_readable]
    if not corrupt:
        return images
    message = f"{len(corrupt)} of {len(images)} images can't be decoded: {listed(corrupt)}."
    if not skip_corrupt:
        raise ValueError(f"{message} Repair or remove them, or pass --skip_corrupt_images to train without them.")
    logger.warning("%s They are left out.", message)
    return images.select([i for i, is_readable in enumerate(readable) if is_readable])


def _load_split(folder: Path) -> Dataset:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing. data_dir must hold train/<class>/<image> and test/<class>/<image>."
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path.name: _image_files(path) for path in classes}
    if not files:
        raise ValueError(f"{folder} has no class folders: it must hold one folder a class, with images inside.")
    empty = [name for name, found in files.items() if not found]
    if empty:
        raise ValueError(
            f"{len(empty)} class folders of {folder} hold no images: {listed(empty)}. Fill or remove them."
        )
    columns = {
        IMAGE: [str(file) for found in files.values() for file in found],
        LABEL: [label for label, found in enumerate(files.values()) for _ in found],
    }
    return Dataset.from_dict(columns, features=Features({IMAGE: Image(), LABEL: ClassLabel(names=list(files))}))


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def _typed_columns(name: str, part: Dataset) -> Dataset:
    """Rename the one image and the one label column to `image` and `label`."""
    found = {
        wanted: [column for column, feature in part.features.items() if isinstance(feature, kind)]
        for wanted, kind in ((IMAGE, Image), (LABEL, ClassLabel))
    }
    for wanted, columns in found.items():
        if not columns or (len(columns) > 1 and wanted not in columns):
            raise ValueError(
                f"dataset={name!r} must have one {wanted} column ({'datasets.Image' if wanted == IMAGE else 'ClassLabel'});"
                f" it has {dict(part.features)}."
            )
    chosen = {wanted: wanted if wanted in columns else columns[0] for wanted, columns in found.items()}
    part = part.select_columns(list(chosen.values()))
    return part.rename_columns({column: wanted for wanted, column in chosen.items() if column != wanted})


def _is_readable(stored: dict[str, Any]) -> bool:
    source = BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"]
    try:
        with PILImage.open(source) as image:
            image.load()
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return False
    return True
