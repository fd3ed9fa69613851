"""Protocols: which images count, and which numbers are reported.

A protocol is a function of the query embeddings, the gallery embeddings, and what the data set says of the query and
the gallery images besides their pixels (labels, cameras, whatever its rule needs); it returns metrics by name, in
[0, 1], the headline first. Row i of the embeddings belongs to row i of the columns. Queries and gallery may come from
two different subnetworks of one model. A data set names its protocol, and `resolve_protocol` finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import evaluate_gldv2, evaluate_in_shop, evaluate_revisited, evaluate_veri
from .rankings import average_precision, count_relevant
from .search import search, search_blocks

Columns = Mapping[str, Sequence[Any]]
"""What a data set says of its images besides their pixels: one value an image under each name."""

RetrievalProtocol = Callable[[NDArray[np.float32], NDArray[np.float32], Columns, Columns], dict[str, float]]
"""`(query_embeddings, gallery_embeddings, query_columns, gallery_columns) -> {metric: value}`."""

_QUERIES_AT_A_TIME = 128
"""Full orderings are long: few at a time stay in cache from the search to the metrics."""

_IN_SHOP_CUTOFFS = (1, 2, 4, 8, 10, 20, 30)
_GLDV2_CUTOFF = 100
_SHOWN = 5


def leave_one_out(
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    query_columns: Columns,
    gallery_columns: Columns,
) -> dict[str, float]:
    """Each image is a query against all others: the test for sets without a query and a gallery of their own.

    Query and gallery are the same images in the same order, embedded once by each of two networks. The query's own
    image is left out of the gallery even then: it would be found at once, and say nothing.

    Args:
        query_embeddings: `(n, dim)`.
        gallery_embeddings: `(n, dim)`, of the same images.
        query_columns: Needs `label`.
        gallery_columns: Needs the same `label`.

    Returns:
        `{"mAP": .., "recall@1": ..}`, in [0, 1]; mAP over the full ordering.

    Raises:
        ValueError: If query and gallery are not the same images, a column is missing or has another length than its
            embeddings, a class has one image only, or an embedding is non-finite or zero.
    """
    labels = _column("query", query_columns, "label", len(query_embeddings))
    if not np.array_equal(labels, _column("gallery", gallery_columns, "label", len(gallery_embeddings))):
        raise ValueError(
            "protocol 'leave_one_out' compares the images of one set with each other, but query and gallery differ in "
            "their labels: pass the same data set as both, or choose a protocol with a separate gallery"
        )
    itself = np.arange(len(labels))
    num_relevant = count_relevant(labels, labels, exclude=itself)
    precisions, found_first = np.empty(len(labels)), np.empty(len(labels), dtype=bool)
    for block, ranks in search_blocks(
        query_embeddings, gallery_embeddings, exclude=itself, block_size=_QUERIES_AT_A_TIME
    ):
        hits = labels[ranks] == labels[block, np.newaxis]
        precisions[block] = average_precision(hits, num_relevant[block])
        found_first[block] = hits[:, 0]
    return {"mAP": float(precisions.mean()), "recall@1": float(found_first.mean())}


def in_shop(
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    query_columns: Columns,
    gallery_columns: Columns,
) -> dict[str, float]:
    """Recall at 1, 2, 4, 8, 10, 20 and 30 of In-shop Clothes Retrieval, by `metrics.evaluate_in_shop`.

    Args:
        query_embeddings: `(num_queries, dim)`.
        gallery_embeddings: `(num_gallery, dim)`.
        query_columns: Needs `label`.
        gallery_columns: Needs `label`, numbered alike.

    Returns:
        `{"recall@1": .., ...}`, in [0, 1], without the cut-offs that a smaller gallery doesn't reach.

    Raises:
        ValueError: If a column is missing or has another length than its embeddings, a query has nothing to find, or
            an embedding is non-finite or zero.
    """
    query_labels = _column("query", query_columns, "label", len(query_embeddings))
    gallery_labels = _column("gallery", gallery_columns, "label", len(gallery_embeddings))
    ks = [k for k in _IN_SHOP_CUTOFFS if k <= len(gallery_labels)]
    ranks = search(query_embeddings, gallery_embeddings, min(_IN_SHOP_CUTOFFS[-1], len(gallery_labels)))
    return evaluate_in_shop(ranks, query_labels, gallery_labels, ks)


def veri776(
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    query_columns: Columns,
    gallery_columns: Columns,
) -> dict[str, float]:
    """mAP, CMC@1, 5, 10 and mINP of VeRi-776, by `metrics.evaluate_veri`.

    Args:
        query_embeddings: `(num_queries, dim)`.
        gallery_embeddings: `(num_gallery, dim)`.
        query_columns: Needs `label` and `camera`.
        gallery_columns: Needs `label` and `camera`, numbered alike.

    Returns:
        `{"mAP": .., "CMC@1": .., ..., "mINP": ..}`, in [0, 1].

    Raises:
        ValueError: If a column is missing or has another length than its embeddings, the gallery lacks a query's
            vehicle, no query has anything to find, or an embedding is non-finite or zero.
    """
    return evaluate_veri(
        search_blocks(query_embeddings, gallery_embeddings, block_size=_QUERIES_AT_A_TIME),
        _column("query", query_columns, "label", len(query_embeddings)),
        _column("query", query_columns, "camera", len(query_embeddings)),
        _column("gallery", gallery_columns, "label", len(gallery_embeddings)),
        _column("gallery", gallery_columns, "camera", len(gallery_embeddings)),
    )


def gldv2(
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    query_columns: Columns,
    gallery_columns: Columns,
) -> dict[str, float]:
    """mAP@100 of Google Landmarks v2, by `metrics.evaluate_gldv2`.

    Args:
        query_embeddings: `(num_queries, dim)`.
        gallery_embeddings: `(num_gallery, dim)`.
        query_columns: Needs `id` and `relevant`, a list of gallery ids for each query.
        gallery_columns: Needs `id`.

    Returns:
        `{"mAP@100": ..}`, in [0, 1].

    Raises:
        TypeError: If an id is no string.
        ValueError: If a column is missing or has another length than its embeddings, an id is repeated, a relevant id
            isn't in the gallery, a query has nothing to find, or an embedding is non-finite or zero.
    """
    query_ids = _distinct("query", _rows("query", query_columns, "id", len(query_embeddings)))
    gallery_ids = _distinct("gallery", _rows("gallery", gallery_columns, "id", len(gallery_embeddings)))
    solution = dict(zip(query_ids, _rows("query", query_columns, "relevant", len(query_embeddings)), strict=True))
    in_gallery = set(gallery_ids)
    for query, relevant in solution.items():
        absent = [image for image in relevant if image not in in_gallery]
        if absent:
            raise ValueError(
                f"query {query!r} has {len(absent)} relevant ids that the gallery lacks, first {absent[:_SHOWN]}: "
                "without them mAP would come out wrong, so the gallery must be the whole index"
            )
    ranks = search(query_embeddings, gallery_embeddings, min(_GLDV2_CUTOFF, len(gallery_ids)))
    predictions = {query: [gallery_ids[image] for image in row] for query, row in zip(query_ids, ranks, strict=True)}
    return evaluate_gldv2(predictions, solution, _GLDV2_CUTOFF)


def revisited(
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    query_columns: Columns,
    gallery_columns: Columns,
) -> dict[str, float]:
    """The mAP and mP@1, 5, 10 of revisited Oxford or Paris at each difficulty, by `metrics.evaluate_revisited`.

    Args:
        query_embeddings: `(num_queries, dim)` of the queries cropped to their boxes.
        gallery_embeddings: `(num_gallery, dim)`.
        query_columns: Needs `easy`, `hard` and `junk`, lists of gallery rows for each query.
        gallery_columns: Needs nothing.

    Returns:
        `{"medium mAP": .., "hard mAP": .., "easy mAP": .., "medium mP@1": .., ...}`, in [0, 1].

    Raises:
        TypeError: If the lists don't hold integers.
        ValueError: If a column is missing or has another length than its embeddings, a query's lists name an image
            twice or outside the gallery, no query has anything to find at a difficulty, or an embedding is non-finite
            or zero.
    """
    lists = {name: _rows("query", query_columns, name, len(query_embeddings)) for name in ("easy", "hard", "junk")}
    gnd = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    blocks = search_blocks(query_embeddings, gallery_embeddings, block_size=_QUERIES_AT_A_TIME)
    found = evaluate_revisited(blocks, gnd)
    return {
        f"{difficulty} {metric}": found[difficulty][metric]
        for metric in found["medium"]
        for difficulty in ("medium", "hard", "easy")
    }


_PROTOCOLS: dict[str, RetrievalProtocol] = {
    protocol.__name__: protocol for protocol in (leave_one_out, in_shop, veri776, gldv2, revisited)
}


def resolve_protocol(name: str) -> RetrievalProtocol:
    """Return the protocol of this name.

    Args:
        name: What `RetrievalSplits.protocol` holds.

    Returns:
        The protocol.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in _PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown: choose one of {', '.join(sorted(_PROTOCOLS))}")
    return _PROTOCOLS[name]


def _column(role: str, columns: Columns, name: str, num_embeddings: int) -> NDArray[Any]:
    column = np.asarray(_rows(role, columns, name, num_embeddings))
    if column.ndim != 1:
        raise ValueError(f"{role}_columns[{name!r}] must hold one value an image, got shape {column.shape}")
    return column


def _rows(role: str, columns: Columns, name: str, num_embeddings: int) -> Sequence[Any]:
    if name not in columns:
        raise ValueError(f"{role}_columns lack {name!r}, which the protocol needs: they hold {sorted(columns)}")
    rows = columns[name]
    if len(rows) != num_embeddings:
        raise ValueError(
            f"{role}_columns[{name!r}] has {len(rows)} rows, but there are {num_embeddings} {role} embeddings: each "
            "image needs one value and one embedding"
        )
    return rows


def _distinct(role: str, ids: Sequence[str]) -> Sequence[str]:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{role}_columns['id'] hold {len(repeated)} ids more than once, {repeated[0]!r} the first")
    return ids
