"""In-shop Clothes Retrieval of DeepFashion: photographs of clothes in a shop, searched by the item they show."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Features, Image, List, Value

from ..official_files import (
    bad_line,
    check_identities,
    find_file,
    join_inside,
    numbered_lines,
    refuse_repeats,
    require_images,
    require_root,
)
from ..reading import BOX
from ..splits import IMAGE, LABEL, RetrievalSplits
from ..streams import as_stream

SOURCE = (
    "Download img.zip (unpack it), Eval/list_eval_partition.txt and, for bounding boxes, Anno/list_bbox_inshop.txt of "
    "the In-shop Clothes Retrieval Benchmark: https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html"
)
_STATUSES = ("train", "query", "gallery")
_ITEM_ID = re.compile(r"id_\d+", re.ASCII)

Box = tuple[int, int, int, int]


class _Photo(NamedTuple):
    name: str
    item: str
    status: str


def load_in_shop(
    root: str | os.PathLike[str], *, bounding_boxes: bool = False, streaming: bool = False
) -> RetrievalSplits:
    """Load the official training, query and gallery images.

    All splits have the columns `image` and `label`: the item's number, in order of item ids. Training items have the
    labels 0 to `num_classes - 1`; queries and gallery use the same labels for the same items.

    Args:
        root: The folder that holds `img/` (or `Img/img/`) and `list_eval_partition.txt` (or in `Eval/`).
        bounding_boxes: Add the column `bbox`, to which `reading.read_image` crops, from `list_bbox_inshop.txt` (or in
            `Anno/`): left, upper, right and lower edge in pixels, those left of or above the image set to 0.
        streaming: Return streams.

    Raises:
        FileNotFoundError: If the folder, a list, or an image that the list names is missing.
        ValueError: If a line can't be parsed, a list was cut short or names an image twice, an image has no box, a
            query has no image of its item in the gallery, or a training item is tested on.
    """
    folder = require_root(root, "the In-shop benchmark", SOURCE)
    partition = find_file(
        folder,
        "Eval/list_eval_partition.txt",
        "list_eval_partition.txt",
        "Anno/list_eval_partition.txt",
        source=SOURCE,
    )
    image_folder = find_file(folder, "img", "Img/img", source=SOURCE).parent
    photos = _read_partition(partition, image_folder)
    boxes = None
    if bounding_boxes:
        box_list = find_file(folder, "Anno/list_bbox_inshop.txt", "list_bbox_inshop.txt", source=SOURCE)
        boxes = _read_boxes(box_list, [photo.name for photo in photos])
    parts = {status: [photo for photo in photos if photo.status == status] for status in _STATUSES}
    items = {status: [photo.item for photo in part] for status, part in parts.items()}
    check_identities(items["train"], items["query"], items["gallery"], what="items", where=partition)
    train_items, test_items = _feature(items["train"]), _feature(items["query"] + items["gallery"])
    train = _dataset(parts["train"], train_items, image_folder, boxes)
    query = _dataset(parts["query"], test_items, image_folder, boxes)
    gallery = _dataset(parts["gallery"], test_items, image_folder, boxes)
    splits = RetrievalSplits(train, query, gallery, "in_shop")
    if not streaming:
        return splits
    return RetrievalSplits(as_stream(train), as_stream(query), as_stream(gallery), "in_shop")


def _read_partition(path: Path, image_folder: Path) -> list[_Photo]:
    photos = []
    for number, line in _counted_lines(path, "image_name item_id evaluation_status"):
        photo = _Photo(*line.split()) if len(line.split()) == len(_Photo._fields) else None
        if photo is None or not _ITEM_ID.fullmatch(photo.item) or photo.status not in _STATUSES:
            expected = f"an image name, an item id like id_00000002, and one of {', '.join(_STATUSES)}"
            raise bad_line(path, number, line, expected)
        join_inside(image_folder, photo.name, where=f"{path}, line {number}")
        photos.append(photo)
    names = [photo.name for photo in photos]
    refuse_repeats(names, path)
    require_images(image_folder, names, where=path, source=SOURCE)
    return photos


def _read_boxes(path: Path, wanted: Sequence[str]) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    for number, line in _counted_lines(path, "image_name clothes_type pose_type x_1 y_1 x_2 y_2"):
        parsed = re.fullmatch(
            r"(\S+)\s+\d\s+\d\s+(-?\d{1,6})\s+(-?\d{1,6})\s+(-?\d{1,6})\s+(-?\d{1,6})", line, re.ASCII
        )
        if parsed is None:
            raise bad_line(
                path, number, line, "an image name and the six integers clothes_type pose_type x_1 y_1 x_2 y_2"
            )
        name, (x1, y1, x2, y2) = parsed[1], (max(int(edge), 0) for edge in parsed.groups()[1:])
        if x1 >= x2 or y1 >= y2:
            raise bad_line(path, number, line, "a box with x_1 < x_2 and y_1 < y_2, not left of or above the image")
        if name in boxes:
            raise bad_line(path, number, line, "one box for each image, and this image has one already")
        boxes[name] = (x1, y1, x2, y2)
    missing = [name for name in wanted if name not in boxes]
    if missing:
        raise ValueError(f"{path} has no box for {len(missing)} images, {missing[0]!r} the first. {SOURCE}")
    return boxes


def _counted_lines(path: Path, header: str) -> list[tuple[int, str]]:
    """The lines after the first two, which give the number of lines and the names of the columns."""
    lines = list(numbered_lines(path))
    if not lines or not re.fullmatch(r"\d{1,9}", lines[0][1], re.ASCII):
        raise bad_line(path, 1, lines[0][1] if lines else "", "the number of images")
    if len(lines) == 1 or lines[1][1].split() != header.split():
        raise bad_line(path, 2, lines[1][1] if lines[1:] else "", f"the header {header}")
    count = int(lines[0][1])
    if len(lines) - 2 != count:
        raise ValueError(
            f"{path} has {len(lines) - 2} lines below its header, but its first line says {count}: it was cut short "
            f"or edited. {SOURCE}"
        )
    return lines[2:]


def _feature(items: Sequence[str]) -> ClassLabel:
    return ClassLabel(names=sorted(set(items), key=lambda item: int(item.removeprefix("id_"))))


def _dataset(
    photos: Sequence[_Photo], items: ClassLabel, image_folder: Path, boxes: Mapping[str, Box] | None
) -> Dataset:
    columns: dict[str, Any] = {
        IMAGE: [str(image_folder / photo.name) for photo in photos],
        LABEL: [photo.item for photo in photos],
    }
    features = {IMAGE: Image(), LABEL: items}
    if boxes is not None:
        columns[BOX] = [boxes[photo.name] for photo in photos]
        features[BOX] = List(Value("int32"), length=4)
    return Dataset.from_dict(columns, features=Features(features))
