"""Exact nearest neighbours by cosine similarity, in an order that only the embeddings decide.

Floating-point sums depend on their order, and matrix libraries choose that order by the shape of the block. So two
copies of one image could get different similarities, and another block size could give another ranking. To prevent
this, embeddings are first rounded to multiples of 2**-22. float32 holds those exactly, and every dot product of two
such unit vectors is exact in float64 (its terms are multiples of 2**-44 and their magnitudes sum to about 1, well
inside 53 bits), whatever the order of summation. The rounding costs about as much precision as float32 arithmetic.

faiss then only proposes candidates, from float32 similarities with a known error bound; exact similarities put them in
order.
"""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
from numpy.typing import NDArray

from .embedding_table import Searchable, arrays_of_one_space
from .rankings import check_exclude

GRID = 2.0**-22
"""Unit embeddings are rounded to multiples of this."""

_NORMALIZED_AT_A_TIME = 8192
_SPARE_CANDIDATES = 64
_FETCH_GROWTH = 8
# If more than this share of the gallery or this number is wanted, comparing with every image is faster than faiss.
_LARGEST_FAISS_SHARE = 1 / 8
_LARGEST_FAISS_FETCH = 2**11
# If more than this share of the columns is wanted, sorting all of them is as fast as selecting first.
_LARGEST_SELECTED_SHARE = 1 / 8
# 16 MiB of similarities stay in cache between product and sort; with too few rows the product is slow.
_SORTED_AT_A_TIME = 2**21
_FEWEST_ROWS = 16
# Similarity and column share one int64 when sorted: 46 bits and 17.
_PACKED_COLUMN_BITS = 17
_BELOW_EVERY_COSINE = -2.0
_NOTHING = -1  # stands for no excluded image


def normalize(embeddings: NDArray[np.floating], *, argument: str = "embeddings") -> NDArray[np.float32]:
    """Scale each embedding to length 1 and round it to multiples of `GRID`.

    A zero embedding has no direction and so no cosine: it is refused like one that is not finite.

    Args:
        embeddings: `(n, dim)` floats.
        argument: What error messages call the array.

    Returns:
        `(n, dim)` float32, C-contiguous; each component is within `GRID / 2` of the unit vector's.

    Raises:
        TypeError: If the array doesn't hold floats.
        ValueError: If it isn't `(n, dim)`, is empty, or a row is zero or not finite.
    """
    embeddings = check_table(embeddings, argument)
    unit = np.empty(embeddings.shape, dtype=np.float32)
    for start in range(0, len(embeddings), _NORMALIZED_AT_A_TIME):
        rows = np.ascontiguousarray(embeddings[start : start + _NORMALIZED_AT_A_TIME], dtype=np.float64)
        norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if bad.size:
            raise without_direction(argument, start + bad[0], norms[bad[0], 0])
        unit[start : start + len(rows)] = np.rint(rows / norms / GRID) * GRID
    return unit


def check_table(embeddings: NDArray[np.floating], argument: str) -> NDArray[np.floating]:
    """Return embeddings as an array, which must be `(n, dim)` floats, at least one row and one column.

    Raises:
        TypeError: If it doesn't hold floats.
        ValueError: If it has another shape or is empty.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.dtype.kind != "f":
        raise TypeError(f"{argument} must be an array of floats, got dtype {embeddings.dtype}")
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"{argument} must be (n, dim) with at least one row and column, got shape {embeddings.shape}")
    return embeddings


def without_direction(argument: str, row: int, length: float) -> ValueError:
    """The error for an embedding that no search can rank: its length is 0 or not finite."""
    return ValueError(
        f"{argument} row {row} has length {length}: every embedding must be finite and not zero, or it can't be "
        "compared; look at the image and the model that made it"
    )


def search(
    queries: Searchable,
    gallery: Searchable,
    k: int | None = None,
    *,
    exclude: NDArray[np.integer] | None = None,
    block_size: int = 1024,
) -> NDArray[np.int64]:
    """Rank the gallery for each query by cosine similarity; of equally similar images the first in the gallery wins.

    Args:
        queries: `(num_queries, dim)` embeddings, of any length, or `Embeddings`, which know their space.
        gallery: `(num_gallery, dim)` embeddings, of any length; `Embeddings` if `queries` are.
        k: How many images to retrieve for each query; None for all.
        exclude: `(num_queries,)` gallery indices: the one image that each query must not retrieve. In a leave-one-out
            test this is the query itself.
        block_size: How many queries are compared with the gallery at a time. It changes memory, not the result.

    Returns:
        `(num_queries, k)` gallery indices, best first.

    Raises:
        TypeError: If the embeddings aren't floats, `exclude` or `k` aren't integers, or only one side knows its space.
        ValueError: If the sides are of two spaces, shapes disagree, an embedding is zero or not finite, or a number is
            out of range.
    """
    blocks = search_blocks(queries, gallery, k, exclude=exclude, block_size=block_size)
    return np.concatenate([ranks for _, ranks in blocks])


def search_blocks(
    queries: Searchable,
    gallery: Searchable,
    k: int | None = None,
    *,
    exclude: NDArray[np.integer] | None = None,
    block_size: int = 1024,
) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Do what `search` does, but one block of queries at a time, as all ranks together may be too large.

    Args:
        queries: As in `search`.
        gallery: As in `search`.
        k: As in `search`.
        exclude: As in `search`.
        block_size: As in `search`.

    Yields:
        The slice of queries and their `(block, k)` ranks, in order.

    Raises:
        TypeError: As in `search`.
        ValueError: As in `search`.
    """
    queries, gallery = _comparable(queries, gallery)
    if exclude is None:
        excluded = np.full(len(queries), _NOTHING)
    else:
        excluded = check_exclude(exclude, len(queries), len(gallery))
    k = _checked_k(k, len(gallery) - (exclude is not None))
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a positive integer, got {block_size!r}")
    rank_block = _rank_candidates if _faiss_serves(_first_fetch(k), len(gallery)) else _rank_all
    if rank_block is _rank_all:
        gallery = gallery.astype(np.float64)  # once, not for each block
    for start in range(0, len(queries), block_size):
        block = slice(start, min(start + block_size, len(queries)))
        yield block, rank_block(queries[block], gallery, k, excluded[block])


def _comparable(queries: Searchable, gallery: Searchable) -> tuple[NDArray[np.float32], NDArray[np.floating]]:
    query_array, gallery_array = arrays_of_one_space(queries, gallery)
    unit_queries = normalize(query_array, argument="queries")
    unit_gallery = normalize(gallery_array, argument="gallery")
    if unit_queries.shape[1] != unit_gallery.shape[1]:
        raise ValueError(
            f"queries have dimension {unit_queries.shape[1]} and gallery {unit_gallery.shape[1]}: they must agree"
        )
    return unit_queries, unit_gallery


def _checked_k(k: int | None, retrievable: int) -> int:
    if retrievable < 1:
        raise ValueError("gallery holds one image and exclude excludes it: there is nothing to retrieve")
    if k is None:
        return retrievable
    if not isinstance(k, int | np.integer):
        raise TypeError(f"k must be an integer or None, got {k!r}")
    if not 1 <= k <= retrievable:
        raise ValueError(f"k must be between 1 and the {retrievable} images that a query can retrieve, got {k}")
    return int(k)


def _first_fetch(k: int) -> int:
    return k + 1 + _SPARE_CANDIDATES


def _faiss_serves(fetch: int, num_gallery: int) -> bool:
    return fetch <= min(num_gallery * _LARGEST_FAISS_SHARE, _LARGEST_FAISS_FETCH)


def _rank_candidates(
    queries: NDArray[np.float32],
    gallery: NDArray[np.floating],
    k: int,
    excluded: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rank by faiss' candidates if these surely hold the k best, otherwise by all similarities."""
    ranks = np.empty((len(queries), k), dtype=np.int64)
    pending = np.arange(len(queries))
    needed = k + 1  # one may be the excluded image
    fetch = _first_fetch(k)
    # The error of a float32 dot product of unit vectors is at most about dim * 2**-24, in any order of summation. Both
    # the k-th and its rival may be wrong, so a candidate further behind than twice that can't be among the best. It is
    # doubled again for safety.
    margin = queries.shape[1] * 2.0**-22
    while pending.size and _faiss_serves(fetch, len(gallery)):
        found, candidates = faiss.knn(queries[pending], gallery, fetch, metric=faiss.METRIC_INNER_PRODUCT)
        settled = found[:, -1] < found[:, needed - 1] - margin
        for query, proposed in zip(pending[settled], candidates[settled], strict=True):
            ranks[query] = _best_of(queries[query], gallery, proposed[proposed != excluded[query]], k)
        pending = pending[~settled]
        fetch *= _FETCH_GROWTH
    if pending.size:
        ranks[pending] = _rank_all(queries[pending], gallery, k, excluded[pending])
    return ranks


def _best_of(
    query: NDArray[np.float32],
    gallery: NDArray[np.floating],
    candidates: NDArray[np.int64],
    k: int,
) -> NDArray[np.int64]:
    """Return the k best of a few candidates for one query `(dim,)`."""
    candidates = np.sort(candidates)
    similarities = exact_cosines(query[np.newaxis], gallery[candidates])
    return candidates[order_reference(similarities)[0, :k]]


def _rank_all(
    queries: NDArray[np.float32],
    gallery: NDArray[np.floating],
    k: int,
    excluded: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rank by all similarities, a few rows at a time."""
    ranks = np.empty((len(queries), k), dtype=np.int64)
    gallery = gallery.astype(np.float64, copy=False)
    rows_at_a_time = max(_SORTED_AT_A_TIME // len(gallery), _FEWEST_ROWS)
    for start in range(0, len(queries), rows_at_a_time):
        rows = slice(start, start + rows_at_a_time)
        similarities = exact_cosines(queries[rows], gallery)
        with_exclusion = np.flatnonzero(excluded[rows] != _NOTHING)
        similarities[with_exclusion, excluded[rows][with_exclusion]] = _BELOW_EVERY_COSINE
        ranks[rows] = _best_columns(similarities, k)
    return ranks


def _best_columns(similarities: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the first k columns of `order`; if they are few, without sorting the others."""
    if k > similarities.shape[1] * _LARGEST_SELECTED_SHARE:
        return order(similarities)[:, :k]
    best = np.empty((len(similarities), k), dtype=np.int64)
    for row, kth in enumerate(np.partition(similarities, -k, axis=1)[:, -k]):
        candidates = np.flatnonzero(similarities[row] >= kth)  # with all that equal the k-th
        best[row] = candidates[order_reference(similarities[row : row + 1, candidates])[0, :k]]
    return best


def exact_cosines(queries: NDArray[np.float32], gallery: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return all `(num_queries, num_gallery)` cosines of embeddings from `normalize`, exact to the last bit."""
    return queries.astype(np.float64) @ gallery.astype(np.float64, copy=False).T


def order(similarities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the columns of each row, the largest similarity first, equals by the lower column.

    The result is that of `order_reference`, but several times faster: similarity (a multiple of `GRID**2`) and column
    become one integer, and integers sort fast.

    Args:
        similarities: `(rows, columns)` from `exact_cosines`, or -2 for what must come last.

    Returns:
        `(rows, columns)` int64 column indices.
    """
    columns = similarities.shape[1]
    if columns > 2**_PACKED_COLUMN_BITS:
        return order_reference(similarities)
    keys = (similarities * -(GRID**-2)).astype(np.int64)
    keys <<= _PACKED_COLUMN_BITS
    keys |= np.arange(columns)
    keys.sort(axis=1)
    keys &= 2**_PACKED_COLUMN_BITS - 1
    return keys


def order_reference(similarities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The plain definition of `order`.

    Args:
        similarities: `(rows, columns)`.

    Returns:
        `(rows, columns)` int64 column indices.
    """
    return np.argsort(-similarities, axis=1, kind="stable")
