"""What the metrics stand on, by hand and against slow obvious versions."""

from __future__ import annotations

import doctest
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.retrieval import rankings
from prunnet_hf.retrieval.rankings import (
    average_precision,
    check_cutoffs,
    checked_ranks,
    count_relevant,
    expected_average_precision,
    find_hits,
    full_orderings,
    label_codes,
)


def slow_average_precision(relevances):
    """`relevances` of the whole ordering, best first."""
    hits, total = 0, 0.0
    for rank, relevant in enumerate(relevances, start=1):
        if relevant:
            hits += 1
            total += hits / rank
    return total / hits


def in_blocks(ranks, block_size):
    for start in range(0, len(ranks), block_size):
        rows = np.asarray(ranks[start : start + block_size])
        yield slice(start, start + len(rows)), rows


def test_examples_in_docstrings():
    outcome = doctest.testmod(rankings)
    assert outcome.attempted >= 6
    assert outcome.failed == 0


def test_average_precision_of_a_query_without_hits_among_others():
    hits = np.array([[False, False], [True, True], [False, False], [False, True]])
    # Query 1: (1/1 + 2/2) / 2. Query 3: its one image at rank 2.
    assert average_precision(hits, np.array([1, 2, 3, 1])).tolist() == [0, 1, 0, 0.5]


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9).filter(any), min_size=1, max_size=6))
def test_average_precision_equals_the_slow_one(hits):
    found = average_precision(np.array(hits), np.sum(hits, axis=1))
    assert found == pytest.approx([slow_average_precision(row) for row in hits], abs=1e-12)


@pytest.mark.parametrize("retrievable", range(1, 7))
def test_expected_average_precision_equals_the_mean_over_all_orders(retrievable):
    for num_relevant in range(1, retrievable + 1):
        relevances = [True] * num_relevant + [False] * (retrievable - num_relevant)
        orders = [slow_average_precision(order) for order in permutations(relevances)]
        found = expected_average_precision(np.array([num_relevant]), retrievable)[0]
        assert found == pytest.approx(sum(orders) / len(orders))


def test_hits_of_a_label_that_the_gallery_lacks():
    assert find_hits([[1, 0], [0, 1]], ["z", "b"], ["a", "b"]).tolist() == [[False, False], [False, True]]


def test_relevant_images_are_counted_without_the_excluded_one():
    labels = ["a", "a", "b", "a", "b"]
    # Gallery image 2 is not an a, so excluding it takes nothing from query 0.
    assert count_relevant(labels, labels, exclude=[2, 1, 2, 3, 4]).tolist() == [3, 2, 1, 2, 1]


def test_query_without_relevant_image_is_named():
    with pytest.raises(ValueError, match=r"query 1 \(label 'c'\).*relevant image.*gallery:"):
        count_relevant(["a", "c"], ["a", "b"])


def test_class_with_one_image_is_named_when_it_is_left_out():
    with pytest.raises(ValueError, match=r"query 2 \(label 5\).*relevant image.*gallery"):
        count_relevant([4, 4, 5], [4, 4, 5], exclude=[0, 1, 2])


@given(st.data())
def test_codes_are_equal_where_labels_are(data):
    some = data.draw(st.sampled_from([st.integers(-3, 3), st.sampled_from(["", "a", "ab", "b"])]))
    query_labels = data.draw(st.lists(some, min_size=1, max_size=5))
    gallery_labels = data.draw(st.lists(some, min_size=1, max_size=5))
    query_codes, gallery_codes = label_codes(query_labels, gallery_labels)
    found = query_codes[:, np.newaxis] == gallery_codes
    assert found.tolist() == [[query == image for image in gallery_labels] for query in query_labels]


@pytest.mark.parametrize(
    ("query_labels", "gallery_labels", "error", "message"),
    [
        ([[1], [2]], [1], ValueError, r"query_ids.*label.*image.*shape \(2, 1\)"),
        ([1], [], ValueError, r"gallery_ids.*label.*image.*shape \(0,\)"),
        (["1"], [1], TypeError, r"query_ids.*<U1.*gallery_ids int64.*kind"),
        ([0.5], [1], TypeError, r"query_ids.*float64.*gallery_ids int64.*integers.*strings"),
        ([None], [1], TypeError, r"query_ids.*object.*integers.*strings"),
    ],
)
def test_bad_labels_are_refused(query_labels, gallery_labels, error, message):
    with pytest.raises(error, match=message):
        label_codes(query_labels, gallery_labels, "ids")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_ranks_of_any_integers_become_int64(dtype):
    checked = checked_ranks(np.array([[2, 0]], dtype=dtype), 1, 3)
    assert checked.dtype == np.int64
    assert checked.tolist() == [[2, 0]]


@pytest.mark.parametrize(
    ("ranks", "error", "message"),
    [
        ([[0, 1, 1], [0, 1, 2]], ValueError, r"ranks.*query 10.*gallery image 1"),
        ([[0, 1, 2], [2, 1, 2]], ValueError, r"ranks.*query 11.*gallery image 2"),
        ([[0, 1, 2], [0, 1, 3]], ValueError, r"ranks.*query 11.*gallery.*0.*2"),
        ([[0, 1, -1], [0, 1, 2]], ValueError, r"ranks.*query 10.*gallery"),
        ([[0.0, 1.0], [1.0, 0.0]], TypeError, r"ranks.*gallery.*float64"),
        ([[True, False], [False, True]], TypeError, r"ranks.*gallery.*bool"),
        ([[0, 1, 2]], ValueError, r"ranks.*\(2, k\).*row.*query.*shape \(1, 3\)"),
        ([0, 1], ValueError, r"ranks.*\(2, k\).*shape \(2,\)"),
        ([[], []], ValueError, r"ranks.*\(2, k\).*shape \(2, 0\)"),
        ([[0, 1], [0]], ValueError, r"same number.*query"),
    ],
)
def test_bad_ranks_are_refused(ranks, error, message):
    with pytest.raises(error, match=message):
        checked_ranks(ranks, 2, 3, first_query=10)


@pytest.mark.parametrize(
    ("ks", "error", "message"),
    [
        ([], ValueError, r"^kappas.*cut-off.*\[\]"),
        ([1, 0], ValueError, r"^kappas.*1.*4 ranks.*query.*0"),
        ([1, 5], ValueError, r"^kappas.*1.*4 ranks.*query.*5"),
        ([2.0], TypeError, r"^kappas.*integers.*2\.0"),
        ([True], TypeError, r"^kappas.*integers.*True"),
    ],
)
def test_bad_cutoffs_are_refused(ks, error, message):
    with pytest.raises(error, match=message):
        check_cutoffs("kappas", ks, largest=4)


def test_any_cutoff_from_1_will_do_without_a_largest():
    check_cutoffs("k", [1, np.int64(10**9)])
    with pytest.raises(ValueError, match=r"^k .*1.*got 0"):
        check_cutoffs("k", [0])


@given(num_queries=st.integers(1, 300), block_size=st.integers(1, 300))
def test_blocks_hold_all_orderings_in_order(num_queries, block_size):
    rng = np.random.default_rng(num_queries)
    ranks = rng.permuted(np.tile(np.arange(3), (num_queries, 1)), axis=1)
    for given_ranks in (ranks, in_blocks(ranks, block_size)):
        blocks = list(full_orderings(given_ranks, num_queries, 3))
        assert [block.start for block, _ in blocks[1:]] == [block.stop for block, _ in blocks[:-1]]
        np.testing.assert_array_equal(np.concatenate([orders for _, orders in blocks]), ranks)


@pytest.mark.parametrize("num_gallery", [2, None])
@pytest.mark.parametrize(
    ("ranks", "error", "message"),
    [
        ([[0, 1], [1, 0], [1, 1]], ValueError, r"ranks.*query 2.*gallery image 1"),
        (
            [[0], [1], [0]],
            ValueError,
            r"gallery.*images 0.*1.*1.*query.*k=None",
        ),
        ([[0, 1], [1, 0]], ValueError, r"ranks.*\(3, k\)"),
        ([[0, 1], [1, 0], [-1, 0]], ValueError, r"ranks.*query 2.*gallery"),
        ([[0.0, 1.0]] * 3, TypeError, r"ranks.*gallery.*indices"),
    ],
)
def test_anything_but_full_orderings_is_refused(ranks, error, message, num_gallery):
    with pytest.raises(error, match=message):
        list(full_orderings(ranks, 3, num_gallery))


@pytest.mark.parametrize("num_gallery", [2, None])
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], r"ranks.*0 queries.*3"),
        ([(slice(0, 2), [[0, 1], [1, 0]])], r"ranks.*2 queries.*3"),
        ([(slice(0, 1), [[0, 1], [1, 0]])], r"ranks.*\(1, k\)"),
        (
            [(slice(0, 1), [[0, 1]]), (slice(1, 3), [[1, 0], [1, 1]])],
            r"ranks.*query 2.*gallery image 1",
        ),
        (
            [(slice(1, 3), [[0, 1], [1, 0]]), (slice(0, 1), [[0, 1]])],
            r"queries: expected query 0.*1",
        ),
        (
            [(slice(0, 2), [[0, 1], [1, 0]]), (slice(2, 3), [[0, 1, 2]])],
            r"gallery.*images 0.*1.*3.*query",
        ),
    ],
)
def test_bad_blocks_are_refused(blocks, message, num_gallery):
    with pytest.raises(ValueError, match=message):
        list(full_orderings(iter(blocks), 3, num_gallery))


def test_an_index_beyond_the_gallery_is_refused():
    with pytest.raises(ValueError, match=r"ranks.*query 0.*gallery.*0.*1"):
        list(full_orderings([[0, 2]], 1, 2))
    # Where only the rankings tell how large the gallery is, an index says that they are too short.
    with pytest.raises(ValueError, match=r"gallery.*images 0.*2.*2.*query"):
        list(full_orderings([[0, 2]], 1))
