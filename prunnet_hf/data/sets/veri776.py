"""VeRi-776: vehicles seen by the cameras of a town, searched across cameras."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import ClassLabel, Dataset, Features, Image, Value

from ..official_files import (
    bad_line,
    check_identities,
    find_file,
    numbered_lines,
    refuse_repeats,
    require_images,
    require_root,
)
from ..splits import IMAGE, LABEL, RetrievalSplits
from ..streams import as_stream

SOURCE = "VeRi-776 is sent by its owners on request: https://github.com/JDAI-CV/VeRidataset"
CAMERA = "camera"
_NAME = re.compile(r"(\d{4})_c(\d{3})_\d{8}_\d+\.jpg", re.ASCII)


class _Sighting(NamedTuple):
    name: str
    vehicle: str
    camera: int


def load_veri776(root: str | os.PathLike[str], *, streaming: bool = False) -> RetrievalSplits:
    """Load the official training, query and gallery images.

    All splits have the columns `image`, `label` (the vehicle, in order of vehicle ids) and `camera` (its number).
    Training vehicles have the labels 0 to `num_classes - 1`; queries and gallery use the same labels for the same
    vehicles.

    Vehicles and cameras are taken from the names in the lists; `train_label.xml` says the same, but lacks images. If
    `gt_index.txt` and `jk_index.txt` are there, they must agree with the protocol's rule: images of the same vehicle
    by another camera are to be found, those by the same camera are junk.

    Args:
        root: The folder that holds `image_train/`, `image_query/`, `image_test/` and `name_train.txt`,
            `name_query.txt`, `name_test.txt`.
        streaming: Return streams.

    Raises:
        FileNotFoundError: If the folder, a list, or an image that a list names is missing.
        ValueError: If a line can't be parsed, a list names an image twice or disagrees with the index files, a
            query's vehicle isn't in the gallery, or a training vehicle is tested on.
    """
    folder = require_root(root, "VeRi-776", SOURCE)
    sightings = {part: _read_names(folder, part) for part in ("train", "query", "test")}
    ids = {part: [sighting.vehicle for sighting in listed] for part, listed in sightings.items()}
    check_identities(ids["train"], ids["query"], ids["test"], what="vehicles", where=folder)
    _check_index_files(folder, sightings["query"], sightings["test"])
    train_vehicles = ClassLabel(names=sorted(set(ids["train"])))
    test_vehicles = ClassLabel(names=sorted({*ids["query"], *ids["test"]}))
    train = _dataset(sightings["train"], train_vehicles, folder / "image_train")
    query = _dataset(sightings["query"], test_vehicles, folder / "image_query")
    gallery = _dataset(sightings["test"], test_vehicles, folder / "image_test")
    splits = RetrievalSplits(train, query, gallery, "veri776")
    if not streaming:
        return splits
    return RetrievalSplits(as_stream(train), as_stream(query), as_stream(gallery), "veri776")


def _read_names(folder: Path, part: str) -> list[_Sighting]:
    path = find_file(folder, f"name_{part}.txt", source=SOURCE)
    image_folder = find_file(folder, f"image_{part}", source=SOURCE)
    sightings = []
    for number, line in numbered_lines(path):
        parsed = _NAME.fullmatch(line)
        if parsed is None:
            raise bad_line(path, number, line, "a name like 0002_c002_00030600_0.jpg")
        sightings.append(_Sighting(line, parsed[1], int(parsed[2])))
    names = [sighting.name for sighting in sightings]
    refuse_repeats(names, path)
    require_images(image_folder, names, where=path, source=SOURCE)
    return sightings


def _check_index_files(folder: Path, queries: Sequence[_Sighting], gallery: Sequence[_Sighting]) -> None:
    """Compare the index files with vehicles and cameras. They have a line for each query, and count images from 1.

    Nothing else would find a list of names that was cut short or put in another order.
    """
    places: dict[tuple[str, int], set[str]] = defaultdict(set)
    of_vehicle: dict[str, set[str]] = defaultdict(set)
    for place, sighting in enumerate(gallery, start=1):
        places[sighting.vehicle, sighting.camera].add(str(place))
        of_vehicle[sighting.vehicle].add(str(place))
    junk = [places[query.vehicle, query.camera] for query in queries]
    found = [of_vehicle[query.vehicle] - same_camera for query, same_camera in zip(queries, junk, strict=True)]
    for name, expected in (("gt_index.txt", found), ("jk_index.txt", junk)):
        if (folder / name).exists():
            _check_index_file(folder / name, expected)


def _check_index_file(path: Path, expected: Sequence[set[str]]) -> None:
    lines = dict(numbered_lines(path))
    for number in range(1, max([len(expected), *lines]) + 1):
        if number > len(expected) or set(lines.get(number, "").split()) != expected[number - 1]:
            raise ValueError(
                f"{path}, line {number}, doesn't name the gallery images that the vehicle and camera of query "
                f"{number} say: name_query.txt, name_test.txt and {path.name} don't belong together. "
                f"Nothing else needs {path.name}: remove it if the lists are right. {SOURCE}"
            )


def _dataset(sightings: Sequence[_Sighting], vehicles: ClassLabel, image_folder: Path) -> Dataset:
    columns = {
        IMAGE: [str(image_folder / sighting.name) for sighting in sightings],
        LABEL: [sighting.vehicle for sighting in sightings],
        CAMERA: [sighting.camera for sighting in sightings],
    }
    return Dataset.from_dict(columns, features=Features({IMAGE: Image(), LABEL: vehicles, CAMERA: Value("int32")}))
