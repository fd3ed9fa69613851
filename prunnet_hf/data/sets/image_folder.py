"""Image folders, and data sets of the Hub with an image and a label column."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets, load_dataset
from tqdm import tqdm

from ...image_files import UnreadableImageError
from ..folder_walk import find_images
from ..official_files import require_folder
from ..reading import BOX, read_image, stored_images
from ..splits import (
    FEWEST_CLASSES,
    IMAGE,
    LABEL,
    HoldOut,
    RetrievalSplits,
    hold_out_classes,
    listed,
    refuse_alike,
    select_classes,
)
from ..streams import as_stream
from ..unlabelled import hold_out_images, load_unlabelled

logger = logging.getLogger(__name__)

TEST_SHARE_OF_CLASSES = 3
"""One in so many classes becomes a test class if the splits of a data set share classes."""
_DECODED_AT_A_TIME = 256


def load_image_folder(
    data_dir: str | os.PathLike[str],
    *,
    streaming: bool = False,
    labels_optional: bool = False,
    hold_out: HoldOut | None = None,
) -> RetrievalSplits:
    """Load `DIR/train/<class>/<image>` and `DIR/test/<class>/<image>`; each test image is a query against all others.

    Args:
        data_dir: The folder. Each split numbers its classes in order of name. An image may lie deeper in its class's
            folder, and folders may be links. Hidden files and folders, and files without the suffix of an image, are
            passed over, and counted in a warning.
        streaming: Return streams.
        labels_optional: Take `DIR/train/<image>`, too: if images lie in `train` itself, or in one folder only, all of
            them have the one label of `WITHOUT_CLASSES`.
        hold_out: Do without `DIR/test`: test on so many training classes, or on every tenth image
            if they have no classes. Then images may lie anywhere in `DIR`, without `train`. None: `test` is needed.

    Raises:
        FileNotFoundError: If the folder, `train` or `test` is missing.
        ValueError: If a split has fewer than two classes, a class no images, or a test class only one; or if two
            names print alike.
    """
    root = require_folder("data_dir", data_dir, "It must hold train/<class>/<image> and test/<class>/<image>.")
    if hold_out is not None and not (root / "test").is_dir():
        splits = _load_without_test(root, hold_out, labels_optional=labels_optional)
    else:
        train = load_unlabelled(root / "train") if labels_optional else None
        train, test = train or _load_split(root / "train"), _load_split(root / "test")
        splits = RetrievalSplits(train, test, test, "leave_one_out")
    if (root / "train").is_dir():
        _warn_of_other_folders(root)
    if not streaming:
        return splits
    test_stream = as_stream(splits.query)
    return replace(splits, train=as_stream(splits.train), query=test_stream, gallery=test_stream)


def load_hub_dataset(name: str) -> RetrievalSplits:
    """Load a data set of the Hub (or a local one that `datasets.load_dataset` reads) with images and labels.

    If `train` and `test` (or `validation`, if there is no `test`) share no class, they are taken as they are.
    Otherwise the test classes would not be unseen, so the images of all splits are pooled: every third class becomes
    a test class, the others are trained on. Images without a label (`None`, or -1 as in hidden tests) are left out.

    Args:
        name: A name or path for `datasets.load_dataset`.

    Raises:
        ValueError: If there is no image or label column, too few classes, two whose names print alike, or a test class
            with one image only.
    """
    splits: DatasetDict = load_dataset(name)
    parts = {role: _labelled(role, _typed_columns(name, part)) for role, part in splits.items()}
    for part in parts.values():
        refuse_alike(part.features[LABEL].names, f"dataset={name!r}")  # also if one is trained and one tested on
    train, test = parts.get("train"), parts.get("test") or parts.get("validation")
    if train and test and set(train[LABEL]).isdisjoint(test[LABEL]):
        test_classes = sorted(set(test[LABEL]))
        unread = sorted(role for role, part in parts.items() if part is not train and part is not test)
        if unread:
            logger.warning("dataset=%r: of its splits only train and a test are read, not %s.", name, listed(unread))
    else:
        train = test = concatenate_datasets(list(parts.values()))
        classes = sorted(set(test[LABEL]))
        test_classes = classes[TEST_SHARE_OF_CLASSES - 1 :: TEST_SHARE_OF_CLASSES]
        if len(test_classes) < FEWEST_CLASSES:
            raise ValueError(
                f"dataset={name!r} has images of {len(classes)} classes; at least "
                f"{TEST_SHARE_OF_CLASSES * FEWEST_CLASSES} are needed, because every third becomes a test class, and "
                "with one test class every answer is right."
            )
    train_classes = sorted(set(train[LABEL]) - set(test_classes))
    test = select_classes(test, test_classes)
    return RetrievalSplits(select_classes(train, train_classes), test, test, "leave_one_out")


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of the images in a folder, relative to it, in order of name; see `folder_walk.find_images`."""
    return find_images(folder).images


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


def _load_without_test(root: Path, hold_out: HoldOut, *, labels_optional: bool) -> RetrievalSplits:
    """Training images; some are held out to test on."""
    has_train = (root / "train").is_dir()
    if labels_optional:
        unlabelled = load_unlabelled(root / "train" if has_train else root, in_any_folders=not has_train)
        if unlabelled is not None:
            return hold_out_images(unlabelled, root)
    train = _load_split(root / "train")
    if hold_out.share == 0:
        raise FileNotFoundError(
            f"{root / 'test'} is missing. Put test/<class>/<image> there, or test on training classes that are held "
            "out: --validation_share 0.2 --eval_every 5."
        )
    train, held_out = hold_out_classes(train, hold_out.share, hold_out.seed)
    logger.warning(
        "%s is missing: %d training classes are tested on.", root / "test", held_out.features[LABEL].num_classes
    )
    return RetrievalSplits(train, held_out, held_out, "leave_one_out", held_out=True)


def _load_split(folder: Path) -> Dataset:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing. data_dir must hold train/<class>/<image> and test/<class>/<image>."
        )
    found = find_images(folder)
    files: dict[str, list[str]] = {name: [] for name in sorted(found.folders, key=_class_name)}
    if not files:
        raise ValueError(f"{folder} has no class folders: it must hold one folder for each class, with images inside.")
    outside = [path for path in found.images if "/" not in path]
    if outside:
        logger.warning("%s: %d images lie in no class folder: %s.", folder, len(outside), listed(outside))
    for path in found.images:
        if "/" in path:
            files[path.partition("/")[0]].append(str(folder / path))
    _check_class_folders(folder, files, found.images)
    columns = {
        IMAGE: [file for found in files.values() for file in found],
        LABEL: [label for label, found in enumerate(files.values()) for _ in found],
    }
    names = [_class_name(name) for name in files]
    return Dataset.from_dict(columns, features=Features({IMAGE: Image(), LABEL: ClassLabel(names=names)}))


def _class_name(folder: str) -> str:
    """One way of writing a name, so that the same class has the same name and place in every copy of the data."""
    return unicodedata.normalize("NFC", folder)


def _check_class_folders(folder: Path, files: Mapping[str, Sequence[str]], images: Sequence[str]) -> None:
    empty = [name for name, found in files.items() if not found]
    if empty:
        raise ValueError(
            f"{len(empty)} class folders of {folder} hold no images: {listed(empty)}. Fill or remove them."
        )
    if len(files) < FEWEST_CLASSES:
        deeper = sorted({"/".join(path.split("/")[:2]) for path in images if path.count("/") > 1})
        lower = (
            f"The folders in it ({listed(deeper)}) may be the classes: move them up into {folder}. " if deeper else ""
        )
        raise ValueError(
            f"{folder} holds one class folder only: {listed(list(files))}. {lower}There must be at least "
            f"{FEWEST_CLASSES} classes, else every answer is right: nothing is learned, and nothing measured."
        )


def _warn_of_other_folders(root: Path) -> None:
    """Name what a user may take for a split, but nobody reads."""
    with os.scandir(root) as entries:
        others = [item.name for item in entries if item.is_dir() and not item.name.startswith(".")]
    others = sorted({*others} - {"train", "test"})
    if others:
        logger.warning("%s: only train and test are read, not %s.", root, listed(others))


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


def _labelled(role: str, images: Dataset) -> Dataset:
    labels = images[LABEL][:]
    rows = [row for row, label in enumerate(labels) if label is not None and label >= 0]
    if len(rows) == len(images):
        return images
    logger.warning(
        "%d of %d images of the split %s have no label: left out.", len(images) - len(rows), len(images), role
    )
    return images.select(rows)


def _is_readable(row: dict[str, Any]) -> bool:
    try:
        read_image(row)
    except UnreadableImageError:
        return False
    return True
