"""Image folders, and data sets of the Hub with an image and a label column."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets, load_dataset
from tqdm import tqdm

from ...image_files import UnreadableImageError, image_suffixes
from ..official_files import require_folder
from ..reading import BOX, read_image, stored_images
from ..splits import IMAGE, LABEL, RetrievalSplits, listed, select_classes
from ..streams import as_stream

logger = logging.getLogger(__name__)

TEST_SHARE_OF_CLASSES = 3
"""One in so many classes becomes a test class if the splits of a data set share classes."""
_DECODED_AT_A_TIME = 256


def load_image_folder(data_dir: str | os.PathLike[str], *, streaming: bool = False) -> RetrievalSplits:
    """Load `DIR/train/<class>/<image>` and `DIR/test/<class>/<image>`; each test image is a query against all others.

    Args:
        data_dir: The folder. Each split numbers its classes in order of name. An image may lie deeper in its class's
            folder. Hidden files and folders, and files without the suffix of an image, are skipped.
        streaming: Return streams.

    Raises:
        FileNotFoundError: If the folder, `train` or `test` is missing.
        ValueError: If a split or a class has no images, or a test class only one.
    """
    root = require_folder("data_dir", data_dir, "It must hold train/<class>/<image> and test/<class>/<image>.")
    train, test = _load_split(root / "train"), _load_split(root / "test")
    splits = RetrievalSplits(train, test, test, "leave_one_out")
    if not streaming:
        return splits
    test_stream = as_stream(test)
    return RetrievalSplits(as_stream(train), test_stream, test_stream, "leave_one_out")


def load_hub_dataset(name: str) -> RetrievalSplits:
    """Load a data set of the Hub (or a local one that `datasets.load_dataset` reads) with images and labels.

    If `train` and `test` (or `validation`, if there is no `test`) share no class, they are taken as they are.
    Otherwise the test classes would not be unseen, so the images of all splits are pooled: every third class becomes
    a test class, the others are trained on. Images without a label (`None`, or -1 as in hidden tests) are left out.

    Args:
        name: A name or path for `datasets.load_dataset`.

    Raises:
        ValueError: If there is no image or label column, too few classes, or a test class with one image only.
    """
    splits: DatasetDict = load_dataset(name)
    parts = {role: _labelled(_typed_columns(name, part)) for role, part in splits.items()}
    train, test = parts.get("train"), parts.get("test") or parts.get("validation")
    if train and test and set(train[LABEL]).isdisjoint(test[LABEL]):
        test_classes = sorted(set(test[LABEL]))
    else:
        train = test = concatenate_datasets(list(parts.values()))
        test_classes = sorted(set(test[LABEL]))[TEST_SHARE_OF_CLASSES - 1 :: TEST_SHARE_OF_CLASSES]
    train_classes = sorted(set(train[LABEL]) - set(test_classes))
    if not test_classes:
        raise ValueError(
            f"dataset={name!r} has images of {len(train_classes)} classes; at least {TEST_SHARE_OF_CLASSES} are "
            "needed, because every third becomes a test class."
        )
    test = select_classes(test, test_classes)
    return RetrievalSplits(select_classes(train, train_classes), test, test, "leave_one_out")


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """The files in a folder, and in folders inside it, that have the suffix of an image, in order of name.

    Args:
        folder: Hidden files and folders in it are skipped, links to folders are not followed.

    Returns:
        Paths relative to `folder`, with `/` between their parts.

    Raises:
        OSError: If a folder can't be read: its images would be missing.
    """
    found = []
    suffixes = image_suffixes()
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in files if not name.startswith(".") and _suffix(name) in suffixes]
        prefix = Path(os.path.relpath(place, folder)).as_posix() + "/"
        found += [name if prefix == "./" else prefix + name for name in images]
    return sorted(found)


def check_images(images: Dataset, *, skip_corrupt: bool) -> Dataset:
    """Decode every image once, and refuse or leave out those that can't be decoded.

    Args:
        images: With a column `image`.
        skip_corrupt: Leave unreadable images out, with a warning, instead of stopping.

    Returns:
        The images that can be read.

    Raises:
        ValueError: If an image can't be read and `skip_corrupt` is false; the message counts and names them.
    """
    corrupt = find_corrupt_images(images)
    if not corrupt:
        return images
    message = f"{len(corrupt)} of {len(images)} images can't be decoded: {listed(list(corrupt.values()))}."
    if not skip_corrupt:
        raise ValueError(f"{message} Repair or remove them, or pass --skip_corrupt_images to train without them.")
    if len(corrupt) == len(images):
        raise ValueError(f"{message} Nothing would be left.")
    logger.warning("%s They are left out.", message)
    return images.select([row for row in range(len(images)) if row not in corrupt])


def find_corrupt_images(images: Dataset) -> dict[int, str]:
    """Find the images that can't be decoded, by decoding all: only that finds truncated files.

    Args:
        images: With a column `image`, and perhaps `bbox`.

    Returns:
        The rows whose image can't be decoded, each with the file's path, or `image <row>` if it has no path.
    """
    stored = stored_images(images.select_columns([name for name in (IMAGE, BOX) if name in images.features]))
    starts = range(0, len(stored), _DECODED_AT_A_TIME)
    corrupt = {}
    with ThreadPoolExecutor() as pool:
        for start in tqdm(starts, desc="check images", unit=f"x{_DECODED_AT_A_TIME}", delay=5.0):
            rows = stored.select(range(start, min(start + _DECODED_AT_A_TIME, len(stored)))).to_list()
            for row, is_readable in enumerate(pool.map(_is_readable, rows), start):
                if not is_readable:
                    corrupt[row] = (rows[row - start][IMAGE] or {}).get("path") or f"image {row}"
    return corrupt


def _load_split(folder: Path) -> Dataset:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing. data_dir must hold train/<class>/<image> and test/<class>/<image>."
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path.name: _image_files(path) for path in classes}
    if not files:
        raise ValueError(f"{folder} has no class folders: it must hold one folder for each class, with images inside.")
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
    return sorted(folder / name for name in list_images(folder))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _refuse(error: OSError) -> None:
    raise error


def _typed_columns(name: str, part: Dataset) -> Dataset:
    """Name the only image column `image` and the only label column `label`, and drop the others."""
    found = {
        wanted: [column for column, feature in part.features.items() if isinstance(feature, kind)]
        for wanted, kind in ((IMAGE, Image), (LABEL, ClassLabel))
    }
    for wanted, columns in found.items():
        if not columns or (len(columns) > 1 and wanted not in columns):
            raise ValueError(
                f"dataset={name!r} must have one {wanted} column "
                f"({'datasets.Image' if wanted == IMAGE else 'datasets.ClassLabel'}); it has {dict(part.features)}. "
                "Dataset.cast_column and Dataset.class_encode_column turn paths and names into such columns."
            )
    chosen = {wanted: wanted if wanted in columns else columns[0] for wanted, columns in found.items()}
    part = part.select_columns(list(chosen.values()))
    return part.rename_columns({column: wanted for wanted, column in chosen.items() if column != wanted})


def _labelled(images: Dataset) -> Dataset:
    labels = images[LABEL][:]
    rows = [row for row, label in enumerate(labels) if label is not None and label >= 0]
    return images if len(rows) == len(images) else images.select(rows)


def _is_readable(row: dict[str, Any]) -> bool:
    try:
        read_image(row)
    except UnreadableImageError:
        return False
    return True
