"""Protocols: which images count, and which numbers are reported.

A protocol is a function of two sides, the queries and the gallery: their embeddings, and what the data set says of
each image apart from its pixels (labels, cameras, whatever the rule needs). It returns metrics by name, in [0, 1], the
headline first. The two sides may come from two different subnetworks of one model. A data set names its protocol, and
`resolve_protocol` finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import LEAVE_ONE_OUT, evaluate_gldv2, evaluate_in_shop, evaluate_revisited, evaluate_veri
from .rankings import count_relevant
from .search import check_table, search, search_blocks, without_direction

Columns = Mapping[str, Sequence[Any]]
"""What a data set says of its images apart from their pixels: under each name, one value for each image."""


@dataclass(frozen=True, eq=False)
class Side:
    """The queries or the gallery of a test. Row i of the embeddings belongs to row i of each column.

    Attributes:
        embeddings: `(n, dim)` floats, all finite, of any length.
        columns: n values under each name.

    Raises:
        TypeError: If `embeddings` aren't floats.
        ValueError: If `embeddings` have another shape, are empty or not finite, or a column has another length.
    """

    embeddings: NDArray[np.float32]
    columns: Columns

    def __post_init__(self) -> None:
        """Check what would give wrong figures later."""
        embeddings = check_table(self.embeddings, "embeddings")
        # Not `isfinite` of everything, which takes a quarter of the memory of the embeddings again.
        if not np.isfinite([embeddings.min(), embeddings.max()]).all():
            row = int(np.argmin(np.isfinite(embeddings).all(axis=1)))
            raise without_direction("embeddings", row, float(np.linalg.norm(embeddings[row])))
        for name, values in self.columns.items():
            if len(values) != len(embeddings):
                raise ValueError(
                    f"columns[{name!r}] has {len(values)} rows, but there are {len(embeddings)} embeddings: each "
                    "image needs one value and one embedding"
                )

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        return f"Side({len(self):,} images, {self.embeddings.shape[1]} dimensions, columns {list(self.columns)})"


RetrievalProtocol = Callable[[Side, Side], dict[str, float]]
"""`(query, gallery) -> {metric: value}`."""

_QUERIES_AT_A_TIME = 128
"""Full orderings are long: a few at a time stay in cache from the search to the metrics."""

_IN_SHOP_CUTOFFS = (1, 2, 4, 8, 10, 20, 30)
_GLDV2_CUTOFF = 100
_SHOWN = 5


def leave_one_out(query: Side, gallery: Side) -> dict[str, float]:
    """Each image is a query against all others: the test for data sets without separate queries and gallery.

    Query and gallery are the same images in the same order, embedded by one network or by two. The query's own image
    is always left out of the gallery, as it would be found at once.

    Args:
        query: Needs the column `label`.
        gallery: Needs the same `label`, of the same images.

    Returns:
        The means of `metrics.LEAVE_ONE_OUT`, `{"mAP": .., "recall@1": ..}`, in [0, 1], over the full ordering.

    Raises:
        ValueError: If query and gallery are not the same images, a column is missing, a class has one image only,
            or an embedding is zero.
    """
    labels = _column("query", query, "label")
    if not np.array_equal(labels, _column("gallery", gallery, "label")):
        raise ValueError(
            "protocol 'leave_one_out' compares the images of one set with each other, but query and gallery differ in "
            "their labels: pass the same data set as both, or choose a protocol with a separate gallery"
        )
    return _over_full_orderings(query, gallery, labels, labels, exclude=np.arange(len(labels)))


def same_image(query: Side, gallery: Side) -> dict[str, float]:
    """Each query is to find its own image: the test for images without classes, embedded by two networks.

    Args:
        query: Needs the column `id`.
        gallery: Needs `id`, each only once.

    Returns:
        The means of `metrics.LEAVE_ONE_OUT`, `{"mAP": .., "recall@1": ..}`, in [0, 1]; with one image to find, mAP is
        the mean of 1 divided by its rank. If one network embedded both sides, they are 1.

    Raises:
        ValueError: If a column is missing, the gallery lacks a query's image or has an id twice, or an embedding is
            zero.
    """
    ids, there = _column("query", query, "id"), _column("gallery", gallery, "id")
    absent = set(ids.tolist()) - set(_distinct("gallery", there.tolist()))
    if absent:
        raise ValueError(f"gallery must have the image of each query; it lacks {len(absent)}, first {min(absent)!r}.")
    return _over_full_orderings(query, gallery, ids, there)


def _over_full_orderings(
    query: Side, gallery: Side, asked: NDArray[Any], there: NDArray[Any], exclude: NDArray[np.int64] | None = None
) -> dict[str, float]:
    """The means of `LEAVE_ONE_OUT`, where an answer is right if it is equal to what is asked for."""
    num_relevant = count_relevant(asked, there, exclude=exclude)
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in LEAVE_ONE_OUT}
    for block, ranks in search_blocks(
        query.embeddings, gallery.embeddings, exclude=exclude, block_size=_QUERIES_AT_A_TIME
    ):
        hits = there[ranks] == asked[block, np.newaxis]
        for name, metric in LEAVE_ONE_OUT.items():
            values[name].append(metric(hits, num_relevant[block]))
    return {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}


def in_shop(query: Side, gallery: Side) -> dict[str, float]:
    """Recall at 1, 2, 4, 8, 10, 20 and 30 of In-shop Clothes Retrieval, by `metrics.evaluate_in_shop`.

    Args:
        query: Needs the column `label`.
        gallery: Needs `label`, with the same numbers.

    Returns:
        `{"recall@1": .., ...}`, in [0, 1], without the cut-offs that a smaller gallery doesn't reach.

    Raises:
        ValueError: If a column is missing, a query has nothing to find, or an embedding is zero.
    """
    query_labels = _column("query", query, "label")
    gallery_labels = _column("gallery", gallery, "label")
    ks = [k for k in _IN_SHOP_CUTOFFS if k <= len(gallery_labels)]
    ranks = search(query.embeddings, gallery.embeddings, min(_IN_SHOP_CUTOFFS[-1], len(gallery_labels)))
    return evaluate_in_shop(ranks, query_labels, gallery_labels, ks)


def veri776(query: Side, gallery: Side) -> dict[str, float]:
    """mAP, CMC@1, 5, 10 and mINP of VeRi-776, by `metrics.evaluate_veri`.

    Args:
        query: Needs the columns `label` and `camera`.
        gallery: Needs `label` and `camera`, with the same numbers.

    Returns:
        `{"mAP": .., "CMC@1": .., ..., "mINP": ..}`, in [0, 1].

    Raises:
        ValueError: If a column is missing, the gallery lacks a query's vehicle, no query has anything to find, or an
            embedding is zero.
    """
    return evaluate_veri(
        search_blocks(query.embeddings, gallery.embeddings, block_size=_QUERIES_AT_A_TIME),
        _column("query", query, "label"),
        _column("query", query, "camera"),
        _column("gallery", gallery, "label"),
        _column("gallery", gallery, "camera"),
    )


def gldv2(query: Side, gallery: Side) -> dict[str, float]:
    """mAP@100 of Google Landmarks v2, by `metrics.evaluate_gldv2`.

    Args:
        query: Needs the columns `id` and `relevant`, a list of gallery ids for each query.
        gallery: Needs the column `id`.

    Returns:
        `{"mAP@100": ..}`, in [0, 1].

    Raises:
        TypeError: If an id is not a string.
        ValueError: If a column is missing, an id is repeated, a relevant id isn't in the gallery, a query has nothing
            to find, or an embedding is zero.
    """
    query_ids = _distinct("query", _rows("query", query, "id"))
    gallery_ids = _distinct("gallery", _rows("gallery", gallery, "id"))
    solution = dict(zip(query_ids, _rows("query", query, "relevant"), strict=True))
    in_gallery = set(gallery_ids)
    for query_id, relevant in solution.items():
        absent = [image for image in relevant if image not in in_gallery]
        if absent:
            raise ValueError(
                f"query {query_id!r} has {len(absent)} relevant ids that the gallery lacks, first {absent[:_SHOWN]}: "
                "without them mAP would come out wrong, so the gallery must be the whole index"
            )
    ranks = search(query.embeddings, gallery.embeddings, min(_GLDV2_CUTOFF, len(gallery_ids)))
    predictions = {name: [gallery_ids[image] for image in row] for name, row in zip(query_ids, ranks, strict=True)}
    return evaluate_gldv2(predictions, solution, _GLDV2_CUTOFF)


def revisited(query: Side, gallery: Side) -> dict[str, float]:
    """The mAP and mP@1, 5, 10 of revisited Oxford or Paris at each difficulty, by `metrics.evaluate_revisited`.

    Args:
        query: Cropped to its boxes. Needs the columns `easy`, `hard` and `junk`, lists of gallery rows for each query.
        gallery: Needs no column.

    Returns:
        `{"medium mAP": .., "hard mAP": .., "easy mAP": .., "medium mP@1": .., ...}`, in [0, 1].

    Raises:
        TypeError: If the lists don't hold integers.
        ValueError: If a column is missing, a query's lists name an image twice or outside the gallery, no query has
            anything to find at a difficulty, or an embedding is zero.
    """
    lists = {name: _rows("query", query, name) for name in ("easy", "hard", "junk")}
    gnd = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    blocks = search_blocks(query.embeddings, gallery.embeddings, block_size=_QUERIES_AT_A_TIME)
    found = evaluate_revisited(blocks, gnd)
    return {
        f"{difficulty} {metric}": found[difficulty][metric]
        for metric in found["medium"]
        for difficulty in ("medium", "hard", "easy")
    }


PROTOCOLS: dict[str, RetrievalProtocol] = {
    protocol.__name__: protocol for protocol in (leave_one_out, in_shop, veri776, gldv2, revisited, same_image)
}
"""Every protocol by the name that `RetrievalSplits.protocol` gives it."""


def resolve_protocol(name: str) -> RetrievalProtocol:
    """Return the protocol of this name.

    Args:
        name: What `RetrievalSplits.protocol` holds.

    Returns:
        The protocol.

    Raises:
        ValueError: If no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown: choose one of {', '.join(sorted(PROTOCOLS))}")
    return PROTOCOLS[name]


def _column(role: str, side: Side, name: str) -> NDArray[Any]:
    column = np.asarray(_rows(role, side, name))
    if column.ndim != 1:
        raise ValueError(f"column {name!r} of the {role} must hold one value for each image, got shape {column.shape}")
    return column


def _rows(role: str, side: Side, name: str) -> Sequence[Any]:
    if name not in side.columns:
        raise ValueError(
            f"the {role} lacks the column {name!r}, which the protocol needs: it has {sorted(side.columns)}"
        )
    return side.columns[name]


def _distinct(role: str, ids: Sequence[str]) -> Sequence[str]:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"column 'id' of the {role} holds {len(repeated)} ids more than once, first {repeated[0]!r}")
    return ids
