"""Streams: data sets that are read from front to back, in many shards, and shared among processes and workers.

Each row of a stream knows its place in its list (`row`), and each stream knows how many rows it has. So rows can be
put back in order after any number of processes have read the shards in any order, and lost or repeated rows are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, SplitDict, SplitInfo, Value
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

ROW = "row"
"""Column of a stream: the image's place in its list."""

ImageDataset: TypeAlias = Dataset | IterableDataset
_SPLIT = "all"
_IMAGE, _LABEL = "image", "label"  # `splits` names them for all others
_READ_AT_A_TIME = 64
_LISTED_AT_A_TIME = 1024


def as_stream(images: Dataset, num_shards: int = 64) -> IterableDataset:
    """A data set as a stream that reads the images from disk.

    Lists are in order of classes, and a stream is shuffled within a buffer only. So the rows are dealt to the shards
    at random, always in the same way.

    Args:
        images: A data set with any columns.
        num_shards: Number of parts that processes and workers share, at most one for each image.

    Returns:
        The same rows with a column `row`.
    """
    dealt = np.random.default_rng(0).permutation(len(images))
    shards = np.array_split(dealt, min(num_shards, len(images)))
    # `Dataset.to_iterable_dataset` would copy all class names many times for each shard.
    arguments = {"shards": shards, "images": images.with_format("arrow")}
    features = Features({**images.features, ROW: Value("int64")})
    return stream_of(
        _stored_rows,
        arguments,
        features,
        len(images),
        digest=list_digest(images) if _IMAGE in images.column_names else None,
    )


def _stored_rows(shards: list[NDArray[np.int64]], images: Dataset) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for start in range(0, len(shard), _READ_AT_A_TIME):
            rows = shard[start : start + _READ_AT_A_TIME].tolist()
            for row, values in zip(rows, images[rows].to_pylist(), strict=True):
                yield {**values, ROW: row}


def stream_of(
    generate: Callable[..., Iterator[dict[str, Any]]],
    arguments: Mapping[str, Any],
    features: Features,
    num_images: int,
    *,
    digest: str | None = None,
) -> IterableDataset:
    """A stream of the rows that a generator function yields.

    Args:
        generate: Called with `arguments`; its rows have the columns of `features`, `row` included.
        arguments: Lists are split into shards: a process or worker calls `generate` with some of their elements.
        features: The columns of a row.
        num_images: Number of rows in all shards together.
        digest: The `digest_of` their list, by which a training that goes on knows it.
    """
    stream = IterableDataset.from_generator(generate, features=features, gen_kwargs=dict(arguments))
    stream.info.download_checksums = None if digest is None else {_SPLIT: {"checksum": digest}}
    return _counted(stream, num_images)


def stored_digest(stream: IterableDataset) -> str | None:
    """The digest of a stream's list; None if it was made without one."""
    checksums: Mapping[str, Mapping[str, str]] = stream.info.download_checksums or {}
    return checksums.get(_SPLIT, {}).get("checksum")


def list_digest(images: Dataset) -> str:
    """The digest of a data set's list. It doesn't depend on the folder that the images are in.

    Args:
        images: With the columns `image` and, if they have labels, `label`.
    """
    return digest_of(_names_and_labels(images))


def digest_of(rows: Iterable[tuple[str, Any]]) -> str:
    """The SHA-256 of a list of file names (without folders) and labels, in its order."""
    found = hashlib.sha256()
    for name, label in rows:
        found.update(f"{name}\0{label}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _names_and_labels(images: Dataset) -> Iterator[tuple[str, Any]]:
    columns = [name for name in (_IMAGE, _LABEL) if name in images.column_names]
    stored = images.select_columns(columns).with_format("arrow")
    for start in range(0, len(stored), _LISTED_AT_A_TIME):
        rows = stored[start : start + _LISTED_AT_A_TIME]
        paths = pc.struct_field(rows[_IMAGE], "path").to_pylist()
        sizes = pc.binary_length(pc.struct_field(rows[_IMAGE], "bytes")).to_pylist()
        labels = rows[_LABEL].to_pylist() if _LABEL in columns else [None] * len(paths)
        for path, size, label in zip(paths, sizes, labels, strict=True):
            yield f"{size} bytes" if path is None else path.replace("\\", "/").rpartition("/")[2], label


def num_images(images: ImageDataset) -> int:
    """How many images a data set or a stream has.

    Raises:
        TypeError: If a stream doesn't say how many it has.
    """
    if isinstance(images, Dataset):
        return len(images)
    splits = images.info.splits or {}
    if _SPLIT not in splits:
        raise TypeError("A stream must know how many images it has: make it with as_stream or stream_of.")
    return int(splits[_SPLIT].num_examples)


class NumberedRows(TorchDataset[dict[str, Any]]):
    """Rows of a data set that know their place in it (`row`), as those of streams do.

    A column would do the same, but it would copy a data set that was selected from another.

    Args:
        images: The data set.
        places: The rows to take; all if not given.
    """

    def __init__(self, images: Dataset, places: range | None = None) -> None:
        self.images = images
        self.places = range(len(images)) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The rows of a batch; a DataLoader calls this."""
        places = [self.places[index] for index in indices]
        return [{**row, ROW: place} for row, place in zip(self.images.__getitems__(places), places, strict=True)]


def _counted(stream: IterableDataset, count: int) -> IterableDataset:
    stream.info.splits = SplitDict({_SPLIT: SplitInfo(_SPLIT, num_examples=count)})
    return stream
