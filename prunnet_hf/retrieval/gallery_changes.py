"""What changes in a gallery: which images are new, which are there under another content, and which go."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .embedding_table import PATH
from .gallery_files import About
from .gallery_images import DIGEST, IMAGES_SCHEMA, Candidates, Embedding
from .gallery_queries import Vectors, unit_vectors
from .gallery_rows import Rows
from .spaces import check_compatible


class Added(NamedTuple):
    """What `Gallery.add` did with the images that it was given.

    Attributes:
        new: How many were added.
        changed: How many were there under the same path with another content, and were embedded again.
        known: How many were there already.
    """

    new: int
    changed: int
    known: int


def add_images(rows: Rows, about: About, candidates: Candidates, model: Any, how: Embedding) -> Added:
    """Embed and add the images that aren't there yet, by path and content; all stays as it is if that fails.

    Args:
        rows: Of the gallery.
        about: Of the gallery.
        candidates: The images that may be added.
        model: The network that embeds them, if they are images.
        how: How it does that.

    Raises:
        ValueError: If embeddings are of another space or dimension or not finite, or the gallery can't change.
    """
    known = {place: row for row, place in enumerate(_places(rows.images.column(PATH).to_pylist()))}
    digests = rows.images.column(DIGEST).to_pylist()
    wanted = [
        n
        for n, place in enumerate(_places(candidates.paths))
        if (row := known.get(place)) is None or digests[row] != candidates.digests[n]
    ]
    chosen, embeddings = candidates.only(wanted).embedded(model, how)
    changed = [row for place in _places(chosen.paths) if (row := known.get(place)) is not None]
    if len(embeddings):
        check_compatible(about, embeddings)
        vectors = unit_vectors(about, embeddings.embeddings, "images")
        _change(rows, about, changed, vectors, chosen.table())
    return Added(len(chosen.paths) - len(changed), len(changed), len(candidates.paths) - len(wanted))


def remove_images(rows: Rows, about: About, paths: Iterable[str | os.PathLike[str]]) -> None:
    """Remove the images of some paths; all stays as it is if that fails.

    Args:
        rows: Of the gallery.
        about: Of the gallery.
        paths: Of images that are there.

    Raises:
        ValueError: If there is no image of such a path, or the gallery can't change.
    """
    rows_at: dict[str, list[int]] = defaultdict(list)
    for row, place in enumerate(_places(rows.images.column(PATH).to_pylist())):
        rows_at[place].append(row)
    given = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    places = _places(given)
    missing = [path for path, place in zip(given, places, strict=True) if place not in rows_at]
    if missing:
        others = f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"paths must be of images in the gallery; {missing[0]!r} isn't{others}.")
    removed = sorted({row for place in places for row in rows_at[place]})
    _change(rows, about, removed, np.empty((0, about.embedding_dim), dtype=np.float32), IMAGES_SCHEMA.empty_table())


def _places(paths: Iterable[str]) -> list[str]:
    """Where images lie, so that `photos/1.jpg` is `/home/me/photos/1.jpg`, and one folder, whatever links lead to it.

    Only folders are looked up, each once. A link to a file is an image of its own, as it is for `find_images`.
    """
    folder = cache(os.path.realpath)
    return [os.path.join(folder(os.path.dirname(path)), os.path.basename(path)) for path in paths]


def _change(rows: Rows, about: About, removed: Sequence[int], added: Vectors, images: pa.Table) -> None:
    if not rows.change(removed, added, images):
        paths = rows.images.column(PATH).take(pa.array(removed[:3])).to_pylist()
        raise ValueError(
            f"paths={paths} can't be removed: an index {about.factory!r} can't change so, and the embeddings "
            "to make it again weren't stored. Embed the images again, or save galleries with them."
        )
