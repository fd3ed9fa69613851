"""What networks find in a gallery, as a picture; see `Gallery.show`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.splits import listed
from ..image_colours import to_rgb
from ..image_files import MissingImageError, UnreadableImageError, open_image
from ..prunable_model import PrunNetPreTrainedModel
from ..pruning.masking import format_capacity
from .contact_sheet import Block, Hit, Row, contact_sheet
from .foreign_encoders import ForeignEncoder
from .found import Found

logger = logging.getLogger(__name__)

_ABSOLUTE = "Put them back, or index them where they are now."
_RELATIVE = (
    "Relative paths start from the current folder: change to the one that was embedded, index its shards again with "
    "--data_dir DIR, or set gallery.open_picture."
)


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

    Raises:
        FileNotFoundError: If none of the images that were found can be opened. If only some can't, a grey square
            stands for each, and they are logged.
    """
    if len(labels) != len(queries):
        raise ValueError(f"labels must have one entry for each of the {len(queries)} queries; it has {len(labels)}.")
    pictures = _Pictures(open_picture)
    blocks = []
    for place, (query, row, label) in enumerate(zip(queries, own, labels, strict=True)):
        rows = [Row(name, "", _hits(each, place, row, label, k, pictures)) for name, each in found.items()]
        blocks.append(Block(_picture(query), label or _caption(query), rows))
    pictures.report()
    return contact_sheet(blocks)


def network_name(model: PrunNetPreTrainedModel | ForeignEncoder) -> str:
    """What a picture calls a network."""
    capacity = model.config.capacity
    if isinstance(model, ForeignEncoder):
        return model.config.name_or_path
    return "dense network" if capacity == 1.0 else f"capacity {format_capacity(capacity)}"


class _Pictures:
    """The pictures of images by their paths; of one that can't be opened a word that says why."""

    def __init__(self, open_picture: Callable[[str], Image.Image]) -> None:
        self.open_picture = open_picture
        self.opened: set[str] = set()
        self.without: dict[str, str] = {}

    def __getitem__(self, path: str) -> Image.Image | str:
        try:
            picture = self.open_picture(path)
        except UnreadableImageError as error:
            self.without[path] = "missing" if isinstance(error, MissingImageError) else "damaged"
            return self.without[path]
        self.opened.add(path)
        return picture

    def report(self) -> None:
        """Log which images have no picture, or raise an error if none has one."""
        count, total = len(self.without), len(self.opened) + len(self.without)
        which = listed([f"{path} ({what})" for path, what in self.without.items()])
        if count and count == total:
            hint = _ABSOLUTE if all(map(os.path.isabs, self.without)) else _RELATIVE
            raise MissingImageError(f"none of the images that were found can be opened: {which}. {hint}")
        if count:
            logger.warning("%d of %d images that were found can't be opened: %s.", count, total, which)


def _hits(found: Found, query: int, own: int | None, label: str | None, k: int, pictures: _Pictures) -> list[Hit]:
    """The first `k` images that a query found, but not itself."""
    each = zip(found.rows[query], found.scores[query], found.paths[query], found.labels[query], strict=True)
    others = [(score, path, other) for row, score, path, other in each if path is not None and row != own]
    return [
        Hit(pictures[path], float(score), None if label is None or other is None else label == other)
        for score, path, other in others[:k]
    ]


def _picture(query: Any) -> Image.Image:
    return open_image(query) if isinstance(query, str | os.PathLike) else to_rgb(query)


def _caption(query: Any) -> str:
    return Path(query).name if isinstance(query, str | os.PathLike) else ""
