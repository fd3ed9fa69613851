"""Google Landmarks v2: photographs of landmarks, searched among 761,757; from folders or straight from tars."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel
from datasets import Dataset
from datasets import Features
from datasets import Image
from datasets import IterableDataset
from datasets import List
from datasets import Value
from numpy.typing import NDArray

from .official_files import bad_line
from .official_files import find_file
from .official_files import numbered_lines
from .official_files import refuse_repeats
from .official_files import require_images
from .official_files import require_root
from .splits import IMAGE
from .splits import LABEL
from .splits import RetrievalSplits
from .splits import listed
from .streams import ROW
from .streams import ImageDataset
from .streams import as_stream
from .streams import stream_of
from .tar_stream import read_members

SOURCE = (
    "Google Landmarks v2 is described at https://github.com/cvdfoundation/google-landmark; its files lie under "
    "https://s3.amazonaws.com/google-landmark/: metadata/train_clean.csv (or train.csv), metadata/index.csv, "
    "metadata/test.csv, ground_truth/retrieval_solution_v2.1.csv, and images as train/images_000.tar to "
    "images_499.tar, index/images_000.tar to images_099.tar and test/images_000.tar to images_019.tar, their "
    "checksums as md5sum/train/md5.images_000.txt and so on."
)
ID = "id"
RELEVANT = "relevant"
SUBSETS = ("clean", "full")
SCORED_USAGES = ("Public", "Private")

_ONE_ID = "[0-9a-f]{16}"
_IDS = f"{_ONE_ID}(?: {_ONE_ID})*"
_LANDMARK = r"(?P<landmark>\d{1,18})"
_IMAGE_NAME = re.compile(rf"(?:.*/)?({_ONE_ID})\.jpg")

Ids = NDArray[np.uint64]
"""Ids of 16 hex digits as numbers: an eighth of the memory of strings, which every worker of a stream would hold."""


class _Format(NamedTuple):
    header: str
    line: re.Pattern[str]
    expected: str


_TRAIN_FORMATS = {
    "clean": _Format(
        "landmark_id,images",
        re.compile(rf"{_LANDMARK},(?P<ids>{_IDS})", re.ASCII),
        "a landmark's number, a comma, and ids of 16 hex digits with spaces between",
    ),
    "full": _Format(
        "id,url,landmark_id",
        re.compile(rf"(?P<ids>{_ONE_ID}),.*,{_LANDMARK}", re.ASCII),
        "an id of 16 hex digits, an address, and a landmark's number, with commas between",
    ),
}
_ID_FORMAT = _Format("id", re.compile(f"(?P<ids>{_ONE_ID})"), "an id of 16 hex digits")
_SOLUTION_FORMAT = _Format(
    "id,images,Usage",
    re.compile(rf"({_ONE_ID}),(None|{_IDS}),(Public|Private|Ignored)"),
    "an id of 16 hex digits, None or ids with spaces between, and Public, Private or Ignored, with commas between",
)


@dataclass(frozen=True)
class _ImageList:
    """Images that a file lists, in its order, and what it says of each besides its id."""

    path: Path
    ids: Ids
    columns: Mapping[str, pa.Array]
    features: Mapping[str, Any]


def load_gldv2(
    root: str | os.PathLike[str],
    *,
    subset: str = "clean",
    num_classes: int | None = None,
    class_share: float | None = None,
    usage: Sequence[str] = ("Private",),
    streaming: bool = False,
) -> RetrievalSplits:
    """Load the official training, query and gallery images.

    Training images have the columns `image`, `id` and `label` (the landmark, in order of landmark numbers, from 0 to
    `num_classes - 1`), the gallery `image` and `id`, queries `image`, `id` and `relevant`: the ids of the gallery
    images to be found. Queries are those test images that the solution gives an answer to and that it counts to one
    of the parts in `usage`. Images whose answer is None, almost all, are left out, as in the official evaluation.

    Which landmarks a class subset takes is our choice, as the paper that trains on 30 % doesn't say: those with the
    smallest SHA-256 of their number. So a subset depends on no seed and no order, and a larger holds the smaller.

    Args:
        root: The folder that holds the lists (also in `metadata/`, `ground_truth/`, or beside the images) and the
            folders `train/`, `index/` and `test/`. In these, images lie as `a/b/c/<id>.jpg`, by the first three
            digits of their id, or in tars: `images_000.tar`, ...
        subset: `"clean"` reads `train_clean.csv`, `"full"` reads `train.csv`.
        num_classes: How many landmarks to train on; all if neither this nor `class_share` is given.
        class_share: Their share of all in the list, in (0, 1], rounded down: 0.3 takes 24,393 of 81,313 clean ones.
        usage: Parts of the solution: `"Private"`, the test of 750 queries that papers report, `"Public"`, or both.
        streaming: Give streams: straight from tars where there are any, one tar a shard, else of extracted images.

    Raises:
        FileNotFoundError: If the folder, a list, a tar before the last, or an image that a list names is missing.
            Images missing from tars are only missed at the end of a stream, by whoever reads it.
        ValueError: If an argument is out of its range, a line doesn't parse, a list names an image twice, or a query
            is missing from the test images or an image it should find from the index.
    """
    folder = require_root(root, "Google Landmarks v2", SOURCE)
    _check_arguments(subset, num_classes, class_share, usage)
    train = _read_train(folder, subset, num_classes, class_share)
    index = _read_ids(folder, "index")
    query = _read_queries(folder, usage, index, _read_ids(folder, "test"))
    return RetrievalSplits(
        _images(folder / "train", train, streaming),
        _images(folder / "test", query, streaming),
        _images(folder / "index", index, streaming),
        "gldv2",
    )


def _check_arguments(subset: str, num_classes: int | None, class_share: float | None, usage: Sequence[str]) -> None:
    if subset not in SUBSETS:
        raise ValueError(f"subset={subset!r} must be one of {', '.join(map(repr, SUBSETS))}.")
    if num_classes is not None and class_share is not None:
        raise ValueError(f"Give num_classes={num_classes} or class_share={class_share}, not both.")
    if class_share is not None and not 0 < class_share <= 1:
        raise ValueError(f"class_share={class_share} must be in (0, 1].")
    if isinstance(usage, str) or not usage or not set(usage) <= set(SCORED_USAGES):
        raise ValueError(f"usage={usage!r} must be a tuple of {' and '.join(map(repr, SCORED_USAGES))}, or of one.")


def _read_train(folder: Path, subset: str, num_classes: int | None, class_share: float | None) -> _ImageList:
    path = _find_list(folder, {"clean": "train_clean.csv", "full": "train.csv"}[subset], "train", "metadata")
    packed, landmark_of_image = bytearray(), array("q")
    for _, line in _parsed_lines(path, _TRAIN_FORMATS[subset]):
        ids = bytes.fromhex(line["ids"])
        packed += ids
        landmark_of_image.extend([int(line["landmark"])] * (len(ids) // 8))
    every_id = _unpack(packed)
    _refuse_repeats(every_id, path)
    landmarks = np.frombuffer(landmark_of_image, dtype=np.int64)
    chosen = _choose(np.unique(landmarks), num_classes, class_share)
    taken = np.isin(landmarks, chosen)
    labels = pa.array(np.searchsorted(chosen, landmarks[taken]))
    feature = ClassLabel(names=[str(landmark) for landmark in chosen.tolist()])
    return _ImageList(path, every_id[taken], {LABEL: labels}, {LABEL: feature})


def _choose(landmarks: NDArray[np.int64], num_classes: int | None, class_share: float | None) -> NDArray[np.int64]:
    """Those of distinct landmarks that a class subset takes, in ascending order."""
    if class_share is not None:
        # 0.29 of 100 is 28.999999999999996 in floating point, and 29 to everyone else.
        count, given = math.floor(class_share * len(landmarks) + 1e-9), f"class_share={class_share}"
    elif num_classes is not None:
        count, given = num_classes, f"num_classes={num_classes}"
    else:
        return landmarks
    if not 1 <= count <= len(landmarks):
        raise ValueError(f"{given} takes {count} of {len(landmarks)} landmarks: it must take at least 1, at most all.")
    in_order = sorted(landmarks.tolist(), key=lambda landmark: sha256(str(landmark).encode()).digest())
    return np.sort(np.array(in_order[:count], dtype=np.int64))


def _read_ids(folder: Path, part: str) -> _ImageList:
    path = _find_list(folder, f"{part}.csv", part, "metadata")
    packed = bytearray()
    for _, line in _parsed_lines(path, _ID_FORMAT):
        packed += bytes.fromhex(line["ids"])
    ids = _unpack(packed)
    _refuse_repeats(ids, path)
    return _ImageList(path, ids, {}, {})


def _read_queries(folder: Path, usage: Sequence[str], index: _ImageList, test: _ImageList) -> _ImageList:
    path = _find_list(folder, "retrieval_solution_v2.1.csv", "test", "ground_truth", "metadata")
    queries, relevant = [], []
    for number, line in _parsed_lines(path, _SOLUTION_FORMAT):
        query, answer, part = line.groups()
        if part in usage and answer != "None":
            queries.append(query)
            relevant.append(answer.split(" "))
            refuse_repeats(relevant[-1], Path(f"{path}, line {number},"))
    if not queries:
        raise ValueError(f"{path} has no query with an answer for usage={usage!r}. {SOURCE}")
    refuse_repeats(queries, path)
    _check_listed(queries, test, path)
    _check_listed(sorted({image for answer in relevant for image in answer}), index, path)
    ids = _unpack(bytes.fromhex("".join(queries)))
    return _ImageList(path, ids, {RELEVANT: pa.array(relevant)}, {RELEVANT: List(Value("string"))})


def _check_listed(names: Sequence[str], images: _ImageList, where: Path) -> None:
    known = np.isin(_unpack(bytes.fromhex("".join(names))), images.ids)
    unknown = [name for name, is_known in zip(names, known, strict=True) if not is_known]
    if unknown:
        raise ValueError(
            f"{where} names {len(unknown)} images that {images.path} doesn't list: {listed(unknown)}. The two don't "
            f"belong together, or one was edited. {SOURCE}"
        )


def _find_list(folder: Path, name: str, *elsewhere: str) -> Path:
    return find_file(folder, name, *(f"{place}/{name}" for place in elsewhere), source=SOURCE)


def _parsed_lines(path: Path, layout: _Format) -> Iterator[tuple[int, re.Match[str]]]:
    """The lines below the header, each with its number."""
    lines = numbered_lines(path)
    number, header = next(lines, (1, ""))
    if header != layout.header:
        raise bad_line(path, number, header, f"the header {layout.header}")
    for number, line in lines:
        parsed = layout.line.fullmatch(line)
        if parsed is None:
            raise bad_line(path, number, line, layout.expected)
        yield number, parsed


def _unpack(packed: bytes | bytearray) -> Ids:
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)


def _texts(ids: Ids) -> pa.StringArray:
    """Ids as strings again, all at once."""
    digits = ids.astype(">u8").tobytes().hex().encode()
    ends = np.arange(0, len(digits) + 1, 16, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(ends), pa.py_buffer(digits))


def _refuse_repeats(ids: Ids, path: Path) -> None:
    distinct, counts = np.unique(ids, return_counts=True)
    refuse_repeats(_texts(np.repeat(distinct[counts > 1], 2)).to_pylist(), path)


def _images(folder: Path, images: _ImageList, streaming: bool) -> ImageDataset:
    """The images of a list, from wherever they lie."""
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


def _from_folders(folder: Path, images: _ImageList) -> Dataset:
    texts = _texts(images.ids)
    first, second, third = (pc.utf8_slice_codeunits(texts, digit, digit + 1) for digit in range(3))
    names = pc.binary_join_element_wise(first, second, third, pc.binary_join_element_wise(texts, ".jpg", ""), "/")
    require_images(folder, names.to_pylist(), where=images.path, source=SOURCE)
    paths = pc.binary_join_element_wise(str(folder), names, "/")
    return Dataset.from_dict({IMAGE: paths, ID: texts, **images.columns}, features=_features(images))


def _from_tars(tars: Sequence[Path], images: _ImageList) -> IterableDataset:
    for number, tar in enumerate(tars):
        find_file(tar.parent, f"images_{number:03d}.tar", source=SOURCE)
    order = np.argsort(images.ids)
    rows = _Rows(images.ids[order], order, images.columns)
    features = Features({**_features(images), ROW: Value("int64")})
    arguments = {"tars": [str(tar) for tar in tars], "rows": rows}
    return stream_of(_read_tars, arguments, features, len(images.ids))


def _features(images: _ImageList) -> Features:
    return Features({IMAGE: Image(), ID: Value("string"), **images.features})


@dataclass(frozen=True)
class _Rows:
    """Rows of a list by the ids of their images, as arrays: each worker of a stream has all of them.

    Attributes:
        ids: `(n,)`, ascending.
        rows: `(n,)`, the place of each id in the list.
        columns: What the list says besides, in its own order.
    """

    ids: Ids
    rows: NDArray[np.int64]
    columns: Mapping[str, pa.Array]

    def find(self, name: str) -> int | None:
        """The row of the image that a tar's member shows; None if it is none of the list."""
        parsed = _IMAGE_NAME.fullmatch(name)
        if parsed is None:
            return None
        # As NumPy's type: for a Python integer, searchsorted would convert all ids.
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
