"""Metrics against arithmetic done by hand, and against slow obvious versions."""

from __future__ import annotations

import doctest
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.retrieval import metrics
from prunnet_hf.retrieval.metrics import average_precision
from prunnet_hf.retrieval.metrics import chance_mean_average_precision
from prunnet_hf.retrieval.metrics import count_relevant
from prunnet_hf.retrieval.metrics import expected_average_precision
from prunnet_hf.retrieval.metrics import mean_average_precision
from prunnet_hf.retrieval.metrics import recall_at_k


def slow_average_precision(relevances):
    """`relevances` of the whole ordering, best first."""
    hits, total = 0, Fraction(0)
    for rank, relevant in enumerate(relevances, start=1):
        if relevant:
            hits += 1
            total += Fraction(hits, rank)
    return total / hits


def test_examples_in_docstrings():
    outcome = doctest.testmod(metrics)
    assert outcome.attempted >= 7
    assert outcome.failed == 0


def test_mean_average_precision_by_hand():
    ranks = [[3, 0, 2, 1], [1, 0, 3, 2]]
    gallery_labels = [7, 8, 7, 8]
    # Query 7: images 0 and 2 at ranks 2 and 3: (1/2 + 2/3) / 2 = 7/12.
    # Query 8: images 1 and 3 at ranks 1 and 3: (1 + 2/3) / 2 = 10/12.
    assert mean_average_precision(ranks, [7, 8], gallery_labels) == pytest.approx(17 / 24)


def test_mean_average_precision_leaving_each_query_out():
    labels = ["a", "a", "a", "b", "b"]
    ranks = [[1, 2, 3, 4], [3, 0, 4, 2], [3, 4, 0, 1], [4, 0, 1, 2], [0, 3, 1, 2]]
    # 1; (1/2 + 2/4) / 2; (1/3 + 2/4) / 2; 1; 1/2. The query itself isn't counted as relevant.
    expected = (1 + 1 / 2 + 5 / 12 + 1 + 1 / 2) / 5
    assert mean_average_precision(ranks, labels, labels, exclude=np.arange(5)) == pytest.approx(expected)


def test_ranks_may_end_after_the_last_relevant_image():
    assert mean_average_precision([[2, 0]], [1], [1, 2, 2]) == pytest.approx(1 / 2)


def test_ranks_too_short_to_hold_all_relevant_images():
    with pytest.raises(ValueError, match=r"too short for mAP: query 1 has 2 relevant .* its 2 ranks hold 1"):
        mean_average_precision([[0, 1], [0, 1]], [1, 2], [1, 2, 2])


def test_self_forgotten_in_exclude_is_noticed():
    with pytest.raises(ValueError, match="too short for mAP: query 0"):
        mean_average_precision([[1], [0]], ["a", "a"], ["a", "a"])


def test_query_without_relevant_image_is_named():
    with pytest.raises(ValueError, match=r"query 1 \(label 'c'\) has no relevant image in the gallery: "):
        mean_average_precision([[0, 1], [0, 1]], ["a", "c"], ["a", "b"])


def test_class_with_one_image_is_named_when_it_is_left_out():
    with pytest.raises(ValueError, match=r"query 2 \(label 5\) has no relevant image in the gallery besides itself"):
        count_relevant([4, 4, 5], [4, 4, 5], exclude=[0, 1, 2])


@given(st.data())
def test_mean_average_precision_equals_the_slow_one(data):
    gallery_labels = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    query_labels = data.draw(st.lists(st.sampled_from(gallery_labels), min_size=1, max_size=6))
    ranks = [data.draw(st.permutations(range(len(gallery_labels)))) for _ in query_labels]
    slow = [
        slow_average_precision([gallery_labels[image] == label for image in row])
        for row, label in zip(ranks, query_labels, strict=True)
    ]
    found = mean_average_precision(ranks, query_labels, gallery_labels)
    assert found == pytest.approx(float(sum(slow) / len(slow)))
    assert 0 < found <= 1


def test_average_precision_of_a_query_without_hits_among_others():
    hits = np.array([[False, False], [True, True], [False, False], [False, True]])
    assert average_precision(hits, np.array([1, 2, 3, 1])).tolist() == [0, 1, 0, 0.5]


def test_recall_by_hand():
    ranks = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]]
    # First hits: query a at rank 1, a at 3, a at 2, and never for z.
    found = recall_at_k(ranks, ["a", "a", "a", "z"], ["a", "b", "c"], ks=(1, 2, 3))
    assert found == {"recall@1": 1 / 4, "recall@2": 2 / 4, "recall@3": 3 / 4}


@pytest.mark.parametrize("k", [0, 3])
def test_recall_beyond_the_ranks_is_refused(k):
    with pytest.raises(ValueError, match=f"ks must lie between 1 and the 2 ranks of each query, got {k}"):
        recall_at_k([[0, 1]], ["a"], ["a", "b"], ks=(1, k))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ranks": [[0, 1, 1], [0, 1, 2]]}, ValueError, "ranks of query 0 hold gallery image 1 more than once"),
        ({"ranks": [[0, 1, 2], [0, 1, 3]]}, ValueError, "ranks of query 1 leave the gallery, .* 0 to 2"),
        ({"ranks": [[0, 1, -1], [0, 1, 2]]}, ValueError, "ranks of query 0 leave the gallery"),
        ({"ranks": [[0.0, 1.0], [1.0, 0.0]]}, TypeError, "ranks must hold gallery indices .* float64"),
        ({"ranks": [[0, 1, 2]]}, ValueError, r"ranks must be \(2, k\), one row a query, got shape \(1, 3\)"),
        ({"ranks": [0, 1]}, ValueError, r"ranks must be \(2, k\)"),
        ({"query_labels": [[1], [2]]}, ValueError, "query_labels must hold one label an image"),
        ({"gallery_labels": []}, ValueError, "gallery_labels must hold one label an image, at least one"),
        ({"query_labels": ["1", "2"]}, TypeError, "query_labels are .* use one kind"),
        ({"exclude": [0, 1]}, ValueError, "ranks of query 0 hold gallery image 0, which exclude leaves out"),
        ({"exclude": [0]}, ValueError, "exclude must name one gallery index a query"),
        ({"exclude": [0, 9]}, ValueError, r"exclude\[1\] is 9"),
        ({"exclude": [0.0, 1.0]}, TypeError, "exclude must hold gallery indices"),
    ],
)
@pytest.mark.parametrize("metric", [mean_average_precision, recall_at_k])
def test_bad_input_is_refused(metric, changed, error, message):
    good = {"ranks": [[0, 1, 2], [0, 1, 2]], "query_labels": [1, 2], "gallery_labels": [1, 2, 2]}
    with pytest.raises(error, match=message):
        metric(**{**good, **changed})


@pytest.mark.parametrize("retrievable", range(1, 7))
def test_expected_average_precision_equals_the_mean_over_all_orders(retrievable):
    for num_relevant in range(1, retrievable + 1):
        relevances = [True] * num_relevant + [False] * (retrievable - num_relevant)
        orders = [slow_average_precision(order) for order in permutations(relevances)]
        found = expected_average_precision(np.array([num_relevant]), retrievable)[0]
        assert found == pytest.approx(float(sum(orders) / len(orders)))


def test_chance_averages_over_queries():
    # One relevant among three comes first, second or third: (1 + 1/2 + 1/3) / 3 = 11/18.
    # Two among three come at ranks 1 2, 1 3 or 2 3: (1 + 5/6 + 7/12) / 3 = 29/36.
    assert chance_mean_average_precision(["a", "b"], ["a", "b", "b"]) == pytest.approx((11 / 18 + 29 / 36) / 2)


def test_chance_is_what_random_orders_get():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 4)
    itself = np.arange(20)
    orders = [[rng.permutation(np.delete(itself, query)) for query in itself] for _ in range(200)]
    drawn = [mean_average_precision(ranks, labels, labels, exclude=itself) for ranks in orders]
    assert np.mean(drawn) == pytest.approx(chance_mean_average_precision(labels, labels, exclude=itself), abs=0.01)
