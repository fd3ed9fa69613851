"""Protocols: which images count, and which numbers are reported.

A protocol is a function of the query embeddings, the gallery embeddings, and what the data set says of the query and
the gallery images besides their pixels (labels, cameras, whatever its rule needs); it returns metrics by name, in
[0, 1], the headline first. Row i of the embeddings belongs to row i of the columns. Queries and gallery may come from
two different subnetworks of one model. A data set names its protocol, and `resolve_protocol` finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import average_precision
from .metrics import count_relevant
from .search import search_blocks

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, Sequence[Any]]
"""What a data set says of its images besides their pixels: one value an image under each name."""

RetrievalProtocol = Callable[[NDArray[np.float32], NDArray[np.float32], Columns, Columns], dict[str, float]]
"""`(query_embeddings, gallery_embeddings, query_columns, gallery_columns) -> {metric: value}`."""

_QUERIES_AT_A_TIME = 128
"""Full orderings are long: few at a time stay in cache from the search to the metrics."""


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


_PROTOCOLS: dict[str, RetrievalProtocol] = {"leave_one_out": leave_one_out}


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


def read_columns(dataset: Dataset) -> Columns:
    """Read all columns that aren't images, without decoding an image.

    Args:
        dataset: Query or gallery images with their labels and whatever else the protocol needs.

    Returns:
        The columns as lists, by name.
    """
    from datasets import Image  # here, because whoever only reads results needs no data sets

    names = [name for name, feature in dataset.features.items() if not isinstance(feature, Image)]
    columns: Columns = dataset.select_columns(names).with_format(None)[:]
    return columns


def _column(role: str, columns: Columns, name: str, num_embeddings: int) -> NDArray[Any]:
    if name not in columns:
        raise ValueError(f"{role}_columns lack {name!r}, which the protocol needs: they hold {sorted(columns)}")
    column = np.asarray(columns[name])
    if column.shape != (num_embeddings,):
        raise ValueError(
            f"{role}_columns[{name!r}] has shape {column.shape}, but there are {num_embeddings} {role} embeddings: "
            "each image needs one value and one embedding"
        )
    return column
