"""Which ranked images count, and where that leaves those to be found."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from prunnet_hf.retrieval import judgements
from prunnet_hf.retrieval.judgements import (
    EASY,
    HARD,
    JUNK,
    OTHER_CAMERA,
    SAME_CAMERA,
    Judged,
    find_positives,
    judge_by_camera,
    judge_by_difficulty,
    judge_predictions,
)


def as_triples(judged):
    return list(zip(judged.query.tolist(), judged.position.tolist(), judged.judgement.tolist(), strict=True))


def test_examples_in_docstrings():
    outcome = doctest.testmod(judgements)
    assert outcome.attempted >= 5
    assert outcome.failed == 0


def test_judged_by_camera():
    # Gallery: 0 is vehicle a by camera 1, 1 is a by camera 2, 2 is b by camera 1.
    judged = judge_by_camera([[1, 2, 0], [0, 1, 2]], ["a", "b"], [1, 2], ["a", "a", "b"], [1, 2, 1])
    # Query 0 (a by camera 1) meets 1, 2, 0; query 1 (b by camera 2) meets b by camera 1 last.
    assert as_triples(judged) == [(0, 0, OTHER_CAMERA), (0, 2, SAME_CAMERA), (1, 2, OTHER_CAMERA)]


def test_judged_by_difficulty():
    gnd = [{"easy": [3], "hard": [1], "junk": [0]}, {"easy": [], "hard": [], "junk": [2], "bbx": [1.0, 2.0]}]
    judged = judge_by_difficulty([[0, 1, 2, 3], [3, 2, 1, 0]], gnd)
    assert as_triples(judged) == [(0, 0, JUNK), (0, 1, HARD), (0, 3, EASY), (1, 1, JUNK)]


def test_junk_is_taken_out_of_each_query_alone():
    # Query 0: junk, positive, junk, negative, positive: ranks 2 and 5 become 1 and 3.
    # Query 1: junk only, left out. Query 2: negative, positive: rank 2, whatever junk other queries had.
    judged = Judged(
        np.array([0, 0, 0, 0, 1, 2]),
        np.array([0, 1, 2, 4, 0, 1]),
        np.array([JUNK, EASY, JUNK, HARD, JUNK, EASY]),
    )
    positives = find_positives(judged, [EASY, HARD], [JUNK], what="a positive")
    assert positives.query.tolist() == [0, 0, 1]
    assert positives.rank.tolist() == [1, 3, 2]
    assert positives.nth.tolist() == [1, 2, 1]
    assert positives.first.tolist() == [0, 2]
    assert positives.last.tolist() == [1, 2]
    # Sums 1 + 2 and 5, divided by 2 and 1, averaged: (1.5 + 5) / 2.
    assert positives.mean_of(np.array([1, 2, 5]), np.array([2, 1])) == 3.25


def test_a_judgement_that_is_neither_positive_nor_junk_keeps_its_rank():
    judged = Judged(np.array([0, 0]), np.array([0, 1]), np.array([HARD, EASY]))
    assert find_positives(judged, [EASY], [JUNK], what="a positive").rank.tolist() == [2]


def test_nothing_to_find_is_refused():
    judged = Judged(np.array([0]), np.array([0]), np.array([JUNK]))
    with pytest.raises(ValueError, match=r"find.*query.*easy image.*gallery"):
        find_positives(judged, [EASY], [JUNK], what="an easy image")


def test_predictions_are_judged_in_the_order_of_the_solution():
    predictions = {"q": ["y", "x", "x", "z"], "p": ["z", "y"]}
    hits, num_relevant = judge_predictions(predictions, {"p": ["y"], "none": ["x"], "q": ["x", "z"]}, k=3)
    # p finds y second; nothing was predicted for the next; q finds x second, not again third, and z behind the cut.
    assert hits.tolist() == [[False, True, False], [False, False, False], [False, True, False]]
    assert num_relevant.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"query_ids": [5, 7, 8]},
            r"gallery.*image.*vehicle 7.*query 1.*.2 such queries.: pass.*gallery",
        ),
        ({"query_cameras": [1, 1]}, r"query_ids.*3 images.*query_cameras 2"),
        ({"gallery_cameras": [1, 1, 1]}, r"gallery_ids.*2 images.*gallery_cameras 3"),
        ({"ranks": [[0, 1], [1, 0]]}, r"ranks.*\(3, k\)"),
        ({"ranks": [[0, 1], [1, 0], [1, 1]]}, r"ranks.*query 2.*gallery image 1"),
        ({"ranks": [[0], [1], [1]]}, r"ranks.*gallery.*k=None"),
    ],
)
def test_bad_input_by_camera_is_refused(changed, message):
    good = {
        "ranks": [[0, 1], [0, 1], [0, 1]],
        "query_ids": [5, 5, 6],
        "query_cameras": [1, 1, 1],
        "gallery_ids": [5, 6],
        "gallery_cameras": [2, 2],
    }
    judge_by_camera(**good)
    with pytest.raises(ValueError, match=message):
        judge_by_camera(**{**good, **changed})


def test_cameras_must_be_exact():
    with pytest.raises(TypeError, match=r"query_cameras.*float64.*integers.*strings"):
        judge_by_camera([[0]], [1], [0.5], [1], [2])


@pytest.mark.parametrize(
    ("gnd", "error", "message"),
    [
        ([], ValueError, r"gnd.*empty"),
        ([{"easy": [0], "junk": []}], ValueError, r"gnd\[0\] lacks \['hard'\]:"),
        ([{"easy": [0.0], "hard": [], "junk": []}], TypeError, r"gnd\[0\]\['easy'\].*dtype float64"),
        ([{"easy": [], "hard": 1, "junk": []}], ValueError, r"gnd\[0\]\['hard'\].*list.*1"),
        ([{"easy": [], "hard": [], "junk": [-1]}], ValueError, r"gnd\[0\]\['junk'\].*0.*\[-1\]"),
        ([{"easy": [0, 0], "hard": [], "junk": []}], ValueError, r"gnd\[0\].*image 0 twice"),
        ([{"easy": [0], "hard": [1], "junk": [1]}], ValueError, r"gnd\[0\].*image 1 twice.*either easy, hard"),
        (
            [{"easy": [0], "hard": [], "junk": [2]}],
            ValueError,
            r"gnd\[0\].*image 2.*2 images, 0.*1",
        ),
        ([{"easy": [0], "hard": [], "junk": []}] * 2, ValueError, r"ranks.*\(2, k\)"),
    ],
)
def test_bad_ground_truth_is_refused(gnd, error, message):
    with pytest.raises(error, match=message):
        judge_by_difficulty([[0, 1]], gnd)


def test_ground_truth_of_a_later_block_is_named_by_its_query():
    gnd = [{"easy": [0], "hard": [], "junk": []}, {"easy": [2], "hard": [], "junk": []}]
    blocks = [(slice(0, 1), np.array([[0, 1]])), (slice(1, 2), np.array([[0, 1]]))]
    with pytest.raises(ValueError, match=r"gnd\[1\].*image 2"):
        judge_by_difficulty(iter(blocks), gnd)


@pytest.mark.parametrize(
    ("predictions", "solution", "error", "message"),
    [
        ({}, {}, ValueError, r"solution.*empty"),
        ({"z": ["x"], "y": []}, {"q": ["x"]}, ValueError, r"predictions.*2 queries.*solution.*'z'"),
        ({}, {"q": []}, ValueError, r"solution.*query 'q'.*image.*none twice.*\[\]"),
        ({}, {"q": ["x", "x"]}, ValueError, r"solution.*query 'q'.*none twice.*\['x', 'x'\]"),
        ({"q": "xyz"}, {"q": ["x"]}, TypeError, r"predictions.*query 'q'.*list.*image ids.*'xyz'"),
        ({"q": {"x"}}, {"q": ["x"]}, TypeError, r"predictions.*query 'q'.*list.*image ids.*{'x'}"),
        ({"q": [1]}, {"q": ["x"]}, TypeError, r"predictions.*query 'q'.*image ids \(strings\).*1"),
        ({1: ["x"]}, {"q": ["x"]}, TypeError, r"predictions.*query ids \(strings\).*keys.*1"),
        ({}, {"q": [1]}, TypeError, r"solution.*query 'q'.*image ids"),
        ({}, {"q": "x"}, TypeError, r"solution.*query 'q'.*list.*image ids.*'x'"),
    ],
)
def test_bad_predictions_are_refused(predictions, solution, error, message):
    with pytest.raises(error, match=message):
        judge_predictions(predictions, solution, 100)
