"""What a gallery is asked: queries of any kind become unit vectors of its space, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..prunable_model import PrunNetPreTrainedModel
from .embedding_table import Embeddings
from .foreign_encoders import ForeignEncoder
from .gallery_files import About
from .product_quantizer import own_space
from .search import normalize
from .spaces import Embedder, check_compatible, space_of

Vectors = NDArray[np.float32]


def query_vectors(
    about: About, index: Any, queries: Any, model: PrunNetPreTrainedModel | ForeignEncoder | None, space: str | None
) -> Vectors:
    """The queries that `Gallery.search` was given, `(num_queries, dim)`, of length 1.

    Args:
        about: Of the gallery.
        index: Of the gallery.
        queries: Images, `Embeddings`, or an array.
        model: The network that embeds images.
        space: Id of the space of an array.

    Raises:
        TypeError: If images have no `model`, or an array has no `space`.
        ValueError: If they are of another space or dimension, or not finite.
    """
    if isinstance(queries, Embeddings):
        _check_may_ask(about, index, queries)
        return unit_vectors(about, queries.embeddings, "queries")
    if model is not None:
        _check_may_ask(about, index, model)
        return unit_vectors(about, model.encode(queries, progress=False), "queries")
    if not _is_table(queries):
        raise TypeError(
            "model must be the network that embeds the query images, any of the gallery's space "
            f"{about.embedding_space!r}; got None. Embeddings are an array of floats (num_queries, dim), with "
            "embedding_space."
        )
    if space is None:
        raise TypeError(
            "embedding_space must say of which space an array of queries is (model.config.embedding_space), as "
            "dimensions that agree don't show it; got None. Embeddings carry theirs."
        )
    _check_may_ask(about, index, space)
    return unit_vectors(about, queries, "queries")


def _check_may_ask(about: About, index: Any, asker: Embedder) -> None:
    """Refuse queries of another space, except those that were trained for this very index."""
    space = space_of(asker)
    if space != about.embedding_space and (space is None or space != own_space(index, about.embedding_space)):
        check_compatible(about, asker)


def unit_vectors(about: About, array: NDArray[np.floating], argument: str) -> Vectors:
    """Embeddings scaled to length 1, of the gallery's dimension.

    Args:
        about: Of the gallery.
        array: `(n, dim)`.
        argument: What error messages call the array.

    Raises:
        ValueError: If one is zero or not finite, or they have another dimension.
    """
    unit = normalize(array, argument=argument)
    if unit.shape[1] != about.embedding_dim:
        raise ValueError(
            f"{argument} have dimension {unit.shape[1]}, and the gallery {about.embedding_dim}: they must agree."
        )
    return unit


def check_k(k: int, num_images: int) -> None:
    """Refuse to find more images than there are, or none.

    Raises:
        TypeError: If `k` isn't an integer.
        ValueError: If it is out of range, or the gallery is empty.
    """
    if not num_images:
        raise ValueError("the gallery is empty: add images before searching it.")
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be an integer; got {k!r}.")
    if not 1 <= k <= num_images:
        raise ValueError(f"k must be from 1 to the {num_images} images of the gallery; got {k}.")


def _is_table(queries: Any) -> bool:
    """Whether queries are embeddings, not images: an array `(n, dim)` of floats."""
    return isinstance(queries, np.ndarray) and queries.ndim == 2 and queries.dtype.kind == "f"
