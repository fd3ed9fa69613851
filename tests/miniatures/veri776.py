"""A small VeRi-776 in the official layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

TRAIN_VEHICLES = (3, 1, 776, 20, 4, 55)
TEST_VEHICLES = (2, 700, 5, 9)
TRAIN_CAMERAS = (1, 2, 1, 13)
GALLERY_CAMERAS = (1, 1, 2, 3)
SIZE = 48


def make_veri776(root: Path) -> dict[str, list[str]]:
    """Write the images, lists of names and indices, and labels as XML in gb2312, of six and four vehicles.

    The gallery shows each test vehicle twice by camera 1, once by camera 2 and once by camera 3. As in the original,
    queries are images of the gallery: here the first by camera 1, and the one by camera 3, of each vehicle.

    Returns:
        The names of `train`, `query` and `test`, in the order of the lists.
    """
    train = [_name(vehicle, camera, 5 * i) for i, camera in enumerate(TRAIN_CAMERAS) for vehicle in TRAIN_VEHICLES]
    gallery = [_name(vehicle, camera, 5 * i) for vehicle in TEST_VEHICLES for i, camera in enumerate(GALLERY_CAMERAS)]
    query = [gallery[first + place] for first in range(0, len(gallery), len(GALLERY_CAMERAS)) for place in (0, 3)]
    names = {"train": train, "query": query, "test": gallery}
    for part, listed in names.items():
        (root / f"image_{part}").mkdir(parents=True)
        for name in listed:
            _draw(root / f"image_{part}" / name)
        write_lines(root / f"name_{part}.txt", listed)
    # Places in the gallery are counted from 1; the four of a vehicle follow each other.
    found, junk = [], []
    for first in range(1, len(gallery) + 1, len(GALLERY_CAMERAS)):
        found += [f"{first + 2} {first + 3} ", f"{first} {first + 1} {first + 2} "]
        junk += [f"{first} {first + 1} ", f"{first + 3} "]
    write_lines(root / "gt_index.txt", found)
    write_lines(root / "jk_index.txt", junk)
    _write_labels(root / "train_label.xml", train[:-1])
    return names


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a list with the line ends of Windows."""
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def _name(vehicle: int, camera: int, time: int) -> str:
    return f"{vehicle:04d}_c{camera:03d}_{time:08d}_0.jpg"


def _write_labels(path: Path, names: Sequence[str]) -> None:
    """The labels of some images, with a word that is no UTF-8."""
    items = [
        f'<Item imageName="{name}" vehicleID="{name[:4]}" cameraID="{name[5:9]}" note="车辆" />' for name in names
    ]
    document = ['<?xml version="1.0" encoding="gb2312"?>', "<TrainingImages>", "<Items>", *items]
    path.write_bytes("\n".join([*document, "</Items>", "</TrainingImages>"]).encode("gb2312"))


def _draw(path: Path) -> None:
    """A box whose colour is the vehicle's, on a grey and at a place that are the camera's."""
    vehicle, camera = int(path.name[:4]), int(path.name[6:9])
    image = Image.new("RGB", (SIZE, SIZE), (60 + 10 * camera,) * 3)
    colour = (vehicle * 37 % 256, vehicle * 91 % 256, vehicle * 53 % 256)
    ImageDraw.Draw(image).rectangle((camera, 10 + vehicle % 7, camera + 28, 38), fill=colour)
    image.save(path, quality=90)
