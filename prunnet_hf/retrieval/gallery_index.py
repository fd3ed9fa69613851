"""faiss indices of unit embeddings, whose ids are the rows of a gallery: made, grown, and cut down."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

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
POINTS_A_CLUSTER = 39
"""So many vectors for each cluster faiss recommends for training."""
SAMPLE_A_CLUSTER = 64
LEAST_SAMPLE = 65_536
"""What a quantiser of 256 values, and a rotation before it, take of a sample at most."""
CLUSTERS_OF_A_ROTATION = 256
"""So many clusters each part of a vector has while faiss finds the rotation of `OPQ`."""

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
        ValueError: If faiss doesn't know it, can't make it of these vectors, or needs more to train it.
    """
    index = empty_index(vectors.shape[1], factory)
    try:
        train_index(index, vectors, factory)
        index.add(vectors)
    except RuntimeError as error:
        raise ValueError(
            f"factory={factory!r} is refused by faiss for these {len(vectors)} images ({_reason(error)}). Choose "
            "another one; 'Flat' takes any number."
        ) from error
    return index


def check_factory(factory: str, dim: int, count: Callable[[], int]) -> None:
    """Refuse a string that faiss doesn't know, or that needs more images, before images are embedded for it.

    Args:
        factory: As in `build_index`, or `"auto"`.
        dim: The length of the embeddings.
        count: Gives the number of images; called only if the index has to be trained.

    Raises:
        ValueError: If faiss doesn't know the factory string, or it needs more images to be trained.
    """
    if factory == AUTO:
        return
    index = empty_index(dim, factory)
    needed = _most_clusters(index)
    if needed and not index.is_trained and count() < needed:
        raise _too_few(factory, needed, count())


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
    if isinstance(index, faiss.IndexIDMap):
        raise ValueError(
            f"factory={factory!r} would number images itself; a gallery's are numbered by their rows. Leave out "
            "'IDMap' or 'IDMap2'."
        )
    set_parameters(index, default_parameters(index))
    return index


def train_index(index: Any, vectors: Vectors, factory: str) -> None:
    """Train an index on a sample, if it has to be trained; a sample that is small for it is said once, in the log.

    Raises:
        ValueError: If the sample is too small.
    """
    if index.is_trained:
        return
    _quieten(index)
    rotation = _part(index, faiss.OPQMatrix)
    if rotation is not None:
        quantizer = faiss.ProductQuantizer(rotation.d_out, rotation.M, 8)  # what it would make itself, but quiet
        quantizer.cp.min_points_per_centroid = 1
        rotation.pq = quantizer
    try:
        index.train(vectors)
    except RuntimeError as error:
        needed = re.search(r"number of clusters \((\d+)\)", str(error))
        if needed is None:
            raise
        raise _too_few(factory, int(needed[1]), len(vectors)) from error
    finally:
        if rotation is not None:
            rotation.pq = None  # it doesn't own it
    clusters = _most_clusters(index)
    if len(vectors) < POINTS_A_CLUSTER * clusters:
        logger.warning(
            "The index %r is trained on %d images; from %d on, it finds more of what an exact search does. 'Flat' "
            "needs no training.",
            factory,
            len(vectors),
            POINTS_A_CLUSTER * clusters,
        )


def sample_size(index: Any) -> int:
    """How many vectors to train an index on: more would take longer, and find hardly more afterwards."""
    return 0 if index.is_trained else max(SAMPLE_A_CLUSTER * _most_clusters(index), LEAST_SAMPLE)


def _too_few(factory: str, needed: int, count: int) -> ValueError:
    return ValueError(
        f"factory={factory!r} needs at least {needed} images to be trained; there are {count}. Add images, or choose "
        "a smaller one; 'Flat' needs no training."
    )


def _quieten(index: Any) -> None:
    """Keep faiss from warning once for each clustering."""
    for settings, _ in _clusterings(index):
        settings.min_points_per_centroid = 1


def _most_clusters(index: Any) -> int:
    """How many clusters the largest clustering has that trains this index; it needs as many images. 0 without one."""
    rotated = [CLUSTERS_OF_A_ROTATION] if _part(index, faiss.OPQMatrix) is not None else []
    return max([count for _, count in _clusterings(index)] + rotated, default=0)


def _clusterings(index: Any) -> Iterator[tuple[Any, int]]:
    """The settings of each clustering that trains this index, and how many clusters it has."""
    for part in _parts(index):
        if isinstance(part, faiss.IndexIVF):
            yield part.cp, part.nlist
        quantizer = getattr(part, "pq", None)
        if isinstance(quantizer, faiss.ProductQuantizer):
            yield quantizer.cp, quantizer.ksub


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


def changed_index(index: Any, removed: Sequence[int], added: Vectors, all_then: Callable[[], Vectors | None]) -> Any:
    """An index that lacks some rows and has others at its end; unchanged if anything goes wrong.

    Args:
        index: Changed in place if it can do that. Otherwise one that is trained in the same way is filled again.
        removed: The rows to remove; the others are numbered again.
        added: Vectors to add after them.
        all_then: Gives all vectors that the index is to have; None if they aren't known.

    Returns:
        The index, or None if it can't be changed without the vectors.
    """
    if not len(removed) or _removes(index):
        try:
            index.add(added)
        except RuntimeError:  # of some kinds, such as NSG, which are built once
            pass
        else:
            if len(removed):
                _remove(index, removed)
            return index
    vectors = all_then()
    if vectors is None:
        return None
    again = faiss.clone_index(index)
    again.reset()
    again.add(vectors)
    return again


def _removes(index: Any) -> bool:
    """Whether rows can be removed in place."""
    if _part(index, faiss.IndexRefine) is not None:
        return False
    try:
        index.remove_ids(faiss.IDSelectorBatch(np.empty(0, dtype=np.int64)))
    except RuntimeError:
        return False
    return True


def _remove(index: Any, removed: Sequence[int]) -> None:
    total = index.ntotal
    index.remove_ids(faiss.IDSelectorBatch(np.asarray(removed, dtype=np.int64)))
    inverted = _part(index, faiss.IndexIVF)
    if inverted is not None:  # the others number the rows again themselves
        left = np.ones(total, dtype=bool)
        left[list(removed)] = False
        _renumber(inverted.invlists, np.cumsum(left) - 1)


def _renumber(lists: Any, places: NDArray[np.int64]) -> None:
    """Replace each id in inverted lists by its place."""
    for number in range(lists.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids[:] = places[ids]


def stored_vectors(index: Any) -> Vectors | None:
    """The vectors of an index that holds them exactly, until it is changed; None if it doesn't."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexHNSW):
        index = faiss.downcast_index(index.storage)
    if isinstance(index, faiss.IndexRefine):
        index = faiss.downcast_index(index.refine_index)
    if not isinstance(index, faiss.IndexFlat):
        return None
    if not index.ntotal:
        return np.empty((0, index.d), dtype=np.float32)
    vectors: Vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    return vectors


def _part(index: Any, kind: type[Any]) -> Any:
    """The part of this kind of an index that may be wrapped; None if it has none."""
    return next((part for part in _parts(index) if isinstance(part, kind)), None)


def _parts(index: Any) -> Iterator[Any]:
    """An index, and the transforms and indices inside it, the outermost first."""
    index = faiss.downcast_index(index)
    yield index
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain  # its stubs take it for a list
        for place in range(chain.size()):
            yield faiss.downcast_VectorTransform(chain.at(place))
        yield from _parts(index.index)
    elif isinstance(index, faiss.IndexRefine):
        yield from _parts(index.base_index)
        yield from _parts(index.refine_index)
    elif isinstance(index, faiss.IndexHNSW):
        yield from _parts(index.storage)


def _reason(error: Exception) -> str:
    """What faiss says, without the place in its source."""
    return str(error).strip().splitlines()[0].rpartition(": ")[2][:200]
