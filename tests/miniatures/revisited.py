"""A small revisited Oxford or Paris in the official layout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

BUILDINGS = ("all_souls", "bodleian", "radcliffe")
GALLERY_VIEWS = 4
SIZE = 48


def make_revisited(root: Path, name: str, *, protocol: int = 2) -> dict[str, Any]:
    """Write `gnd_<name>.pkl` and `jpg/` with three queries and twelve gallery images, four of each building.

    Of the views of its building, which are rows `4 b` to `4 b + 3`, the first two are easy for a query, the third is
    hard, and the fourth junk; Bodleian has no hard one. Queries show the building and, right of it, another colour,
    which their box leaves out.

    Args:
        root: Where the files go.
        name: `"roxford5k"` or `"rparis6k"`.
        protocol: Of the pickle.

    Returns:
        What was pickled.
    """
    (root / "jpg").mkdir(parents=True)
    gallery = [f"{building}_{view:06d}" for building in BUILDINGS for view in range(GALLERY_VIEWS)]
    queries = [f"{building}_{90:06d}" for building in BUILDINGS]
    for index, image in enumerate(gallery):
        _draw(root / "jpg" / f"{image}.jpg", index // GALLERY_VIEWS, index % GALLERY_VIEWS)
    for index, image in enumerate(queries):
        _draw(root / "jpg" / f"{image}.jpg", index, view=1, beside=20)
    truth = {"imlist": gallery, "qimlist": queries, "gnd": [_judged(building) for building in range(len(BUILDINGS))]}
    write_truth(root / f"gnd_{name}.pkl", truth, protocol)
    return truth


def write_truth(path: Path, truth: object, protocol: int = 2) -> None:
    """Write a ground truth again."""
    path.write_bytes(pickle.dumps(truth, protocol=protocol))


def _judged(building: int) -> dict[str, Any]:
    first = building * GALLERY_VIEWS
    return {
        "bbx": [0.0, 2.4, SIZE - 0.6, SIZE - 2.5],
        "easy": np.array([first, first + 1], dtype=np.uint16),
        "hard": np.array([first + 2]) if building != 1 else np.array([]),
        "junk": np.array([first + 3], dtype=np.int64),
    }


def _draw(path: Path, building: int, view: int, beside: int = 0) -> None:
    """As many towers as the building's number and one, moved by the view, and a stripe beside the picture."""
    image = Image.new("RGB", (SIZE + beside, SIZE), (255, 0, 255))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, SIZE - 1, SIZE - 1), fill=(120, 160, 220))
    for tower in range(building + 1):
        left = 2 + 2 * view + 13 * tower
        draw.rectangle((left, 10, left + 8, SIZE - 1), fill=(90 + 60 * building, 100, 40 * building))
    image.save(path, quality=90)
