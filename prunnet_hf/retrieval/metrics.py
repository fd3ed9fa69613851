"""Retrieval metrics: ids in, numbers out, all in [0, 1].

`ranks` is what `search` returns: `(num_queries, k)` gallery indices, best first. Labels are one a query and one a
gallery image, integers or strings. A gallery image is relevant to a query when their labels are equal.

In a leave-one-out test the queries are gallery images themselves, and none may retrieve itself. Pass the same
`exclude` here as to `search`: the image left out is then not counted among the relevant ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from numpy.typing import NDArray


def mean_average_precision(
    ranks: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    exclude: ArrayLike | None = None,
) -> float:
    """Average, over the queries, the mean precision at the ranks of all relevant images.

    Definition: AP = 1/R * sum over relevant images of (relevant images up to and with its rank) / (its rank), where R
    is the number of relevant images in the gallery; mAP is the mean of AP over queries. This is the finite sum of
    precision at hits, not the trapezoid.

    Edge case: `ranks` may be shorter than the gallery, but every relevant image must be among them.

    Example:
        Gallery a b a. A query a finds its images at ranks 1 and 3: (1/1 + 2/3) / 2 = 5/6. A query b finds its one at
        rank 2: 1/2. The mean is 2/3.

        >>> round(mean_average_precision([[0, 1, 2], [0, 1, 2]], ["a", "b"], ["a", "b", "a"]), 4)
        0.6667

    Args:
        ranks: `(num_queries, k)` gallery indices, best first.
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        exclude: `(num_queries,)` gallery indices that `search` left out, or None.

    Returns:
        The mAP, in [0, 1].

    Raises:
        TypeError: If `ranks` or `exclude` don't hold integers.
        ValueError: If shapes disagree, ranks are repeated, out of range or too short to hold every relevant image, or
            a query has no relevant image.
    """
    hits = find_hits(ranks, query_labels, gallery_labels, exclude=exclude)
    num_relevant = count_relevant(query_labels, gallery_labels, exclude=exclude)
    missed = np.flatnonzero(hits.sum(axis=1) < num_relevant)
    if missed.size:
        query = missed[0]
        raise ValueError(
            f"ranks are too short for mAP: query {query} has {num_relevant[query]} relevant gallery images, and its "
            f"{hits.shape[1]} ranks hold {hits[query].sum()}; search with k=None"
        )
    return float(average_precision(hits, num_relevant).mean())


def recall_at_k(
    ranks: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    ks: Sequence[int] = (1,),
    exclude: ArrayLike | None = None,
) -> dict[str, float]:
    """Share of queries with at least one relevant image among their first k.

    Edge case: a query without any relevant image in the gallery is a miss at every k.

    Example:
        Gallery a b a. A query a finds one at rank 1, a query b at rank 2: half the queries at 1, all at 2.

        >>> recall_at_k([[0, 1], [0, 1]], ["a", "b"], ["a", "b", "a"], ks=(1, 2))
        {'recall@1': 0.5, 'recall@2': 1.0}

    Args:
        ranks: `(num_queries, k)` gallery indices, best first, with k at least the largest of `ks`.
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        ks: The cut-offs.
        exclude: `(num_queries,)` gallery indices that `search` left out, or None.

    Returns:
        `{"recall@k": share}`, one for each of `ks`, in their order.

    Raises:
        TypeError: If `ranks` or `exclude` don't hold integers.
        ValueError: If shapes disagree, ranks are repeated or out of range, or a cut-off is not between 1 and k.
    """
    hits = find_hits(ranks, query_labels, gallery_labels, exclude=exclude)
    for k in ks:
        if not 1 <= k <= hits.shape[1]:
            raise ValueError(f"ks must lie between 1 and the {hits.shape[1]} ranks of each query, got {k}")
    return {f"recall@{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}


def chance_mean_average_precision(
    query_labels: ArrayLike, gallery_labels: ArrayLike, *, exclude: ArrayLike | None = None
) -> float:
    """Expected mAP of a gallery in random order: what a model that learned nothing would get.

    Edge case: as for `mean_average_precision`, each query needs a relevant image.

    Example:
        Two images a and two b, each a query against the other three: its one partner comes first, second or third with
        equal chance, (1 + 1/2 + 1/3) / 3 = 11/18.

        >>> round(chance_mean_average_precision(list("aabb"), list("aabb"), exclude=range(4)), 4)
        0.6111

    Args:
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        exclude: `(num_queries,)` gallery indices that a search would leave out, or None.

    Returns:
        The expectation, exact, in [0, 1].

    Raises:
        TypeError: If `exclude` doesn't hold integers.
        ValueError: If shapes disagree or a query has no relevant image.
    """
    num_relevant = count_relevant(query_labels, gallery_labels, exclude=exclude)
    retrievable = len(np.asarray(gallery_labels)) - (exclude is not None)
    return float(expected_average_precision(num_relevant, retrievable).mean())


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
    others = max(retrievable - 1, 1)  # with one image R - 1 is 0 and the quotient is moot
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
    query_codes, gallery_codes = _label_codes(query_labels, gallery_labels)
    checked = _checked_ranks(ranks, len(query_codes), len(gallery_codes))
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

    Edge case: an excluded image of another label changes nothing.

    Example:
        >>> count_relevant(["a", "b"], ["a", "b", "a", "b", "b"], exclude=[0, 1])
        array([1, 2])

    Args:
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        exclude: `(num_queries,)` gallery indices left out of the search, or None.

    Returns:
        `(num_queries,)`, each at least 1.

    Raises:
        TypeError: If `exclude` doesn't hold integers.
        ValueError: If shapes disagree or a query has no relevant image.
    """
    query_codes, gallery_codes = _label_codes(query_labels, gallery_labels)
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
            f"{' besides itself' if exclude is not None else ''}: leave it out of the queries, or add one"
        )
    return num_relevant


def _label_codes(query_labels: ArrayLike, gallery_labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the distinct labels, so that comparing is cheap whatever they were."""
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    for argument, labels in (("query_labels", query_labels), ("gallery_labels", gallery_labels)):
        if labels.ndim != 1 or not labels.size:
            raise ValueError(f"{argument} must hold one label an image, at least one, got shape {labels.shape}")
    if (query_labels.dtype.kind in "US") != (gallery_labels.dtype.kind in "US"):
        raise TypeError(
            f"query_labels are {query_labels.dtype} and gallery_labels {gallery_labels.dtype}: use one kind"
        )
    codes = np.unique(np.concatenate([query_labels, gallery_labels]), return_inverse=True)[1].astype(np.int64)
    return codes[: len(query_labels)], codes[len(query_labels) :]


def _checked_ranks(ranks: ArrayLike, num_queries: int, num_gallery: int) -> NDArray[np.int64]:
    ranks = np.asarray(ranks)
    if ranks.dtype.kind not in "iu":
        raise TypeError(f"ranks must hold gallery indices (integers), got dtype {ranks.dtype}")
    if ranks.ndim != 2 or len(ranks) != num_queries or not ranks.size:
        raise ValueError(f"ranks must be ({num_queries}, k), one row a query, got shape {ranks.shape}")
    outside = np.flatnonzero(((ranks < 0) | (ranks >= num_gallery)).any(axis=1))
    if outside.size:
        query = outside[0]
        raise ValueError(f"ranks of query {query} leave the gallery, whose indices are 0 to {num_gallery - 1}")
    in_order = np.sort(ranks, axis=1)
    repeats = np.argwhere(in_order[:, 1:] == in_order[:, :-1])
    if repeats.size:
        query, position = repeats[0]
        raise ValueError(f"ranks of query {query} hold gallery image {in_order[query, position]} more than once")
    return ranks


def check_exclude(exclude: ArrayLike, num_queries: int, num_gallery: int) -> NDArray[np.int64]:
    """Check the gallery indices that queries leave out.

    Args:
        exclude: One gallery index a query.
        num_queries: How many there must be.
        num_gallery: What they must stay below.

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
        raise ValueError(f"exclude must name one gallery index a query, shape ({num_queries},), got {exclude.shape}")
    outside = np.flatnonzero((exclude < 0) | (exclude >= num_gallery))
    if outside.size:
        query = outside[0]
        raise ValueError(f"exclude[{query}] is {exclude[query]}: gallery indices are 0 to {num_gallery - 1}")
    return exclude.astype(np.int64)
