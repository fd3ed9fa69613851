"""The base of the metrics: labels and rankings, checked, and the precision at hits.

`ranks` are gallery indices, best first, one row for each query; each image has one label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

RankBlocks: TypeAlias = Iterator[tuple[slice, NDArray[np.int64]]]
"""Blocks of queries and their `(block, k)` ranks from `search_blocks`, as all together may be too large."""

_QUERIES_AT_A_TIME = 128


def average_precision(hits: NDArray[np.bool_], num_relevant: NDArray[np.integer]) -> NDArray[np.float64]:
    """Mean precision at hits of each query, from the hits themselves.

    Edge case: a relevant image that isn't among the ranks contributes 0.

    Example:
        Hits at ranks 1 and 3, and a third relevant image never found: (1/1 + 2/3 + 0) / 3 = 5/9.

        >>> average_precision(np.array([[True, False, True]]), np.array([3])).round(4)
        array([0.5556])

    Args:
        hits: `(num_queries, k)`, whether the image at each rank is relevant.
        num_relevant: `(num_queries,)`, at least 1: how many relevant images could have been found.

    Returns:
        `(num_queries,)` in [0, 1].
    """
    query, position = np.nonzero(hits)
    first_of_query = np.searchsorted(query, np.arange(len(hits)))
    hits_so_far = np.arange(len(query)) - first_of_query[query] + 1
    precision = hits_so_far / (position + 1)
    return np.bincount(query, weights=precision, minlength=len(hits)) / num_relevant


def expected_average_precision(num_relevant: NDArray[np.integer], retrievable: int) -> NDArray[np.float64]:
    """Expected AP when the ranking is a random permutation.

    Definition: with R relevant among n, rank i holds a hit with probability R/n, and then (i-1)(R-1)/(n-1) of the
    ranks above it are expected to be hits. Summing R/n * (1 + (i-1)(R-1)/(n-1)) / i over i and dividing by R gives
    (H + (R-1) (n-H) / (n-1)) / n, H the harmonic number 1 + 1/2 + ... + 1/n.

    Edge case: R = n gives 1.

    Example:
        One relevant of two: it comes first or second, (1 + 1/2) / 2.

        >>> expected_average_precision(np.array([1, 2]), 2)
        array([0.75, 1.  ])

    Args:
        num_relevant: `(num_queries,)`, R, between 1 and `retrievable`.
        retrievable: n, how many images are ranked.

    Returns:
        `(num_queries,)` in [0, 1].
    """
    harmonic = float((1 / np.arange(1, retrievable + 1)).sum())
    others = max(retrievable - 1, 1)  # with one image R - 1 is 0, whatever it is divided by
    return (harmonic + (num_relevant - 1) * (retrievable - harmonic) / others) / retrievable


def find_hits(
    ranks: ArrayLike, query_labels: ArrayLike, gallery_labels: ArrayLike, *, exclude: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Check the ranks and say which of them are relevant.

    Edge case: a label that the gallery lacks gives a row of False.

    Example:
        >>> find_hits([[2, 0, 1]], ["a"], ["a", "b", "a"])
        array([[ True,  True, False]])

    Args:
        ranks: `(num_queries, k)` gallery indices, best first.
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        exclude: `(num_queries,)` gallery indices that must not be among the ranks, or None.

    Returns:
        `(num_queries, k)`.

    Raises:
        TypeError: If `ranks` or `exclude` don't hold integers.
        ValueError: If shapes disagree, or ranks are repeated, out of range, or hold the excluded image.
    """
    query_codes, gallery_codes = label_codes(query_labels, gallery_labels)
    checked = checked_ranks(ranks, len(query_codes), len(gallery_codes))
    if exclude is not None:
        excluded = check_exclude(exclude, len(query_codes), len(gallery_codes))
        retrieved = np.flatnonzero((checked == excluded[:, np.newaxis]).any(axis=1))
        if retrieved.size:
            query = retrieved[0]
            raise ValueError(f"ranks of query {query} hold gallery image {excluded[query]}, which exclude leaves out")
    hits: NDArray[np.bool_] = gallery_codes[checked] == query_codes[:, np.newaxis]
    return hits


def count_relevant(
    query_labels: ArrayLike, gallery_labels: ArrayLike, *, exclude: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Count the gallery images that each query should find.

    Edge case: excluding an image of another label changes nothing.

    Example:
        >>> count_relevant(["a", "b"], ["a", "b", "a", "b", "b"], exclude=[0, 1])
        array([1, 2])

    Args:
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        exclude: `(num_queries,)` gallery indices excluded from the search, or None.

    Returns:
        `(num_queries,)`, each at least 1.

    Raises:
        TypeError: If `exclude` doesn't hold integers.
        ValueError: If shapes disagree or a query has no relevant image.
    """
    query_codes, gallery_codes = label_codes(query_labels, gallery_labels)
    size = int(max(query_codes.max(), gallery_codes.max())) + 1
    num_relevant = np.bincount(gallery_codes, minlength=size)[query_codes]
    if exclude is not None:
        excluded = check_exclude(exclude, len(query_codes), len(gallery_codes))
        num_relevant = num_relevant - (gallery_codes[excluded] == query_codes)
    without = np.flatnonzero(num_relevant == 0)
    if without.size:
        query = without[0]
        raise ValueError(
            f"query {query} (label {np.asarray(query_labels)[query].item()!r}) has no relevant image in the gallery"
            f"{' except itself' if exclude is not None else ''}: leave it out of the queries, or add one"
        )
    return num_relevant


def label_codes(
    query_labels: ArrayLike, gallery_labels: ArrayLike, name: str = "labels"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct labels, because numbers are compared faster.

    Example:
        >>> [codes.tolist() for codes in label_codes(["b", "z"], ["a", "b", "b"])]
        [[1, 2], [0, 1, 1]]

    Args:
        query_labels: `(num_queries,)` integers or strings.
        gallery_labels: `(num_gallery,)` of the same kind.
        name: What error messages call them.

    Returns:
        `(num_queries,)` and `(num_gallery,)` codes, equal if the labels are.

    Raises:
        TypeError: If they are not integers or strings, or one holds integers and the other strings.
        ValueError: If one isn't a list of at least one label.
    """
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    for argument, labels in ((f"query_{name}", query_labels), (f"gallery_{name}", gallery_labels)):
        if labels.ndim != 1 or not labels.size:
            raise ValueError(f"{argument} must hold one label for each image, at least one, got shape {labels.shape}")
    both = f"query_{name} are {query_labels.dtype} and gallery_{name} {gallery_labels.dtype}"
    if (query_labels.dtype.kind in "US") != (gallery_labels.dtype.kind in "US"):
        raise TypeError(f"{both}: use one kind")
    joined = np.concatenate([query_labels, gallery_labels])
    if joined.dtype.kind not in "biuUS":
        raise TypeError(f"{both}: use integers or strings, which can be compared exactly")
    codes = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    return codes[: len(query_labels)], codes[len(query_labels) :]


def checked_ranks(ranks: ArrayLike, num_queries: int, num_gallery: int, first_query: int = 0) -> NDArray[np.int64]:
    """Check that each query's ranks are distinct gallery indices.

    Args:
        ranks: `(num_queries, k)`.
        num_queries: The number of rows.
        num_gallery: The indices must be below this.
        first_query: Number of the first row in error messages.

    Returns:
        `(num_queries, k)`.

    Raises:
        TypeError: If they aren't integers.
        ValueError: If the number of rows is wrong, or a row holds an index twice or one outside the gallery.
    """
    ranks = _index_rows(ranks, num_queries)
    outside = np.flatnonzero(((ranks < 0) | (ranks >= num_gallery)).any(axis=1))
    if outside.size:
        query = first_query + outside[0]
        raise ValueError(f"ranks of query {query} leave the gallery, whose indices are 0 to {num_gallery - 1}")
    in_order = np.sort(ranks, axis=1)
    repeats = np.argwhere(in_order[:, 1:] == in_order[:, :-1])
    if repeats.size:
        row, position = repeats[0]
        image = in_order[row, position]
        raise ValueError(f"ranks of query {first_query + row} hold gallery image {image} more than once")
    return ranks.astype(np.int64, copy=False)


def _index_rows(ranks: ArrayLike, num_queries: int) -> NDArray[np.integer]:
    try:
        ranks = np.asarray(ranks)
    except ValueError as error:
        raise ValueError("ranks must hold the same number of gallery indices for each query") from error
    if ranks.ndim != 2 or len(ranks) != num_queries or not ranks.size:
        raise ValueError(f"ranks must be ({num_queries}, k), one row for each query, got shape {ranks.shape}")
    if ranks.dtype.kind not in "iu":
        raise TypeError(f"ranks must hold gallery indices (integers), got dtype {ranks.dtype}")
    return ranks


def check_cutoffs(name: str, ks: Sequence[int], largest: int | None = None) -> None:
    """Check the cut-offs of a metric.

    Args:
        name: What error messages call them.
        ks: The cut-offs.
        largest: The number of ranks; None if any cut-off is allowed.

    Raises:
        TypeError: If one is not an integer.
        ValueError: If there is no cut-off, or one is below 1 or above `largest`.
    """
    if not len(ks):
        raise ValueError(f"{name} must hold at least one cut-off, got {ks!r}")
    for k in ks:
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise TypeError(f"{name} must hold integers, got {k!r}")
        if k < 1 or (largest is not None and k > largest):
            allowed = "be at least 1" if largest is None else f"lie between 1 and the {largest} ranks of each query"
            raise ValueError(f"{name} must {allowed}, got {k}")


def check_exclude(exclude: ArrayLike, num_queries: int, num_gallery: int) -> NDArray[np.int64]:
    """Check the gallery indices that queries exclude.

    Args:
        exclude: One gallery index for each query.
        num_queries: The number of queries.
        num_gallery: The indices must be below this.

    Returns:
        `(num_queries,)` int64.

    Raises:
        TypeError: If they aren't integers.
        ValueError: If their number is wrong, or one lies outside the gallery.
    """
    exclude = np.asarray(exclude)
    if exclude.dtype.kind not in "iu":
        raise TypeError(f"exclude must hold gallery indices (integers), got dtype {exclude.dtype}")
    if exclude.shape != (num_queries,):
        raise ValueError(f"exclude must hold one index for each query, shape ({num_queries},), got {exclude.shape}")
    outside = np.flatnonzero((exclude < 0) | (exclude >= num_gallery))
    if outside.size:
        query = outside[0]
        raise ValueError(f"exclude[{query}] is {exclude[query]}: gallery indices are 0 to {num_gallery - 1}")
    return exclude.astype(np.int64)


def full_orderings(ranks: ArrayLike | RankBlocks, num_queries: int, num_gallery: int | None = None) -> RankBlocks:
    """Check that rankings order the whole gallery, a block of queries at a time.

    Example:
        >>> [(block.stop, orders.tolist()) for block, orders in full_orderings([[1, 0], [0, 1]], num_queries=2)]
        [(2, [[1, 0], [0, 1]])]

    Args:
        ranks: `(num_queries, num_gallery)`, or an iterator over blocks of them.
        num_queries: The number of queries.
        num_gallery: Size of the gallery; if None, it follows from the rankings.

    Yields:
        The slice of queries and their `(block, num_gallery)` orderings, in order.

    Raises:
        TypeError: If the ranks aren't integers.
        ValueError: If the number of queries is wrong, blocks come out of order, or a query's ranks don't hold
            every gallery image exactly once.
    """
    done = 0
    for block, rows in ranks if isinstance(ranks, Iterator) else _in_blocks(_index_rows(ranks, num_queries)):
        orders = _index_rows(rows, block.stop - block.start)
        if block.start != done:
            raise ValueError(f"ranks must come in order of the queries: expected query {done}, got {block.start}")
        num_gallery = num_gallery or max(int(orders.max()) + 1, orders.shape[1])
        if orders.shape[1] != num_gallery:
            raise ValueError(
                f"ranks must order the whole gallery, its images 0 to {num_gallery - 1}, but hold {orders.shape[1]} "
                "for each query: search with k=None"
            )
        yield block, checked_ranks(orders, len(orders), num_gallery, first_query=done)
        done = block.stop
    if done != num_queries:
        raise ValueError(f"ranks hold {done} queries, but there are {num_queries}")


def _in_blocks(ranks: NDArray[np.integer]) -> Iterator[tuple[slice, NDArray[np.integer]]]:
    for start in range(0, len(ranks), _QUERIES_AT_A_TIME):
        rows = ranks[start : start + _QUERIES_AT_A_TIME]
        yield slice(start, start + len(rows)), rows
