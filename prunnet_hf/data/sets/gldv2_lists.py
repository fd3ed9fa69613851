"""What the lists of Google Landmarks v2 say: ids of images, their landmarks, and the answers to the queries."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, List, Value
from numpy.typing import NDArray

from ..official_files import bad_line, find_file, numbered_lines, refuse_repeats
from ..splits import FEWEST_CLASSES, LABEL, listed

SOURCE = (
    "Google Landmarks v2 is described at https://github.com/cvdfoundation/google-landmark; its files lie under "
    "https://s3.amazonaws.com/google-landmark/: metadata/train_clean.csv (or train.csv), metadata/index.csv, "
    "metadata/test.csv, ground_truth/retrieval_solution_v2.1.csv, and images as train/images_000.tar to "
    "images_499.tar, index/images_000.tar to images_099.tar and test/images_000.tar to images_019.tar, their "
    "checksums as md5sum/train/md5.images_000.txt and so on."
)
RELEVANT = "relevant"
Subset = Literal["clean", "full"]
"""The list of training images: `train_clean.csv` or `train.csv`."""

ONE_ID = "[0-9a-f]{16}"
_IDS = f"{ONE_ID}(?: {ONE_ID})*"
_LANDMARK = r"(?P<landmark>\d{1,18})"

Ids = NDArray[np.uint64]
"""Ids of 16 hex digits as numbers. Every worker of a stream holds them, and strings need eight times the memory."""


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
        re.compile(rf"(?P<ids>{ONE_ID}),.*,{_LANDMARK}", re.ASCII),
        "an id of 16 hex digits, an address, and a landmark's number, with commas between",
    ),
}
_ID_FORMAT = _Format("id", re.compile(f"(?P<ids>{ONE_ID})"), "an id of 16 hex digits")
_SOLUTION_FORMAT = _Format(
    "id,images,Usage",
    re.compile(rf"({ONE_ID}),(None|{_IDS}),(Public|Private|Ignored)"),
    "an id of 16 hex digits, None or ids with spaces between, and Public, Private or Ignored, with commas between",
)


@dataclass(frozen=True)
class ImageList:
    """Images that a file lists, in its order, and the file's other columns."""

    path: Path
    ids: Ids
    columns: Mapping[str, pa.Array]
    features: Mapping[str, Any]


def read_train(folder: Path, subset: str, num_classes: int | None, class_share: float | None) -> ImageList:
    """The training images of the chosen list and classes, with their labels; see `gldv2.load_gldv2`.

    Raises:
        FileNotFoundError: If the list is missing.
        ValueError: If a line can't be parsed, an image is named twice, or there aren't that many classes.
    """
    path = _find_list(folder, {"clean": "train_clean.csv", "full": "train.csv"}[subset], "train", "metadata")
    packed, landmark_of_image = bytearray(), array("q")
    for _, line in _parsed_lines(path, _TRAIN_FORMATS[subset]):
        ids = bytes.fromhex(line["ids"])
        packed += ids
        landmark_of_image.extend([int(line["landmark"])] * (len(ids) // 8))
    every_id = _unpack(packed)
    _refuse_repeats(every_id, path)
    landmarks = np.frombuffer(landmark_of_image, dtype=np.int64)
    chosen = choose_landmarks(np.unique(landmarks), num_classes, class_share)
    taken = np.isin(landmarks, chosen)
    labels = pa.array(np.searchsorted(chosen, landmarks[taken]))
    feature = ClassLabel(names=[str(landmark) for landmark in chosen.tolist()])
    return ImageList(path, every_id[taken], {LABEL: labels}, {LABEL: feature})


def choose_landmarks(
    landmarks: NDArray[np.int64], num_classes: int | None, class_share: float | None
) -> NDArray[np.int64]:
    """The landmarks, among distinct ones, that a class subset takes, in ascending order."""
    if class_share is not None:
        # 0.29 of 100 is 28.999999999999996 in floating point, but should be 29.
        count, given = math.floor(class_share * len(landmarks) + 1e-9), f"class_share={class_share}"
    elif num_classes is not None:
        count, given = num_classes, f"num_classes={num_classes}"
    else:
        return landmarks
    if not FEWEST_CLASSES <= count <= len(landmarks):
        raise ValueError(
            f"{given} takes {count} of {len(landmarks)} landmarks: it must take {FEWEST_CLASSES} or more, at most all."
        )
    in_order = sorted(landmarks.tolist(), key=lambda landmark: sha256(str(landmark).encode()).digest())
    return np.sort(np.array(in_order[:count], dtype=np.int64))


def read_ids(folder: Path, part: str) -> ImageList:
    """The images of `index.csv` or `test.csv`.

    Raises:
        FileNotFoundError: If the list is missing.
        ValueError: If a line can't be parsed, or an image is named twice.
    """
    path = _find_list(folder, f"{part}.csv", part, "metadata")
    packed = bytearray()
    for _, line in _parsed_lines(path, _ID_FORMAT):
        packed += bytes.fromhex(line["ids"])
    ids = _unpack(packed)
    _refuse_repeats(ids, path)
    return ImageList(path, ids, {}, {})


def read_queries(folder: Path, usage: Sequence[str], index: ImageList, test: ImageList) -> ImageList:
    """The queries that the solution puts into a part of `usage` and has an answer to, with these answers.

    Raises:
        FileNotFoundError: If the solution is missing.
        ValueError: If a line can't be parsed, names an image twice or one that the lists lack, or no query is left.
    """
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
    return ImageList(path, ids, {RELEVANT: pa.array(relevant)}, {RELEVANT: List(Value("string"))})


def _check_listed(names: Sequence[str], images: ImageList, where: Path) -> None:
    known = np.isin(_unpack(bytes.fromhex("".join(names))), images.ids)
    unknown = [name for name, is_known in zip(names, known, strict=True) if not is_known]
    if unknown:
        raise ValueError(
            f"{where} names {len(unknown)} images that {images.path} doesn't list: {listed(unknown)}. The two don't "
            f"belong together, or one was edited: download both again. {SOURCE}"
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


def id_texts(ids: Ids) -> pa.StringArray:
    """Ids as strings."""
    digits = ids.astype(">u8").tobytes().hex().encode()
    ends = np.arange(0, len(digits) + 1, 16, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(ends), pa.py_buffer(digits))


def _refuse_repeats(ids: Ids, path: Path) -> None:
    distinct, counts = np.unique(ids, return_counts=True)
    refuse_repeats(id_texts(np.repeat(distinct[counts > 1], 2)).to_pylist(), path)
