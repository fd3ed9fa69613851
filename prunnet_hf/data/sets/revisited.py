"""Revisited Oxford and Paris: photographs of buildings, with queries at three difficulties.

Radenovic, Iscen, Tolias, Avrithis, Chum: "Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking",
CVPR 2018.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from ...image_files import open_image
from ..official_files import find_file, join_inside, refuse_repeats, require_images, require_root
from ..plain_pickle import load_plain_pickle
from ..reading import check_box
from ..splits import IMAGE, RetrievalSplits
from ..streams import as_stream

NAME = "name"
JUDGEMENTS = ("easy", "hard", "junk")
_KEYS = ("imlist", "qimlist", "gnd")
_INTEGERS = (int, np.integer)
_NUMBERS = (int, float, np.integer, np.floating)
_FARTHEST = 1_000_000
"""No box reaches further than this from the corner of an image, in pixels."""
_PAGES = {
    "roxford5k": "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/",
    "rparis6k": "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/",
}

Box = tuple[int, int, int, int]


class _Truth(NamedTuple):
    gallery: list[str]
    queries: list[str]
    boxes: list[Box]
    judged: dict[str, list[list[int]]]


def load_revisited(root: str | os.PathLike[str], name: str, *, streaming: bool = False) -> RetrievalSplits:
    """Load the official queries and gallery; there are no training images.

    Gallery images have the columns `image` and `name`, queries also `easy`, `hard` and `junk`: rows of the gallery.
    Queries are cropped here, in the same way as by the official code, and kept as PNG: the stored pixels without
    Exif's orientation, the box rounded to whole pixels (halves to the even one), black outside the image.

    Args:
        root: The folder that holds `gnd_<name>.pkl` and `jpg/` with all images in it, or these in a folder `<name>/`.
        name: `"roxford5k"` or `"rparis6k"`.
        streaming: Return streams.

    Raises:
        FileNotFoundError: If the folder, the ground truth, or an image that it names is missing.
        ValueError: If `name` is another; if the ground truth is not a pickle of plain data, lacks something, names an
            image twice or a query in the gallery, judges an image twice or one that the gallery lacks, or has a box
            outside its image; or if the image of a query can't be decoded.
    """
    if name not in _PAGES:
        raise ValueError(f"name={name!r} must be one of {', '.join(_PAGES)}.")
    source = (
        f"The ground truth is http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/{name}/gnd_{name}.pkl; unpack the "
        f"images of {_PAGES[name]} into jpg/ beside it, without subfolders."
    )
    folder = require_root(root, f"gnd_{name}.pkl and jpg/", source)
    path = find_file(folder, f"gnd_{name}.pkl", f"{name}/gnd_{name}.pkl", source=source)
    image_folder = find_file(path.parent, "jpg", source=source)
    truth = _read_truth(path)
    files = {
        image: join_inside(image_folder, f"{image}.jpg", where=str(path)) for image in truth.gallery + truth.queries
    }
    require_images(image_folder, [f"{image}.jpg" for image in files], where=path, source=source)
    gallery = Dataset.from_dict(
        {IMAGE: [str(files[image]) for image in truth.gallery], NAME: truth.gallery},
        features=Features({IMAGE: Image(), NAME: Value("string")}),
    )
    crops = [_crop(files[image], box) for image, box in zip(truth.queries, truth.boxes, strict=True)]
    query = Dataset.from_dict(
        {IMAGE: [{"bytes": crop, "path": None} for crop in crops], NAME: truth.queries, **truth.judged},
        features=Features({IMAGE: Image(), NAME: Value("string")} | dict.fromkeys(JUDGEMENTS, List(Value("int64")))),
    )
    splits = RetrievalSplits(None, query, gallery, "revisited")
    return RetrievalSplits(None, as_stream(query), as_stream(gallery), "revisited") if streaming else splits


def _read_truth(path: Path) -> _Truth:
    content = load_plain_pickle(path)
    if not isinstance(content, dict) or not all(_is_list(content.get(key)) for key in _KEYS):
        raise ValueError(f"{path} must hold a dict with the lists {', '.join(_KEYS)}.")
    gallery, queries, gnd = (list(content[key]) for key in _KEYS)
    if not all(isinstance(name, str) for name in gallery + queries):
        raise ValueError(f"imlist and qimlist of {path} must hold names of images, all strings.")
    # A query in the gallery would find itself.
    refuse_repeats(gallery + queries, path)
    if len(gnd) != len(queries):
        raise ValueError(f"{path} names {len(queries)} queries, but holds ground truth of {len(gnd)}.")
    boxes = []
    judged: dict[str, list[list[int]]] = {judgement: [] for judgement in JUDGEMENTS}
    for name, of_query in zip(queries, gnd, strict=True):
        where = f"{path}, query {name}"
        missing = [key for key in ("bbx", *JUDGEMENTS) if not isinstance(of_query, dict) or key not in of_query]
        if missing:
            raise ValueError(f"{where}: its ground truth lacks {', '.join(missing)}.")
        boxes.append(_box(of_query["bbx"], where))
        for judgement in JUDGEMENTS:
            judged[judgement].append(_rows(of_query[judgement], len(gallery), f"{where}, {judgement}"))
        _refuse_contradictions([row for judgement in JUDGEMENTS for row in judged[judgement][-1]], where)
    return _Truth(gallery, queries, boxes, judged)


def _rows(values: Any, num_gallery: int, where: str) -> list[int]:
    if not _is_list(values) or not all(_is_number(row, _INTEGERS) for row in values):
        raise ValueError(f"{where}, must be a list of gallery rows, all integers.")
    rows = [int(row) for row in values]
    outside = [row for row in rows if not 0 <= row < num_gallery]
    if outside:
        raise ValueError(f"{where}, names row {outside[0]}, but the gallery has rows 0 to {num_gallery - 1}.")
    return rows


def _refuse_contradictions(rows: Sequence[int], where: str) -> None:
    repeated = [row for row, count in Counter(rows).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{where} judges gallery row {repeated[0]} more than once: an image is either easy, hard or junk."
        )


def _box(values: Any, where: str) -> Box:
    is_box = _is_list(values) and len(values) == 4 and all(_is_number(edge, _NUMBERS) for edge in values)
    if not is_box or not all(abs(edge) <= _FARTHEST for edge in values):
        raise ValueError(f"{where}: bbx must be four numbers of pixels, x1, y1, x2, y2.")
    x1, y1, x2, y2 = (round(float(edge)) for edge in values)
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"{where}: bbx is {(x1, y1, x2, y2)}, rounded; x1 < x2 and y1 < y2 must hold.")
    return x1, y1, x2, y2


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _crop(file: Path, box: Box) -> bytes:
    # Boxes are of the pixels as they are stored.
    pixels = open_image(file, upright=False, any_ratio=True).convert("RGB")
    crop = pixels.crop(box)
    check_box(box, pixels.size, file)
    # The camera's notes, orientation among them, must not be stored with the crop.
    crop.info.clear()
    png = io.BytesIO()
    crop.save(png, "PNG", compress_level=1)
    return png.getvalue()
