"""faiss indices of unit embeddings, whose ids are the rows of a gallery: made, grown, and cut down."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

AUTO = "auto"
LARGEST_FLAT = 200_000
"""Up to so many images exact search takes a few hundredths of a second."""
SHARE_OF_MEMORY = 0.25
"""The share of the machine's memory that a graph, which holds all embeddings, may take."""
BYTES_OF_LINKS = 300
"""What a graph of 32 links needs for each image besides its embedding."""
DIMENSIONS_A_BYTE = 4
"""How many dimensions `"auto"` quantises to one byte when memory is short."""
MOST_PROBED = 64

Vectors = NDArray[np.float32]


def choose_factory(count: int, dim: int) -> str:
    """The factory string that `"auto"` means for so many embeddings of this length on this machine.

    Exact search if there are few, a graph if all embeddings fit well into memory, otherwise quantised embeddings in
    inverted lists.
    """
    if count <= LARGEST_FLAT:
        return "Flat"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * (4 * dim + BYTES_OF_LINKS) <= SHARE_OF_MEMORY * memory:
        return "HNSW32"
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    bytes_each = max(divisor for divisor in range(1, dim // DIMENSIONS_A_BYTE + 1) if dim % divisor == 0)
    return f"IVF{lists},PQ{bytes_each}x8np"


def build_index(vectors: Vectors, factory: str) -> Any:
    """A trained index of these vectors.

    Args:
        vectors: `(n, dim)` of unit length.
        factory: faiss's factory string, such as `"Flat"`, `"HNSW32"` or `"IVF1024,PQ32"`.

    Raises:
        ValueError: If faiss doesn't know it, or it needs more vectors to be trained.
    """
    index = empty_index(vectors.shape[1], factory)
    train_index(index, vectors, factory)
    index.add(vectors)
    return index


def empty_index(dim: int, factory: str) -> Any:
    """An index that isn't trained yet.

    Raises:
        ValueError: If faiss doesn't know the factory string.
    """
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"factory={factory!r} is no index that faiss can make for embeddings of length {dim} "
            f"({_reason(error)}). 'Flat' is exact; 'HNSW32' and 'IVF1024,Flat' are fast; 'OPQ32,PQ32x8np' is small; "
            "'auto' chooses."
        ) from error
    set_parameters(index, default_parameters(index))
    return index


def train_index(index: Any, vectors: Vectors, factory: str) -> None:
    """Train an index on a sample, if it has to be trained.

    Raises:
        ValueError: If the sample is too small.
    """
    if index.is_trained:
        return
    try:
        index.train(vectors)
    except RuntimeError as error:
        needed = re.search(r"number of clusters \((\d+)\)", str(error))
        if needed is None:
            raise
        raise ValueError(
            f"factory={factory!r} needs at least {needed[1]} images to be trained; there are {len(vectors)}. Add "
            "images, or choose a smaller one; 'Flat' needs no training."
        ) from error


def default_parameters(index: Any) -> str:
    """Parameters of search that find most of what exact search would; faiss's own defaults are for speed only."""
    parameters = []
    if _part(index, faiss.IndexHNSW) is not None:
        parameters.append("efSearch=64")
    inverted = _part(index, faiss.IndexIVF)
    if inverted is not None:
        parameters.append(f"nprobe={min(MOST_PROBED, max(1, inverted.nlist // 8))}")
    if _part(index, faiss.IndexRefine) is not None:
        parameters.append("k_factor_rf=10")
    return ",".join(parameters)


def set_parameters(index: Any, parameters: str) -> None:
    """Set faiss's parameters of search, such as `"nprobe=16"`.

    Raises:
        ValueError: If this index has no such parameter.
    """
    if not parameters:
        return
    try:
        faiss.ParameterSpace().set_index_parameters(index, parameters)  # type: ignore[arg-type]  # its stubs err
    except RuntimeError as error:
        raise ValueError(
            f"parameters={parameters!r} don't suit this index ({_reason(error)}). Indices with IVF have nprobe, HNSW "
            "has efSearch, and Refine has k_factor_rf."
        ) from error


def without_rows(index: Any, removed: Sequence[int]) -> bool:
    """Remove rows from an index in place, and number the others again; returns False if it can't, unchanged."""
    if _part(index, faiss.IndexRefine) is not None:
        return False
    inverted, total = _part(index, faiss.IndexIVF), index.ntotal
    try:
        index.remove_ids(faiss.IDSelectorBatch(np.asarray(removed, dtype=np.int64)))
    except RuntimeError:
        return False
    if inverted is not None:  # the others number the rows again themselves
        left = np.ones(total, dtype=bool)
        left[list(removed)] = False
        _renumber(inverted.invlists, np.cumsum(left) - 1)
    return True


def _renumber(lists: Any, places: NDArray[np.int64]) -> None:
    """Replace each id in inverted lists by its place."""
    for number in range(lists.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids[:] = places[ids]


def stored_vectors(index: Any) -> Vectors | None:
    """The vectors of an index that holds them exactly; None if it doesn't."""
    if not isinstance(index, faiss.IndexFlat):
        return None
    vectors: Vectors = index.reconstruct_n(0, index.ntotal)
    return vectors


def _part(index: Any, kind: type[Any]) -> Any:
    """The part of this kind of an index that may be wrapped; None if it has none."""
    while True:
        index = faiss.downcast_index(index)
        if isinstance(index, kind):
            return index
        if isinstance(index, faiss.IndexPreTransform):
            index = index.index
        elif isinstance(index, faiss.IndexRefine):
            index = index.base_index
        else:
            return None


def _reason(error: Exception) -> str:
    """What faiss says, without the place in its source."""
    return str(error).strip().splitlines()[0].rpartition(": ")[2][:200]
