"""Retrieval metrics: ids in, numbers out, all in [0, 1].

`ranks` is what `search` returns: `(num_queries, k)` gallery indices, best first. Each query and each gallery image has
one label, an integer or a string. A gallery image is relevant to a query if their labels are equal.

In a leave-one-out test the queries are gallery images themselves, and none may retrieve itself. Pass the same
`exclude` here as to `search`: the excluded image then isn't counted as relevant.

Each benchmark has its own rule, `evaluate_<benchmark>`, which gives the numbers of its official evaluation. If a rule
needs full orderings, it also takes blocks of them from `search_blocks`, as all together may be too large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .judgements import (
    EASY,
    HARD,
    JUNK,
    OTHER_CAMERA,
    SAME_CAMERA,
    Positives,
    find_positives,
    judge_by_camera,
    judge_by_difficulty,
    judge_predictions,
)
from .rankings import (
    RankBlocks,
    average_precision,
    check_cutoffs,
    count_relevant,
    expected_average_precision,
    find_hits,
)

_DIFFICULTIES = {"easy": ([EASY], [HARD, JUNK]), "medium": ([EASY, HARD], [JUNK]), "hard": ([HARD], [EASY, JUNK])}
"""The judgements of the images to be found, and those of junk, at each difficulty."""


def found_first(hits: NDArray[np.bool_], num_relevant: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether each query's first image is relevant: recall at 1, before it is averaged.

    Example:
        >>> found_first(np.array([[True, False], [False, True]]), np.array([1, 1]))
        array([ True, False])

    Args:
        hits: `(num_queries, k)`, whether the image at each rank is relevant.
        num_relevant: `(num_queries,)`, unused.

    Returns:
        `(num_queries,)`.
    """
    return hits[:, 0]


LEAVE_ONE_OUT: dict[str, Callable[[NDArray[np.bool_], NDArray[np.integer]], NDArray[Any]]] = {
    "mAP": average_precision,
    "recall@1": found_first,
}
"""What the protocol `leave_one_out` reports, the headline first: means over the queries of these functions of `hits`
`(num_queries, k)` and `num_relevant` `(num_queries,)`. A new metric is a function and a row."""


def mean_average_precision(
    ranks: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    exclude: ArrayLike | None = None,
) -> float:
    """Average, over the queries, the mean precision at the ranks of all relevant images.

    Definition: AP = 1/R * sum over relevant images of (relevant images up to and with its rank) / (its rank), where R
    is the number of relevant images in the gallery; mAP is the mean of AP over queries. This is the sum of the
    precision at hits, without trapezoids.

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
        exclude: `(num_queries,)` gallery indices that `search` excluded, or None.

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

    Edge case: a query without a relevant image in the gallery is a miss at every k.

    Example:
        Gallery a b a. A query a finds one at rank 1, a query b at rank 2: half the queries at 1, all at 2.

        >>> recall_at_k([[0, 1], [0, 1]], ["a", "b"], ["a", "b", "a"], ks=(1, 2))
        {'recall@1': 0.5, 'recall@2': 1.0}

    Args:
        ranks: `(num_queries, k)` gallery indices, best first, with k at least the largest of `ks`.
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        ks: The cut-offs.
        exclude: `(num_queries,)` gallery indices that `search` excluded, or None.

    Returns:
        `{"recall@k": share}`, one for each of `ks`, in their order.

    Raises:
        TypeError: If `ranks`, `ks` or `exclude` don't hold integers.
        ValueError: If shapes disagree, ranks are repeated or out of range, or a cut-off is not between 1 and k.
    """
    hits = find_hits(ranks, query_labels, gallery_labels, exclude=exclude)
    check_cutoffs("ks", ks, largest=hits.shape[1])
    return {f"recall@{k}": float(hits[:, :k].any(axis=1).mean()) for k in ks}


def chance_mean_average_precision(
    query_labels: ArrayLike, gallery_labels: ArrayLike, *, exclude: ArrayLike | None = None
) -> float:
    """Expected mAP of a gallery in random order, as of a model that learned nothing.

    Edge case: each query needs a relevant image.

    Example:
        Two images a and two b, each a query against the other three: its partner comes first, second or third with
        equal chance: (1 + 1/2 + 1/3) / 3 = 11/18.

        >>> round(chance_mean_average_precision(list("aabb"), list("aabb"), exclude=range(4)), 4)
        0.6111

    Args:
        query_labels: `(num_queries,)`.
        gallery_labels: `(num_gallery,)`.
        exclude: `(num_queries,)` gallery indices that a search would exclude, or None.

    Returns:
        The exact expectation, in [0, 1].

    Raises:
        TypeError: If `exclude` doesn't hold integers.
        ValueError: If shapes disagree or a query has no relevant image.
    """
    num_relevant = count_relevant(query_labels, gallery_labels, exclude=exclude)
    retrievable = len(np.asarray(gallery_labels)) - (exclude is not None)
    return float(expected_average_precision(num_relevant, retrievable).mean())


def evaluate_in_shop(
    ranks: ArrayLike,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    ks: Sequence[int] = (1, 2, 4, 8, 10, 20, 30),
) -> dict[str, float]:
    """The rule of In-shop Clothes Retrieval: the share of queries with an image of their item among the first k.

    Definition: `recall_at_k`, the top-k accuracy of Liu et al., DeepFashion, CVPR 2016.

    Edge case: a query with nothing to find is an error; the official lists have no such query.

    Example:
        Gallery 7 8 7. Query 7 finds an image at rank 2, query 8 at rank 1.

        >>> evaluate_in_shop([[1, 0], [1, 2]], [7, 8], [7, 8, 7], ks=(1, 2))
        {'recall@1': 0.5, 'recall@2': 1.0}

    Args:
        ranks: `(num_queries, k)` gallery indices, best first, with k at least the largest of `ks`.
        query_labels: `(num_queries,)` items.
        gallery_labels: `(num_gallery,)` items.
        ks: The cut-offs.

    Returns:
        `{"recall@k": share}`, one for each of `ks`, in their order.

    Raises:
        TypeError: If `ranks` or `ks` don't hold integers.
        ValueError: If shapes disagree, ranks are repeated, out of range or too short for `ks`, or a query has no
            relevant image.
    """
    count_relevant(query_labels, gallery_labels)  # refuses queries without any
    return recall_at_k(ranks, query_labels, gallery_labels, ks=ks)


def evaluate_gldv2(
    predictions: Mapping[str, Sequence[str]], solution: Mapping[str, Sequence[str]], k: int = 100
) -> dict[str, float]:
    """mAP@k of Google Landmarks v2 retrieval.

    Definition: AP@k = 1/min(R, k) * sum over hits at ranks i <= k of (hits up to and with rank i) / i, R the number of
    relevant images; mAP@k is its mean over the queries of the solution. Weyand et al., Google Landmarks Dataset v2,
    CVPR 2020. The numbers are equal to those of the metrics that came with DELF.

    Edge case: an image that is predicted again is not a hit, but takes a rank; a query without predictions has AP 0.

    Example:
        Query q has x and y to find. Its second x is not a hit, but y at rank 3 is one: (1/1 + 2/3) / 2 = 5/6.
        Query r has no predictions: the mean is 5/12.

        >>> found = evaluate_gldv2({"q": ["x", "x", "y"]}, {"q": ["x", "y"], "r": ["z"]})
        >>> {name: round(value, 4) for name, value in found.items()}
        {'mAP@100': 0.4167}

    Args:
        predictions: For each query id the ids of index images, best first; those after rank k don't count.
        solution: For each query id the ids of all relevant index images.
        k: The cut-off.

    Returns:
        `{"mAP@k": value}`.

    Raises:
        TypeError: If an id is not a string, predictions aren't lists, or `k` is not an integer.
        ValueError: If `solution` is empty, has a query with no relevant image or with one image twice, predictions
            have a query that `solution` lacks, or `k` is below 1. Relevant ids that the index lacks are refused by the
            protocol, as this function doesn't know the index.
    """
    check_cutoffs("k", [k])
    hits, num_relevant = judge_predictions(predictions, solution, k)
    return {f"mAP@{k}": float(average_precision(hits, np.minimum(num_relevant, k)).mean())}


def evaluate_veri(
    ranks: ArrayLike | RankBlocks,
    query_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """The rule of VeRi-776: mAP, CMC and mINP of vehicle re-identification across cameras.

    Definition: images of the query's vehicle by the query's camera are junk and are removed from the ranking; those
    by other cameras are positives, at ranks r_1 < ... < r_R. AP = 1/R * sum of i/r_i; CMC@k is 1 if r_1 <= k, else 0;
    INP = R/r_R. Each is averaged over queries. Liu et al., ECCV 2016 (VeRi-776); Ye et al., TPAMI 2021 (mINP). The
    numbers are equal to those of FastReID.

    Edge cases: a query whose vehicle was seen again only by the same camera has no positives and is left out, as in
    FastReID. A vehicle that the gallery lacks is left out there too, but is an error here, because it means that the
    lists don't belong together.

    Example:
        Vehicle 5 seen by camera 1. The gallery holds it by cameras 1, 2, 3, then another. Without the junk at
        rank 1, positives are at ranks 1 and 3: AP = (1/1 + 2/3) / 2 = 5/6, INP = 2/3.

        >>> found = evaluate_veri([[0, 1, 3, 2]], [5], [1], [5, 5, 5, 6], [1, 2, 3, 1], ks=(1,))
        >>> {name: round(value, 4) for name, value in found.items()}
        {'mAP': 0.8333, 'CMC@1': 1.0, 'mINP': 0.6667}

    Args:
        ranks: `(num_queries, num_gallery)`, each row the full ordering of the gallery, best first; or an iterator over
            blocks of them.
        query_ids: `(num_queries,)` vehicles.
        query_cameras: `(num_queries,)`.
        gallery_ids: `(num_gallery,)` vehicles.
        gallery_cameras: `(num_gallery,)`.
        ks: The cut-offs of CMC.

    Returns:
        `{"mAP": .., "CMC@k": .., "mINP": ..}`, with a CMC for each of `ks`, in their order.

    Raises:
        TypeError: If `ranks` or `ks` don't hold integers, or ids and cameras are not integers or strings.
        ValueError: If shapes disagree, ranks don't hold every gallery image exactly once, the gallery lacks a query's
            vehicle, a cut-off is below 1, or no query has a positive.
    """
    check_cutoffs("ks", ks)
    judged = judge_by_camera(ranks, query_ids, query_cameras, gallery_ids, gallery_cameras)
    positives = find_positives(judged, [OTHER_CAMERA], [SAME_CAMERA], what="an image of its vehicle by another camera")
    precision = positives.nth / positives.rank
    best_rank = positives.rank[positives.first]
    return {
        "mAP": positives.mean_of(precision, positives.nth[positives.last]),
        **{f"CMC@{k}": float((best_rank <= k).mean()) for k in ks},
        "mINP": float(precision[positives.last].mean()),
    }


def evaluate_revisited(
    ranks: ArrayLike | RankBlocks, gnd: Sequence[Mapping[str, Any]], kappas: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, float]]:
    """Mean AP and mean precision at k of the revisited Oxford and Paris sets, at three difficulties.

    Definition: easy: easy images are positives, hard ones junk; medium: easy and hard ones are positives; hard: hard
    ones are positives, easy ones junk. Junk is removed from the ranking; positives are then at ranks r_1 < ... < r_R.
    AP = 1/R * sum of ((i-1)/(r_i-1) + i/r_i) / 2, the first quotient 1 if r_i = 1 (trapezoids under the
    curve). P@k is the precision of the first min(k, r_R). Each is averaged over queries. Radenovic et al., CVPR 2018.
    The numbers are equal to those of the authors' `compute_map`.

    Edge case: a query without positives at a difficulty is left out of that difficulty, as in the authors' code.

    Example:
        Image 2 is easy, 0 hard, 1 junk, 3 a negative. At difficulty easy, without 1 and 0, image 2 has rank 2, after
        3: AP = (0/1 + 1/2) / 2, and one of the first two images is right.

        >>> gnd = [{"easy": [2], "hard": [0], "junk": [1]}]
        >>> evaluate_revisited([[1, 0, 3, 2]], gnd, kappas=(1, 5))["easy"]
        {'mAP': 0.25, 'mP@1': 0.0, 'mP@5': 0.5}

    Args:
        ranks: `(num_queries, num_gallery)`, each row the full ordering of the gallery, best first; or an iterator over
            blocks of them.
        gnd: For each query a dict of gallery indices by `easy`, `hard` and `junk`; other keys (`bbx`) are ignored.
        kappas: The cut-offs of P@k.

    Returns:
        `{"easy": {"mAP": .., "mP@k": ..}, "medium": .., "hard": ..}`, with an mP for each of `kappas`, in their order.

    Raises:
        TypeError: If `ranks`, `kappas` or the lists in `gnd` don't hold integers.
        ValueError: If ranks don't hold every gallery image exactly once, `gnd` has another number of queries, lacks a
            list, or names an image twice or outside the gallery, a cut-off is below 1, or no query has a positive at
            a difficulty.
    """
    check_cutoffs("kappas", kappas)
    judged = judge_by_difficulty(ranks, gnd)
    return {
        difficulty: _trapezoid_metrics(
            find_positives(judged, positive, junk, what=f"a positive at difficulty {difficulty}"), kappas
        )
        for difficulty, (positive, junk) in _DIFFICULTIES.items()
    }


def _trapezoid_metrics(positives: Positives, kappas: Sequence[int]) -> dict[str, float]:
    rank, nth = positives.rank, positives.nth
    before = np.where(rank == 1, 1, (nth - 1) / np.maximum(rank - 1, 1))
    metrics = {"mAP": positives.mean_of((before + nth / rank) / 2, nth[positives.last])}
    for k in kappas:
        depth = np.minimum(rank[positives.last], k)
        metrics[f"mP@{k}"] = positives.mean_of(rank <= depth[positives.query], depth)
    return metrics
