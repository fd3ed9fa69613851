"""What networks find in a gallery, as a picture; see `Gallery.show`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..image_colours import to_rgb
from ..image_files import open_image
from ..prunable_model import PrunNetPreTrainedModel
from ..pruning.masking import format_capacity
from .contact_sheet import Block, Hit, Row, contact_sheet
from .found import Found


def draw_found(
    queries: Sequence[Any],
    own: Sequence[int | None],
    labels: Sequence[str | None],
    found: Mapping[str, Found],
    k: int,
    open_picture: Callable[[str], Image.Image],
) -> Image.Image:
    """Draw what networks have found.

    Args:
        queries: Paths or images.
        own: For each query its row in the gallery, None if it isn't there.
        labels: For each query its label, None if it isn't known.
        found: What each network has found, by its name; one more than `k` images, as one may be the query itself.
        k: How many images to show.
        open_picture: Opens the picture of an image by its path.
    """
    if len(labels) != len(queries):
        raise ValueError(f"labels must have one entry for each of the {len(queries)} queries; it has {len(labels)}.")
    blocks = []
    for place, (query, row, label) in enumerate(zip(queries, own, labels, strict=True)):
        rows = [Row(name, "", _hits(each, place, row, label, open_picture)[:k]) for name, each in found.items()]
        blocks.append(Block(_picture(query), label or _caption(query), rows))
    return contact_sheet(blocks)


def network_name(model: PrunNetPreTrainedModel) -> str:
    """What a picture calls a network."""
    capacity = model.config.capacity
    return "dense network" if capacity == 1.0 else f"capacity {format_capacity(capacity)}"


def _hits(
    found: Found, query: int, own: int | None, label: str | None, open_picture: Callable[[str], Image.Image]
) -> list[Hit]:
    """The images that a query found, but not itself."""
    each = zip(found.rows[query], found.scores[query], found.paths[query], found.labels[query], strict=True)
    return [
        Hit(open_picture(path), float(score), None if label is None or other is None else label == other)
        for row, score, path, other in each
        if path is not None and row != own
    ]


def _picture(query: Any) -> Image.Image:
    return open_image(query) if isinstance(query, str | os.PathLike) else to_rgb(query)


def _caption(query: Any) -> str:
    return Path(query).name if isinstance(query, str | os.PathLike) else ""
