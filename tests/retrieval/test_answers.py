"""Right and ignored images of single queries, by each protocol's rule, by hand and against the protocols' figures."""

from __future__ import annotations

import numpy as np
import pytest

from prunnet_hf.retrieval.answers import ANSWERS, answers_of
from prunnet_hf.retrieval.protocols import PROTOCOLS, Columns, Side

SIGHTED = {"label": [5, 6, 5, 5], "camera": [1, 1, 2, 1]}
JUDGED = {"easy": [[0], []], "hard": [[3], [1]], "junk": [[2], []]}
CASES = {
    "leave_one_out": ({"label": [7, 8, 7, 8]}, {"label": [7, 8, 7, 8]}, 2, [0], [2]),
    "in_shop": ({"label": [8, 7]}, {"label": [7, 8, 7]}, 1, [0, 2], []),
    "veri776": ({"label": [5], "camera": [1]}, SIGHTED, 0, [2], [0, 3]),
    "gldv2": ({"id": ["p", "q"], "relevant": [["a"], ["c", "a"]]}, {"id": ["a", "b", "c"]}, 1, [0, 2], []),
    "revisited": (JUDGED, {}, 0, [0, 3], [2]),
    "same_image": ({"id": ["p", "q"]}, {"id": ["r", "q", "p"]}, 0, [2], []),
}
"""Columns of the queries and of the gallery, a query, its right answers, and what it ignores."""


def test_every_protocol_has_a_rule() -> None:
    assert ANSWERS.keys() == PROTOCOLS.keys() == CASES.keys()


@pytest.mark.parametrize("protocol", CASES)
def test_by_hand(protocol: str) -> None:
    query, gallery, row, right, ignored = CASES[protocol]
    answers = answers_of(protocol, query, gallery, row)
    assert (answers.right.tolist(), answers.ignored.tolist()) == (right, ignored)


@pytest.mark.parametrize("protocol", CASES)
def test_queries_that_meet_what_is_ignored_and_then_what_is_right_score_everything(protocol: str) -> None:
    query, gallery, _, _, _ = CASES[protocol]
    assert next(iter(PROTOCOLS[protocol](*ideal(protocol, query, gallery)).values())) == 1


def ideal(protocol: str, query: Columns, gallery: Columns) -> tuple[Side, Side]:
    """The gallery's images are axes; a query lies nearest to those it ignores, then to those that are right."""
    count = len(next(iter(gallery.values()), range(4)))
    queries = np.full((len(next(iter(query.values()))), count), 0.1, dtype=np.float32)
    for row, embedding in enumerate(queries):
        answers = answers_of(protocol, query, gallery, row)
        embedding[answers.right] = 1
        embedding[answers.ignored] = 2
    return Side(queries, query), Side(np.eye(count, dtype=np.float32), gallery)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"'leave_two_out'.*gldv2, in_shop, leave_one_out, revisited, same_image, veri776"
    ):
        answers_of("leave_two_out", {}, {}, 0)
