"""The matrix of capacities as numbers, text and picture."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from prunnet_hf.retrieval import compatibility, spaces
from prunnet_hf.retrieval.compatibility import (
    CompatibilityResult,
    compatibility_matrix,
    format_matrix,
    format_tests,
    markdown_matrix,
    markdown_tests,
)
from prunnet_hf.retrieval.protocols import Side, leave_one_out

RESULTS = [
    CompatibilityResult(query, gallery, metric, value)
    for metric, values in (("mAP", (0.628, 0.623, 0.63, 0.638)), ("recall@1", (0.8, 0.9, 0.85, 1.0)))
    for (query, gallery), value in zip(((0.2, 0.2), (0.2, 1.0), (1.0, 0.2), (1.0, 1.0)), values, strict=True)
]


def test_users_find_check_compatible_here():
    assert compatibility.check_compatible is spaces.check_compatible


def test_matrix_holds_every_pair_and_metric():
    labels = {"label": [0, 0, 1, 1]}
    good = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)
    turned = good[::-1].copy()  # searches itself as well as ever, but points at the other class of `good`
    sides = {1.0: Side(good, labels), 0.2: Side(turned, labels)}
    results = [r for r in compatibility_matrix(leave_one_out, sides, sides) if r.metric in ("mAP", "recall@1")]
    # Across, the three others come with the partner last: 1/3.
    expected = [(0.2, 0.2, 1, 1), (0.2, 1.0, 1 / 3, 0), (1.0, 0.2, 1 / 3, 0), (1.0, 1.0, 1, 1)]
    assert [(r.query_capacity, r.gallery_capacity, r.metric) for r in results] == [
        (query, gallery, metric) for query, gallery, *_ in expected for metric in ("mAP", "recall@1")
    ]
    assert [r.value for r in results] == pytest.approx([value for _, _, *values in expected for value in values])


def test_matrix_passes_queries_and_gallery_apart():
    def sizes(query, gallery):
        return {"queries": len(query) / 10, "cameras": len(gallery.columns["camera"]) / 10}

    query = Side(np.ones((2, 3), np.float32), {})
    gallery = Side(np.ones((5, 3), np.float32), {"camera": [1, 2, 3, 4, 5]})
    results = compatibility_matrix(sizes, {0.2: query}, {1.0: gallery})
    assert results == [CompatibilityResult(0.2, 1.0, "queries", 0.2), CompatibilityResult(0.2, 1.0, "cameras", 0.5)]


def test_matrix_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"queries.*gallery"):
        compatibility_matrix(leave_one_out, {}, {})


def test_result_is_an_entry_of_metrics_json():
    entry = {"query_capacity": 0.2, "gallery_capacity": 0.2, "metric": "mAP", "value": 0.628}
    assert json.loads(json.dumps(asdict(RESULTS[0]))) == entry
    assert CompatibilityResult(**entry) == RESULTS[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": 62.8}, r"value.*'mAP'.*\[0, 1\].*percent.*62.8"),
        ({"value": float("nan")}, r"value.*'mAP'"),
        ({"query_capacity": 0}, r"query_capacity.*\(0, 1\].*0"),
        ({"gallery_capacity": 1.5}, "gallery_capacity"),
    ],
)
def test_impossible_result_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        CompatibilityResult(**{**asdict(RESULTS[0]), **changed})


def test_format_matrix():
    assert format_matrix(RESULTS, "mAP").splitlines() == [
        "mAP (%)         gallery capacity",
        "query capacity     0.20   1.00",
        "          0.20     62.8   62.3",
        "          1.00     63.0   63.8",
    ]


def test_format_matrix_sorts_and_marks_what_is_missing():
    results = [CompatibilityResult(1.0, 1.0, "mAP", 1.0), CompatibilityResult(0.05, 0.2, "mAP", 0.0)]
    assert format_matrix(results, "mAP").splitlines()[1:] == [
        "query capacity     0.20   1.00",
        "          0.05      0.0      -",
        "          1.00        -  100.0",
    ]


def test_markdown_matrix():
    assert markdown_matrix(RESULTS, "recall@1").splitlines() == [
        "| query \\ gallery | 0.20 | 1.00 |",
        "|---|---:|---:|",
        "| **0.20** | 80.0 | 90.0 |",
        "| **1.00** | 85.0 | 100.0 |",
    ]


def test_format_tests():
    assert format_tests(RESULTS).splitlines() == [
        "(%)           capacity     mAP  recall@1",
        "self-test         0.20    62.8      80.0",
        "self-test         1.00    63.8     100.0",
        "cross-test        0.20    62.3      90.0",
        "cross-test        1.00    63.8     100.0",
    ]


def test_markdown_tests_mark_what_is_missing():
    results = [CompatibilityResult(0.05, 1.0, "mAP", 0.5), CompatibilityResult(0.05, 1.0, "mINP", 0.25)]
    assert markdown_tests([*results, CompatibilityResult(1.0, 1.0, "mAP", 0.75)]).splitlines() == [
        "| (%) | capacity | mAP | mINP |",
        "|---|---:|---:|---:|",
        "| self-test | 0.05 | - | - |",
        "| self-test | 1.00 | 75.0 | - |",
        "| cross-test | 0.05 | 50.0 | 25.0 |",
        "| cross-test | 1.00 | 75.0 | - |",
    ]


@pytest.mark.parametrize("lay_out", [format_tests, markdown_tests])
def test_tests_of_nothing_are_refused(lay_out):
    with pytest.raises(ValueError, match=r"results.*value"):
        lay_out([])


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(ValueError, match=r"metric 'mINP'.*mAP, recall@1"):
        format_matrix(RESULTS, "mINP")


def test_two_runs_mixed_are_refused():
    with pytest.raises(ValueError, match=r"'mAP' twice.*query capacity 0\.20.*gallery capacity 0\.20"):
        markdown_matrix([*RESULTS, RESULTS[0]], "mAP")
