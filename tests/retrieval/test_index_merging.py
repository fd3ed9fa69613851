"""Indices filled apart and joined, and which can't be."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from prunnet_hf.retrieval.gallery_index import empty_index, train_index
from prunnet_hf.retrieval.index_merging import check_mergeable, merge_index, training_digest

VECTORS = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
MERGEABLE = ["Flat", "SQ8", "PQ4x4np", "IVF4,Flat", "IVF4_HNSW8,SQ8", "PCA4,IVF4,Flat", "IVF4,PQ4x4np,RFlat"]


def trained(factory: str) -> faiss.Index:
    index = empty_index(8, factory)
    train_index(index, VECTORS, factory)
    return index


@pytest.mark.parametrize("factory", MERGEABLE)
def test_joined_parts_are_the_bytes_of_one_index(factory: str) -> None:
    one, base, parts = trained(factory), trained(factory), [trained(factory) for _ in range(3)]
    check_mergeable(base, factory)
    assert base.ntotal == 0
    learned = training_digest(base)
    for part, vectors in zip(parts, np.split(VECTORS, [100, 101]), strict=True):
        one.add(vectors)
        part.add(vectors)
        merge_index(base, part)
        assert (part.ntotal, training_digest(part)) == (0, learned)
    np.testing.assert_array_equal(faiss.serialize_index(base), faiss.serialize_index(one))


@pytest.mark.parametrize("factory", ["HNSW8", "NSG8"])
def test_graphs_cannot_be_joined(factory: str) -> None:
    with pytest.raises(ValueError, match=f"factory='{factory}'.*can't merge.*one machine.*IVF"):
        check_mergeable(empty_index(8, factory), factory)


def test_indices_of_two_kinds_cannot_be_joined() -> None:
    base, part = trained("IVF4,Flat"), trained("IVF8,Flat")
    with pytest.raises(ValueError, match="faiss can't merge them"):
        merge_index(base, part)


def test_another_training_has_another_digest() -> None:
    other = empty_index(8, "IVF4,Flat")
    train_index(other, VECTORS[:50], "IVF4,Flat")
    assert training_digest(other) != training_digest(trained("IVF4,Flat"))
