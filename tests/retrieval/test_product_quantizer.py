"""The torch view of a quantised index: faiss's scores, codes that stay, centroids that go back into the index."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from prunnet_hf.retrieval.product_quantizer import ProductQuantizer, own_space, unit

DIM, COUNT = 8, 300
SPACE = "0123456789abcdef"


def vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(factory: str = "OPQ4,PQ4x8np", metric: int = faiss.METRIC_INNER_PRODUCT) -> faiss.Index:
    """One of its own for each test; made once, as faiss takes a second to find a rotation."""
    return faiss.clone_index(made(factory, metric))


@cache
def made(factory: str, metric: int) -> faiss.Index:
    index = faiss.index_factory(DIM, factory, metric)
    index.train(vectors())
    index.add(vectors())
    return index


def codes_of(index: faiss.Index) -> bytes:
    inner = faiss.downcast_index(index.index)
    return faiss.vector_to_array(inner.codes).tobytes()


def everything(queries: np.ndarray) -> np.ndarray:
    return np.tile(np.arange(COUNT), (len(queries), 1))


@pytest.mark.parametrize("factory", ["OPQ4,PQ4x8np", "PQ2x8np", "OPQ2_4,PQ2x8np"])
def test_the_score_is_that_of_faiss(factory: str) -> None:
    index, queries = filled(factory), vectors(20, seed=1)
    quantizer = ProductQuantizer(index)
    found, rows = index.search(queries, COUNT)
    scores = quantizer.scores(torch.from_numpy(queries), rows, quantizer.centroids())
    np.testing.assert_allclose(scores.numpy(), found, rtol=0, atol=1e-5)


def test_the_score_is_the_inner_product_of_query_and_decoded_image() -> None:
    """One part of two dimensions, no rotation: code 3 stands for (0.5, -1), so (2, 1) scores 1 - 1 = 0."""
    index = faiss.IndexPQ(2, 1, 8, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    table = np.zeros((1, 256, 2), dtype=np.float32)
    table[0, 3], table[0, 4] = (0.5, -1.0), (1.0, 2.0)
    faiss.copy_array_to_vector(table.reshape(-1), index.pq.centroids)
    index.add(table[0, 3:5])
    quantizer = ProductQuantizer(index)
    assert quantizer.codes.tolist() == [[3], [4]]
    centroids = quantizer.centroids().requires_grad_()
    scores = quantizer.scores(torch.tensor([[2.0, 1.0]]), np.array([[0, 1]]), centroids)
    assert scores.tolist() == [[0.0, 4.0]]
    scores[0, 1].backward()
    assert centroids.grad is not None
    assert centroids.grad[0, 4].tolist() == [2.0, 1.0]  # the query
    assert int(centroids.grad.count_nonzero()) == 2


def test_written_centroids_take_effect_codes_stay_and_a_reloaded_file_ranks_alike(tmp_path: Path) -> None:
    index, queries = filled(), vectors(20, seed=1)
    quantizer, before = ProductQuantizer(index), codes_of(index)
    moved = quantizer.centroids() + 0.2 * torch.randn((4, 256, 2), generator=torch.Generator().manual_seed(0))
    old = quantizer.search(torch.from_numpy(queries), 10)
    quantizer.write(moved)
    assert torch.equal(quantizer.centroids(), moved)
    assert codes_of(index) == before
    found, rows = index.search(queries, COUNT)
    assert (rows[:, :10] != old).any()
    scores = quantizer.scores(torch.from_numpy(queries), rows, moved)
    np.testing.assert_allclose(scores.numpy(), found, rtol=0, atol=1e-5)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(again.search(queries, COUNT)[1], rows)
    assert codes_of(again) == before


def test_what_trains_queries_for_one_index_names_no_other() -> None:
    index = filled()
    space = own_space(index, SPACE)
    assert space is not None
    assert len(space) == 16
    assert space != SPACE
    assert own_space(filled(), SPACE) == space  # trained alike, it is the same
    assert own_space(index, "fedcba9876543210") != space
    quantizer = ProductQuantizer(index)
    quantizer.write(quantizer.centroids() * 1.001)
    assert own_space(index, SPACE) != space
    assert own_space(faiss.IndexFlatIP(DIM), SPACE) is None


def test_unit_queries_have_length_1() -> None:
    torch.testing.assert_close(unit(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))


def biased() -> faiss.Index:
    index = filled()
    transform = faiss.downcast_VectorTransform(index.chain.at(0))
    transform.have_bias = True
    faiss.copy_array_to_vector(np.ones(DIM, dtype=np.float32), transform.b)
    return index


def not_finite() -> faiss.Index:
    index = filled()
    quantizer = faiss.downcast_index(index.index).pq
    table = faiss.vector_to_array(quantizer.centroids)
    table[5] = np.nan
    faiss.copy_array_to_vector(table, quantizer.centroids)
    return index


REFUSED = {
    "by_residual": (lambda: filled("IVF2,PQ4x8np"), "by_residual"),
    "bias": (biased, "adds a bias"),
    "metric": (lambda: filled("PQ4x8np", faiss.METRIC_L2), "must compare by inner product"),
    "kind": (lambda: filled("Flat"), "must be of product quantisation"),
    "bits": (lambda: filled("PQ4x4np"), "codes of 8 bits"),
    "transforms": (lambda: made("L2norm,PQ4x8np", faiss.METRIC_INNER_PRODUCT), "it has NormalizationTransform"),
    "untrained": (lambda: faiss.index_factory(DIM, "PQ4x8np", faiss.METRIC_INNER_PRODUCT), "must be trained"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_indices_are_refused_with_what_to_do(case: str) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(ValueError, match=rf"^index.*{reason}.*prunnet quantize"):
        ProductQuantizer(make())


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"centroids must be finite; 1 of 2048 .* Make the index again"):
        ProductQuantizer(not_finite())
    quantizer = ProductQuantizer(filled())
    with pytest.raises(ValueError, match=r"centroids must be finite; 2048 of 2048 .* smaller learning rate"):
        quantizer.write(torch.full((4, 256, 2), torch.inf))
    with pytest.raises(ValueError, match=r"the shape \(4, 256, 2\) of the index; got \(4, 256, 3\)"):
        quantizer.write(torch.zeros(4, 256, 3))
