"""What changes in a gallery: which images are new, which are there under another content, and which go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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
    known = _places(rows)
    digests = rows.images.column(DIGEST).to_pylist()
    wanted = [
        n
        for n, name in enumerate(candidates.paths)
        if (row := known.get(os.path.abspath(name))) is None or digests[row] != candidates.digests[n]
    ]
    chosen, embeddings = candidates.only(wanted).embedded(model, how)
    changed = [row for name in chosen.paths if (row := known.get(os.path.abspath(name))) is not None]
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
    places = _places(rows)
    given = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    missing = [path for path in given if os.path.abspath(path) not in places]
    if missing:
        others = f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"paths must be of images in the gallery; {missing[0]!r} isn't{others}.")
    removed = sorted({places[os.path.abspath(path)] for path in given})
    _change(rows, about, removed, np.empty((0, about.embedding_dim), dtype=np.float32), IMAGES_SCHEMA.empty_table())


def _places(rows: Rows) -> dict[str, int]:
    """The row of each image by its absolute path, so that `photos/1.jpg` and `/home/me/photos/1.jpg` are the same."""
    return {os.path.abspath(name): row for row, name in enumerate(rows.images.column(PATH).to_pylist())}


def _change(rows: Rows, about: About, removed: Sequence[int], added: Vectors, images: pa.Table) -> None:
    if not rows.change(removed, added, images):
        paths = rows.images.column(PATH).take(pa.array(removed[:3])).to_pylist()
        raise ValueError(
            f"paths={paths} can't be removed: an index {about.factory!r} can't change so, and the embeddings "
            "to make it again weren't stored. Embed the images again, or save galleries with them."
        )
