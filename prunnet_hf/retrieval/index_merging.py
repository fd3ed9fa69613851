"""faiss indices that were trained as one and filled apart, joined into one."""

from __future__ import annotations

import hashlib
from typing import Any

import faiss
import numpy as np


def check_mergeable(index: Any, factory: str) -> None:
    """Refuse an index that can't be filled in parts, before it is filled.

    Args:
        index: Trained and empty.
        factory: Its factory string, for the error.

    Raises:
        ValueError: If faiss can't merge indices of this kind, such as HNSW.
    """
    base, part = faiss.clone_index(index), faiss.clone_index(index)
    try:
        part.add(np.eye(1, index.d, dtype=np.float32))
        _merge(base, part)
        part.reset()
        is_mergeable = base.ntotal == 1 and training_digest(part) == training_digest(index)
    except RuntimeError:
        is_mergeable = False
    if not is_mergeable:
        raise ValueError(
            f"factory={factory!r} is of a kind that faiss can't merge from parts: fill it on one machine, without "
            "--shard, or choose one with inverted lists, such as 'IVF4096,PQ32x8np'."
        )


def merge_index(base: Any, part: Any) -> None:
    """Move what a part holds to the end of `base`.

    Args:
        base: An index.
        part: Filled from the same trained, empty index; it is empty afterwards.

    Raises:
        ValueError: If faiss can't merge them.
    """
    total = base.ntotal + part.ntotal
    try:
        _merge(base, part)
    except RuntimeError as error:
        raise ValueError(f"faiss can't merge them ({' '.join(str(error).split())[-200:]})") from error
    part.reset()
    if base.ntotal != total:
        raise ValueError(f"faiss has merged {base.ntotal} of {total} images")


def training_digest(index: Any) -> str:
    """A digest of what an empty index has learned in training."""
    return hashlib.sha256(np.asarray(faiss.serialize_index(index)).tobytes()).hexdigest()[:16]


def _merge(base: Any, part: Any) -> None:
    # Under names of their own: faiss frees an index as soon as the object that made it is gone.
    into, other = faiss.downcast_index(base), faiss.downcast_index(part)
    if isinstance(into, faiss.IndexRefine) and isinstance(other, faiss.IndexRefine):  # faiss itself doesn't merge it
        _merge(into.base_index, other.base_index)
        _merge(into.refine_index, other.refine_index)
        into.ntotal = into.base_index.ntotal
        return
    has_ids = faiss.try_extract_index_ivf(into) is not None  # the others number rows by their places
    into.merge_from(other, into.ntotal if has_ids else 0)
