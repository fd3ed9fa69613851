"""Where images to embed come from: a folder, or a data set. They have an order, names that differ, and labels."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset
from torch.utils.data import Dataset as TorchDataset

from ..data.folder_walk import find_images
from ..data.loading import load_splits
from ..data.reading import stored_images
from ..data.splits import IMAGE
from ..data.splits import LABEL as CLASS
from .embedding_table import PATH

Split = Literal["train", "query", "gallery"]
_READ_AT_A_TIME = 1024
_END = 16
"""Bytes at the end of an image that tell it from others of its size: a PNG file has a checksum of its pixels there."""


class ImageSource(TorchDataset[dict[str, Any]], ABC):
    """Images as rows for `read_image`, by their place; the same order in every process.

    Attributes:
        names: One for each image, all different: its path in an embedding table.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, place: int) -> dict[str, Any]:
        """The image as it is stored, and its name as `path`."""

    @abstractmethod
    def label(self, place: int) -> str | None:
        """The label of an image; None if it has none."""

    @abstractmethod
    def state(self, place: int) -> tuple[int, int]:
        """The size of an image's file, and when it was modified; -1 if there is no file."""

    def digest(self, places: range) -> str:
        """Hash names, sizes and modification times, to recognise images without reading them again."""
        digest = hashlib.sha256()
        for place in places:
            size, changed = self.state(place)
            digest.update(f"{self.names[place]}\0{size}\0{changed}\n".encode())
        return digest.hexdigest()

    def names_digest(self) -> str:
        """Hash the names, to recognise the list."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\n".encode())
        return digest.hexdigest()


class FileImages(ImageSource):
    """Images that are files.

    Args:
        root: The folder that their names start from.
        names: Paths relative to it, with `/` between their parts; or absolute.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root.absolute()  # workers may not share this process's working directory
        self.names = names

    def __getitem__(self, place: int) -> dict[str, Any]:
        """The image as it is stored, and its name as `path`."""
        name = self.names[place]
        return {PATH: name, IMAGE: {"path": str(self.root / name), "bytes": None}}

    def label(self, place: int) -> str | None:
        """What `label_of` says of its path inside the folder."""
        return label_of(self.names[place])

    def state(self, place: int) -> tuple[int, int]:
        """The size of the file, and when it was modified."""
        return _state(self.root / self.names[place])


class DatasetImages(ImageSource):
    """The images of a data set. Their names are the paths of their files, relative to `root`.

    Images without files of their own, such as those that a data set of the Hub holds inside, are called `row-<place>`.

    Args:
        images: Has a column `image`, and perhaps `label`, whose class names become labels, and `bbox`.
        root: The folder of the data set's files, if it has one.

    Attributes:
        files: The path of each image's file; None if it has none of its own.
        has_paths: Whether names are paths, rather than places.
    """

    def __init__(self, images: Dataset, root: str | os.PathLike[str] | None = None) -> None:
        self._images = stored_images(images)
        self._sizes: list[int | None] = []
        self._ends: list[bytes] = []
        self._labels: list[int] = images[CLASS][:] if isinstance(images.features.get(CLASS), ClassLabel) else []
        self._classes: list[str] = images.features[CLASS].names if self._labels else []
        self.files = self._listed_files()
        prefix = "" if root is None else f"{Path(root)}{os.sep}"
        rows = [f"row-{place}" for place in range(len(images))]
        names = [
            row if file is None else file.removeprefix(prefix) for row, file in zip(rows, self.files, strict=True)
        ]
        is_of_files = len(set(names)) == len(names)
        self.names = names if is_of_files else rows
        self.has_paths = is_of_files and None not in self.files

    def __getitem__(self, place: int) -> dict[str, Any]:
        """The image as it is stored, its box if it has one, and its name as `path`."""
        return {**self._images[place], PATH: self.names[place]}

    def label(self, place: int) -> str | None:
        """The name of its class."""
        return self._classes[self._labels[place]] if self._labels else None

    def state(self, place: int) -> tuple[int, int]:
        """The size of the file, and when it was modified; of an image inside the data set instead how it ends."""
        size, file = self._sizes[place], self.files[place]
        return (size, int.from_bytes(self._ends[place])) if size is not None else _state(Path(file or ""))

    def _listed_files(self) -> list[str | None]:
        """The path of each image that has a file of its own, without reading the images."""
        paths: list[str | None] = []
        stored = self._images.select_columns([IMAGE]).with_format("arrow")
        for start in range(0, len(stored), _READ_AT_A_TIME):
            column = stored[start : start + _READ_AT_A_TIME][IMAGE]
            paths += pc.struct_field(column, "path").to_pylist()
            content = pc.struct_field(column, "bytes")
            self._sizes += pc.binary_length(content).to_pylist()
            self._ends += pc.binary_slice(content, -_END, None).to_pylist()
        return [path if size is None else None for path, size in zip(paths, self._sizes, strict=True)]


def folder_images(root: Path) -> FileImages:
    """The images of a folder, and of folders inside it, in order of name.

    Raises:
        ValueError: If it holds none.
    """
    names = find_images(root).images
    if not names:
        raise ValueError(
            f"data_dir={str(root)!r} holds no images: it needs files with the suffix of an image, not hidden."
        )
    return FileImages(root, names)


def load_images(dataset: str, split: Split, data_dir: str | None, *, bounding_boxes: bool = False) -> DatasetImages:
    """The images of a data set by the name that `--dataset` gives it.

    Args:
        dataset: As `load_splits` takes it.
        split: Which of its images: to train on, to search with, or to search among.
        data_dir: The folder of its files, if it needs one.
        bounding_boxes: Crop images to their boxes.

    Raises:
        ValueError: If there is no such split or data set, or as `load_splits`.
        FileNotFoundError: If a folder or file is missing.
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}; got {split!r}.")
    splits = load_splits(dataset, data_dir, bounding_boxes=bounding_boxes, evaluation_only=split != "train")
    images = getattr(splits, split)
    if images is None:
        raise ValueError(f"split={split!r}: dataset={dataset!r} has no images to train on. Choose query or gallery.")
    return DatasetImages(images, data_dir)


def label_of(path: str) -> str | None:
    """The label of an image by its path inside a folder: the first folder there that isn't `train` or `test`.

    These hold a folder for each class where there is one to train on, so they are labels only of images that lie right
    in them.
    """
    *folders, _ = path.split("/")
    classes = folders[1:] if len(folders) > 1 and folders[0] in ("train", "test") else folders
    return unicodedata.normalize("NFC", classes[0]) if classes else None  # as training writes the names of classes


def _state(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns
