"""A benchmark's judgement of the images in a ranking, and the ranks of the images to be found once junk is removed.

A rule judges every image: it is to be found, or it is junk, which is ignored, or it is a negative, as nearly all of a
gallery. Only the places of the first two are kept, so that full orderings can be handled in blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rankings import RankBlocks, full_orderings, label_codes

NEGATIVE = np.int8(0)
SAME_CAMERA = np.int8(1)
OTHER_CAMERA = np.int8(2)
EASY = np.int8(1)
HARD = np.int8(2)
JUNK = np.int8(3)

_LISTS = {"easy": EASY, "hard": HARD, "junk": JUNK}


@dataclass(frozen=True)
class Judged:
    """The ranked images that are not negatives, ordered by query and rank.

    Attributes:
        query: `(n,)`, ascending.
        position: `(n,)`, the place in the query's ranking, from 0, ascending within a query.
        judgement: `(n,)`, never `NEGATIVE`.
    """

    query: NDArray[np.int64]
    position: NDArray[np.int64]
    judgement: NDArray[np.int8]


@dataclass(frozen=True)
class Positives:
    """The images to be found, with their ranks once junk is removed.

    Queries without any are left out and the others are numbered again, so each has at least one.

    Attributes:
        query: `(n,)`, ascending from 0 without gaps.
        rank: `(n,)`, from 1, ascending within a query.
        nth: `(n,)`, the number of the query's positives in the ranking up to this one, itself included.
    """

    query: NDArray[np.int64]
    rank: NDArray[np.int64]
    nth: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """`(num_queries,)`: index of each query's best ranked positive."""
        return np.flatnonzero(self.nth == 1)

    @property
    def last(self) -> NDArray[np.int64]:
        """`(num_queries,)`: index of each query's worst ranked positive; its `nth` is the number of positives."""
        return np.append(self.first[1:], len(self.nth)) - 1

    def mean_of(self, values: NDArray[Any], divisors: NDArray[np.int64]) -> float:
        """Sum `values` `(n,)` within each query, divide by its divisor `(num_queries,)`, and average over queries."""
        return float((np.bincount(self.query, weights=values) / divisors).mean())


def judge_by_camera(
    ranks: ArrayLike | RankBlocks,
    query_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike,
) -> Judged:
    """Find the images of the query's vehicle, and say whether the query's own camera took them.

    Example:
        >>> judge_by_camera([[2, 0, 1]], [5], [1], [5, 6, 5], [1, 1, 2])
        Judged(query=array([0, 0]), position=array([0, 1]), judgement=array([2, 1], dtype=int8))

    Args:
        ranks: `(num_queries, num_gallery)` full orderings, or an iterator over blocks of them.
        query_ids: `(num_queries,)`.
        query_cameras: `(num_queries,)`.
        gallery_ids: `(num_gallery,)`.
        gallery_cameras: `(num_gallery,)`.

    Returns:
        Judgements `SAME_CAMERA` and `OTHER_CAMERA`.

    Raises:
        TypeError: If ranks aren't integers, or ids or cameras are not integers or strings.
        ValueError: If shapes disagree, the gallery lacks a query's vehicle, or ranks don't hold every gallery image
            exactly once.
    """
    query_codes, gallery_codes = label_codes(query_ids, gallery_ids, "ids")
    query_cameras, gallery_cameras = label_codes(query_cameras, gallery_cameras, "cameras")
    for role, ids, cameras in (("query", query_codes, query_cameras), ("gallery", gallery_codes, gallery_cameras)):
        if len(ids) != len(cameras):
            raise ValueError(f"{role}_ids name {len(ids)} images, but {role}_cameras {len(cameras)}")
    absent = np.flatnonzero(~np.isin(query_codes, gallery_codes))
    if absent.size:
        query = absent[0]
        raise ValueError(
            f"the gallery has no image of vehicle {np.asarray(query_ids)[query].item()!r}, which query {query} shows "
            f"({absent.size} such queries): pass the whole gallery, and the same ids for both"
        )

    def judgements() -> Iterator[NDArray[np.int8]]:
        for block, orders in full_orderings(ranks, len(query_codes), len(gallery_codes)):
            same_id = gallery_codes == query_codes[block, np.newaxis]
            same_camera = gallery_cameras == query_cameras[block, np.newaxis]
            judgement = np.where(same_id, np.where(same_camera, SAME_CAMERA, OTHER_CAMERA), NEGATIVE)
            yield np.take_along_axis(judgement, orders, axis=1)

    return _without_negatives(judgements())


def judge_by_difficulty(ranks: ArrayLike | RankBlocks, gnd: Sequence[Mapping[str, Any]]) -> Judged:
    """Find the images that the ground truth of the revisited sets calls easy, hard or junk.

    Example:
        >>> judge_by_difficulty([[2, 0, 1]], [{"easy": [0], "hard": [], "junk": [2]}])
        Judged(query=array([0, 0]), position=array([0, 1]), judgement=array([3, 1], dtype=int8))

    Args:
        ranks: `(num_queries, num_gallery)` full orderings, or an iterator over blocks of them.
        gnd: For each query a dict of gallery indices by `easy`, `hard` and `junk`.

    Returns:
        Judgements `EASY`, `HARD` and `JUNK`.

    Raises:
        TypeError: If ranks or indices aren't integers.
        ValueError: If ranks don't hold every gallery image exactly once, or `gnd` is empty, lacks a key, or names an
            image twice or outside the gallery.
    """
    if not len(gnd):
        raise ValueError("gnd is empty: it must hold one dict for each query")
    named = [_named_images(query, lists) for query, lists in enumerate(gnd)]

    def judgements() -> Iterator[NDArray[np.int8]]:
        for block, orders in full_orderings(ranks, len(named)):
            judgement = np.full(orders.shape, NEGATIVE)
            for row, (images, judged_as) in enumerate(named[block]):
                if images.size and images.max() >= orders.shape[1]:
                    raise ValueError(
                        f"gnd[{block.start + row}] names image {images.max()}, but the rankings hold "
                        f"{orders.shape[1]} images, 0 to {orders.shape[1] - 1}"
                    )
                judgement[row, images] = judged_as
            yield np.take_along_axis(judgement, orders, axis=1)

    return _without_negatives(judgements())


def _named_images(query: int, lists: Mapping[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """All images that one query's ground truth names, and its judgement of each."""
    missing = [name for name in _LISTS if name not in lists]
    if missing:
        raise ValueError(f"gnd[{query}] lacks {missing}: it must hold the lists {list(_LISTS)}")
    images = []
    for name in _LISTS:
        named = np.asarray(lists[name])
        if named.size and named.dtype.kind not in "iu":
            raise TypeError(f"gnd[{query}][{name!r}] must hold gallery indices (integers), got dtype {named.dtype}")
        if named.ndim != 1 or (named.size and named.min() < 0):
            raise ValueError(f"gnd[{query}][{name!r}] must be a list of gallery indices from 0, got {lists[name]!r}")
        images.append(named.astype(np.int64))
    joined = np.concatenate(images)
    distinct, counts = np.unique(joined, return_counts=True)
    if len(distinct) < len(joined):
        raise ValueError(
            f"gnd[{query}] names image {distinct[counts > 1][0]} twice: an image is either easy, hard or junk"
        )
    return joined, np.repeat(np.array(list(_LISTS.values())), [len(part) for part in images])


def judge_predictions(
    predictions: Mapping[str, Sequence[str]], solution: Mapping[str, Sequence[str]], k: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find the relevant images among the first k predictions of each query; an image counts only once.

    Example:
        >>> judge_predictions({"q": ["x", "x", "y"]}, {"q": ["x", "y"]}, k=3)
        (array([[ True, False,  True]]), array([2]))

    Args:
        predictions: For each query id the ids of gallery images, best first.
        solution: For each query id the ids of all relevant gallery images.
        k: How many predictions count.

    Returns:
        `(num_queries, k)` hits and `(num_queries,)` numbers of relevant images, both in the order of `solution`.

    Raises:
        TypeError: If an id is not a string, or a value is not a list.
        ValueError: If `solution` is empty or lacks a query of the predictions, or a query of it has no relevant image
            or one twice.
    """
    _check_id_lists("solution", solution)
    _check_id_lists("predictions", predictions)
    if not solution:
        raise ValueError("solution is empty: it must hold the relevant images of at least one query")
    unknown = [query for query in predictions if query not in solution]
    if unknown:
        raise ValueError(f"predictions hold {len(unknown)} queries that solution lacks, first {unknown[0]!r}")
    hits = np.zeros((len(solution), k), dtype=bool)
    for row, (query, relevant) in zip(hits, solution.items(), strict=True):
        unseen = set(relevant)
        if len(unseen) < max(len(relevant), 1):
            raise ValueError(
                f"solution of query {query!r} must name at least one image, and none twice, got {list(relevant)}: "
                "leave out queries with nothing to find"
            )
        for position, image in enumerate(predictions.get(query, ())[:k]):
            row[position] = image in unseen
            unseen.discard(image)
    return hits, np.array([len(relevant) for relevant in solution.values()])


def _check_id_lists(name: str, lists: Mapping[str, Sequence[str]]) -> None:
    for query, images in lists.items():
        if not isinstance(query, str):
            raise TypeError(f"{name} must have query ids (strings) as keys, got {query!r}")
        if isinstance(images, str) or not isinstance(images, Sequence | np.ndarray):
            raise TypeError(f"{name} of query {query!r} must be a list of image ids, got {images!r}")
        for image in images:
            if not isinstance(image, str):
                raise TypeError(f"{name} of query {query!r} must hold image ids (strings), got {image!r}")


def _without_negatives(judgements: Iterable[NDArray[np.int8]]) -> Judged:
    """Keep the places of all images except negatives, from blocks whose rows are in the order of the rankings."""
    queries, positions, kept, done = [], [], [], 0
    for judgement in judgements:
        query, position = np.nonzero(judgement)
        queries.append(query + done)
        positions.append(position)
        kept.append(judgement[query, position])
        done += len(judgement)
    return Judged(np.concatenate(queries), np.concatenate(positions), np.concatenate(kept))


def find_positives(judged: Judged, positive: Sequence[np.int8], junk: Sequence[np.int8], *, what: str) -> Positives:
    """Remove junk from the rankings, and give the new ranks of the images to be found.

    Example:
        Junk is at rank 1, positives are at ranks 2 and 4, which become 1 and 3.

        >>> judged = Judged(np.array([0, 0, 0]), np.array([0, 1, 3]), np.array([JUNK, EASY, EASY]))
        >>> find_positives(judged, positive=[EASY], junk=[JUNK], what="an easy image").rank
        array([1, 3])

    Args:
        judged: The judgements of the ranked images.
        positive: Judgements of images to be found.
        junk: Judgements of images to be ignored.
        what: What error messages call a positive.

    Raises:
        ValueError: If no query has anything to find.
    """
    is_positive = np.isin(judged.judgement, positive)
    if not is_positive.any():
        raise ValueError(f"there is nothing to find: no query has {what} in the gallery")
    nth = _running_count(judged.query, is_positive)[is_positive]
    junk_above = _running_count(judged.query, np.isin(judged.judgement, junk))[is_positive]
    query = np.unique(judged.query[is_positive], return_inverse=True)[1]
    return Positives(query, judged.position[is_positive] + 1 - junk_above, nth)


def _running_count(query: NDArray[np.int64], flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the flags up to each entry, itself included, from 0 again for each query."""
    totals = np.cumsum(flags)
    first_of_query = np.searchsorted(query, query)
    counts: NDArray[np.int64] = totals - (totals - flags)[first_of_query]
    return counts
