"""Google Landmarks v2: photographs of landmarks, searched among 761,757; from folders or straight from tars."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, IterableDataset, Value
from numpy.typing import NDArray

from ..official_files import find_file, require_images, require_root
from ..splits import IMAGE, LABEL, RetrievalSplits
from ..streams import ROW, ImageDataset, as_stream, digest_of, stream_of
from ..tar_stream import read_members
from .gldv2_lists import ONE_ID, SOURCE, Ids, ImageList, Subset, id_texts, read_ids, read_queries, read_train

ID = "id"
SCORED_USAGES = ("Public", "Private")

_IMAGE_NAME = re.compile(rf"(?:.*/)?({ONE_ID})\.jpg")


def load_gldv2(
    root: str | os.PathLike[str],
    *,
    subset: Subset = "clean",
    num_classes: int | None = None,
    class_share: float | None = None,
    usage: Sequence[str] = ("Private",),
    evaluation_only: bool = False,
    streaming: bool = False,
) -> RetrievalSplits:
    """Load the official training, query and gallery images.

    Training images have the columns `image`, `id` and `label` (the landmark, in order of landmark numbers, from 0 to
    `num_classes - 1`), the gallery `image` and `id`, queries `image`, `id` and `relevant`: the ids of the gallery
    images to be found. Queries are the test images that the solution has an answer to and puts into one of the
    parts in `usage`. Almost all images have the answer None and are left out, as in the official evaluation.

    A class subset takes the landmarks whose numbers have the smallest SHA-256. This is our choice, as the paper that
    trains on 30 % doesn't say. So a subset depends on no seed and no order, and a larger one contains the smaller.

    Args:
        root: The folder that holds the lists (also in `metadata/`, `ground_truth/`, or beside the images) and the
            folders `train/`, `index/` and `test/`. In these, images lie as `a/b/c/<id>.jpg`, where a, b and c
            are the first three digits of the id, or in tars: `images_000.tar`, ...
        subset: `"clean"` reads `train_clean.csv`, `"full"` `train.csv`.
        num_classes: How many landmarks to train on; all if neither this nor `class_share` is given.
        class_share: Share of the landmarks to train on, in (0, 1], rounded down: 0.3 takes 24,393 of 81,313 clean
            ones.
        usage: Parts of the solution: `"Private"` (the 750 queries that papers report), `"Public"`, or both.
        evaluation_only: Leave out training images, which then needn't be there.
        streaming: Return streams: straight from the tars if there are any, with one tar in each shard; otherwise of
            extracted images.

    Raises:
        FileNotFoundError: If the folder, a list, a tar before the last, or an image that a list names is missing.
            Images missing from tars are noticed only at the end of a stream, by the code that reads it.
        ValueError: If an argument is out of its range, a line can't be parsed, a list names an image twice, or a
            query is missing from the test images, or an image to be found from the index.
    """
    folder = require_root(root, "Google Landmarks v2", SOURCE)
    _check_arguments(subset, num_classes, class_share, usage)
    train = None if evaluation_only else read_train(folder, subset, num_classes, class_share)
    index = read_ids(folder, "index")
    query = read_queries(folder, usage, index, read_ids(folder, "test"))
    return RetrievalSplits(
        None if train is None else _images(folder / "train", train, streaming),
        _images(folder / "test", query, streaming),
        _images(folder / "index", index, streaming),
        "gldv2",
    )


def _check_arguments(subset: str, num_classes: int | None, class_share: float | None, usage: Sequence[str]) -> None:
    if subset not in get_args(Subset):
        raise ValueError(f"subset={subset!r} must be one of {', '.join(map(repr, get_args(Subset)))}.")
    if num_classes is not None and class_share is not None:
        raise ValueError(f"Give num_classes={num_classes} or class_share={class_share}, not both.")
    if class_share is not None and not 0 < class_share <= 1:
        raise ValueError(f"class_share={class_share} must be in (0, 1].")
    if isinstance(usage, str) or not usage or not set(usage) <= set(SCORED_USAGES):
        raise ValueError(
            f"usage={usage!r} must be a tuple of {' and '.join(map(repr, SCORED_USAGES))}, or of one of them."
        )


def _images(folder: Path, images: ImageList, streaming: bool) -> ImageDataset:
    """The images of a list, from folders or tars."""
    find_file(folder.parent, folder.name, source=SOURCE)
    tars = sorted(folder.glob("images_[0-9][0-9][0-9].tar"))
    if tars and streaming:
        return _from_tars(tars, images)
    if tars and not any((folder / digit).is_dir() for digit in "0123456789abcdef"):
        raise FileNotFoundError(
            f"{folder} holds {len(tars)} tars, but no images. Extract them there (tar -xf images_000.tar, ...), or "
            "give streaming=True (--streaming true) to read the tars as they are."
        )
    extracted = _from_folders(folder, images)
    return as_stream(extracted) if streaming else extracted


def _from_folders(folder: Path, images: ImageList) -> Dataset:
    texts = id_texts(images.ids)
    first, second, third = (pc.utf8_slice_codeunits(texts, digit, digit + 1) for digit in range(3))
    names = pc.binary_join_element_wise(first, second, third, pc.binary_join_element_wise(texts, ".jpg", ""), "/")
    require_images(folder, names.to_pylist(), where=images.path, source=SOURCE)
    paths = pc.binary_join_element_wise(str(folder), names, "/")
    return Dataset.from_dict({IMAGE: paths, ID: texts, **images.columns}, features=_features(images))


def _from_tars(tars: Sequence[Path], images: ImageList) -> IterableDataset:
    for number, tar in enumerate(tars):
        find_file(tar.parent, f"images_{number:03d}.tar", source=SOURCE)
    order = np.argsort(images.ids)
    rows = _Rows(images.ids[order], order, images.columns)
    features = Features({**_features(images), ROW: Value("int64")})
    arguments = {"tars": [str(tar) for tar in tars], "rows": rows}
    labels = images.columns[LABEL].to_pylist() if LABEL in images.columns else [None] * len(images.ids)
    names = (f"{name}.jpg" for name in id_texts(images.ids).to_pylist())  # as extracted files are called
    digest = digest_of(zip(names, labels, strict=True))
    return stream_of(_read_tars, arguments, features, len(images.ids), digest=digest)


def _features(images: ImageList) -> Features:
    return Features({IMAGE: Image(), ID: Value("string"), **images.features})


@dataclass(frozen=True)
class _Rows:
    """Rows of a list by the ids of their images. They are arrays, because each worker of a stream has all of them.

    Attributes:
        ids: `(n,)`, ascending.
        rows: `(n,)`, the place of each id in the list.
        columns: The list's other columns, in the list's order.
    """

    ids: Ids
    rows: NDArray[np.int64]
    columns: Mapping[str, pa.Array]

    def find(self, name: str) -> int | None:
        """The row of a tar's member; None if it isn't an image of the list."""
        parsed = _IMAGE_NAME.fullmatch(name)
        if parsed is None:
            return None
        # A NumPy integer: for a Python integer, searchsorted would convert all ids.
        wanted = np.uint64(int(parsed[1], 16))
        place = int(np.searchsorted(self.ids, wanted))
        return int(self.rows[place]) if place < len(self.ids) and self.ids[place] == wanted else None


def _read_tars(tars: Sequence[str], rows: _Rows) -> Iterator[dict[str, Any]]:
    for tar in tars:
        seen = set()
        for name, content in read_members(Path(tar), lambda name: rows.find(name) is not None):
            row = rows.find(name)
            if row in seen:
                raise ValueError(f"{tar} holds the image {name} twice: compare its checksum, and download it again.")
            seen.add(row)
            columns = {column: values[row].as_py() for column, values in rows.columns.items()}
            image = {"bytes": content, "path": f"{tar}/{name}"}
            yield {IMAGE: image, ID: Path(name).stem, **columns, ROW: row}
