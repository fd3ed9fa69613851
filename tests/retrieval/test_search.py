"""The order of `search` is exact, and nothing but the embeddings decides it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunnet_hf.retrieval import search as search_module
from prunnet_hf.retrieval.embedding_table import Embeddings
from prunnet_hf.retrieval.search import GRID, exact_cosines, normalize, order, order_reference, search, search_blocks


def slow_search(queries, gallery, k, exclude=None):
    """Python integers and a plain sort: exact, and obviously in the order promised."""
    queries, gallery = (
        [[int(x) for x in row] for row in normalize(embeddings) / np.float32(GRID)]
        for embeddings in (queries, gallery)
    )
    ranks = []
    for i, query in enumerate(queries):
        similarities = [sum(a * b for a, b in zip(query, image, strict=True)) for image in gallery]
        allowed = [j for j in range(len(gallery)) if exclude is None or j != exclude[i]]
        ranks.append(sorted(allowed, key=lambda j: (-similarities[j], j))[:k])
    return ranks


def clustered(seed, num_images, dim, num_distinct):
    """Embeddings with many exact duplicates, and copies scaled by powers of two."""
    rng = np.random.default_rng(seed)
    distinct = rng.standard_normal((num_distinct, dim)).astype(np.float32)
    return distinct[rng.integers(num_distinct, size=num_images)] * 2.0 ** rng.integers(
        -3, 4, size=(num_images, 1)
    ).astype(np.float32)


def test_nearest_first_and_equals_by_gallery_index():
    gallery = np.array([[0, 1], [1, 1], [2, 0], [5, 5], [-1, 0]], dtype=np.float32)
    # Cosines with (1, 0): 0, 0.707, 1, 0.707, -1.
    assert search(np.array([[3, 0]], dtype=np.float32), gallery).tolist() == [[2, 1, 3, 0, 4]]


def test_k_keeps_the_best():
    gallery = np.array([[0, 1], [1, 1], [2, 0]], dtype=np.float32)
    assert search(np.array([[1, 0], [0, 1]], dtype=np.float32), gallery, 2).tolist() == [[2, 1], [0, 1]]


def test_excluded_image_is_never_retrieved():
    embeddings = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert search(embeddings, embeddings, exclude=np.arange(3)).tolist() == [[1, 2], [0, 2], [0, 1]]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(2, 30),
    dim=st.integers(1, 9),
    num_distinct=st.integers(1, 30),
    leave_out=st.booleans(),
    data=st.data(),
)
def test_equals_the_slow_search(seed, num_images, dim, num_distinct, leave_out, data):
    embeddings = clustered(seed, num_images, dim, num_distinct)
    exclude = np.arange(num_images) if leave_out else None
    k = data.draw(st.integers(1, num_images - leave_out))
    found = search(embeddings, embeddings, k, exclude=exclude, block_size=data.draw(st.integers(1, 40)))
    assert found.dtype == np.int64
    assert found.tolist() == slow_search(embeddings, embeddings, k, exclude)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_distinct=st.sampled_from([1, 3, 40, 900]), leave_out=st.booleans())
def test_faiss_candidates_give_the_same_ranks_as_the_full_ordering(seed, num_distinct, leave_out):
    gallery = clustered(seed, 900, 16, num_distinct)  # large enough for faiss; ties run across every cut-off
    queries = gallery[:33]
    exclude = np.arange(33) if leave_out else None
    expected = search(queries, gallery, exclude=exclude)[:, :7]
    assert search_module._faiss_serves(search_module._first_fetch(7), len(gallery))
    for block_size in (1, 8, 19, 20, 33):
        np.testing.assert_array_equal(search(queries, gallery, 7, exclude=exclude, block_size=block_size), expected)


def test_faiss_candidates_equal_the_slow_search():
    gallery = clustered(0, 700, 5, 60)
    assert search(gallery[:4], gallery, 11).tolist() == slow_search(gallery[:4], gallery, 11)


@pytest.mark.parametrize("k", [None, 10])
def test_result_does_not_depend_on_block_size(k):
    rng = np.random.default_rng(1)
    # So close together that float32 arithmetic can't tell which are the best ten, nor the best hundred.
    gallery = (1 + 1e-5 * rng.standard_normal((1500, 256))).astype(np.float32)
    queries = gallery[:60]
    expected = search(queries, gallery)[:, :k]
    for block_size in (1, 7, 32, 59):
        np.testing.assert_array_equal(search(queries, gallery, k, block_size=block_size), expected)


def test_mathematical_ties_are_ties():
    rng = np.random.default_rng(6)
    # Cosine with (1, 1, ..., 1) is the same whatever the order of the components, but a floating-point sum isn't.
    gallery = rng.permuted(np.tile(rng.standard_normal(256).astype(np.float32), (1500, 1)), axis=1)
    queries = np.ones((3, 256), dtype=np.float32)
    np.testing.assert_array_equal(search(queries, gallery), np.tile(np.arange(1500), (3, 1)))
    np.testing.assert_array_equal(search(queries, gallery, 10), np.tile(np.arange(10), (3, 1)))


def test_result_does_not_depend_on_where_an_image_stands_in_the_gallery():
    rng = np.random.default_rng(2)
    gallery = (1 + 1e-4 * rng.standard_normal((300, 64))).astype(np.float32)
    moved = rng.permutation(300)
    cosines = exact_cosines(normalize(gallery[:5]), normalize(gallery))
    np.testing.assert_array_equal(exact_cosines(normalize(gallery[:5]), normalize(gallery[moved])), cosines[:, moved])


def test_blocks_cover_all_queries_in_order():
    embeddings = clustered(3, 10, 4, 10)
    blocks = list(search_blocks(embeddings, embeddings, 3, block_size=4))
    assert [(block.start, block.stop) for block, _ in blocks] == [(0, 4), (4, 8), (8, 10)]
    np.testing.assert_array_equal(np.concatenate([ranks for _, ranks in blocks]), search(embeddings, embeddings, 3))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 300), distinct=st.integers(1, 300))
def test_order_equals_its_reference(seed, columns, distinct):
    rng = np.random.default_rng(seed)
    levels = np.rint(rng.uniform(-1.0001, 1.0001, distinct) / GRID**2) * GRID**2
    levels[0] = -2.0  # what an excluded image gets
    similarities = levels[rng.integers(distinct, size=(3, columns))]
    np.testing.assert_array_equal(order(similarities), order_reference(similarities))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 300), distinct=st.integers(1, 300), data=st.data())
def test_best_columns_are_the_first_of_the_order(seed, columns, distinct, data):
    levels = np.random.default_rng(seed).integers(-(2**44), 2**44, size=distinct) * GRID**2
    similarities = levels[np.random.default_rng(seed + 1).integers(distinct, size=(3, columns))]
    k = data.draw(st.integers(1, columns))
    found = search_module._best_columns(similarities, k)
    np.testing.assert_array_equal(found, order_reference(similarities)[:, :k])


def test_order_of_more_columns_than_fit_an_integer():
    columns = 2**17 + 3
    similarities = np.tile(np.array([0.25, 0.5]), columns)[np.newaxis, :columns]
    expected = np.concatenate([np.arange(1, columns, 2), np.arange(0, columns, 2)])
    np.testing.assert_array_equal(order(similarities)[0], expected)


def test_normalize_is_within_half_a_grid_step_of_the_unit_vector():
    embeddings = np.random.default_rng(4).standard_normal((50, 32)).astype(np.float32) * 1e3
    exact = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    unit = normalize(embeddings)
    assert unit.dtype == np.float32
    assert np.abs(unit - exact).max() <= GRID / 2 + 1e-15
    assert np.array_equal(unit, np.rint(unit / GRID) * GRID)


def test_normalize_treats_each_row_alone():
    embeddings = np.random.default_rng(5).standard_normal((9000, 19)).astype(np.float32)
    unit = normalize(np.asfortranarray(embeddings))
    for row in (0, 1, 8191, 8192, 8999):
        np.testing.assert_array_equal(normalize(embeddings[row : row + 1])[0], unit[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_embedding_is_named(bad):
    embeddings = np.ones((4, 3), dtype=np.float32)
    embeddings[2, 1] = bad
    with pytest.raises(ValueError, match=r"gallery row 2.*length (nan|inf)"):
        search(np.ones((1, 3), dtype=np.float32), embeddings)


def test_zero_embedding_is_named():
    embeddings = np.ones((9000, 3), dtype=np.float32)
    embeddings[8999] = 0
    with pytest.raises(ValueError, match=r"queries row 8999.*length 0\.0"):
        search(embeddings, np.ones((1, 3), dtype=np.float32))


ONES = np.ones((3, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": ONES.astype(np.int64)}, TypeError, r"queries.*array.*floats.*dtype int64"),
        ({"queries": ONES[0]}, ValueError, r"queries.*\(n, dim\).*got shape \(2,\)"),
        ({"gallery": ONES[:0]}, ValueError, r"gallery.*got shape \(0, 2\)"),
        ({"gallery": ONES[:, :1]}, ValueError, r"queries.*dimension 2.*gallery 1"),
        ({"k": 0}, ValueError, r"^k.*1.*3 images.*0"),
        ({"k": 4}, ValueError, r"^k.*1.*3 images.*4"),
        ({"k": 3, "exclude": np.arange(3)}, ValueError, r"^k.*1.*2 images.*3"),
        ({"k": 1.0}, TypeError, r"^k.*integer.*None.*1\.0"),
        ({"exclude": np.zeros(3)}, TypeError, r"exclude.*gallery.*dtype float64"),
        ({"exclude": np.arange(2)}, ValueError, r"exclude.*shape \(3,\).*\(2,\)"),
        ({"exclude": np.array([0, 3, 1])}, ValueError, r"exclude\[1\].*3: gallery.*0.*2"),
        ({"exclude": np.array([0, 1, -1])}, ValueError, r"exclude\[2\].*-1"),
        ({"gallery": ONES[:1], "exclude": np.zeros(3, int)}, ValueError, r"gallery.*exclude.*nothing to retrieve"),
        ({"block_size": 0}, ValueError, r"block_size.*positive integer.*0"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        search(**{"queries": ONES, "gallery": ONES, **arguments})


def test_embeddings_that_know_their_space_are_searched_like_arrays():
    queries, gallery = clustered(0, 3, 4, 3), clustered(1, 9, 4, 9)
    found = search(Embeddings(queries, "3f9a", 0.2), Embeddings(gallery, "3f9a", 1.0), 5)
    assert found.tolist() == search(queries, gallery, 5).tolist()


def test_two_spaces_are_not_compared_though_dimensions_agree():
    array = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"space '3f9a'.*space '77aa'.*compared"):
        search(Embeddings(array, "3f9a", 1.0), Embeddings(array, "77aa", 1.0))


def test_an_array_beside_embeddings_is_of_a_space_that_nobody_knows():
    array = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"gallery.*Embeddings.*space '3f9a'.*side.*array"):
        search(array, Embeddings(array, "3f9a", 1.0))
    with pytest.raises(TypeError, match=r"queries.*Embeddings.*Pass.*Embeddings\(array"):
        search(Embeddings(array, "3f9a", 1.0), array)
