"""What the right answers to a query are, by each protocol's rule, and which images it ignores.

`protocols` gives figures over all queries; this says of a single one which images of the gallery are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .protocols import Columns, gldv2, in_shop, leave_one_out, revisited, same_image, veri776


class Answers(NamedTuple):
    """Rows of the gallery, as seen from one query. All others are wrong answers.

    Attributes:
        right: What it should find.
        ignored: What counts neither as right nor as wrong.
    """

    right: NDArray[np.int64]
    ignored: NDArray[np.int64]


def answers_of(protocol: str, query: Columns, gallery: Columns, row: int) -> Answers:
    """What the right answers to a query are.

    Args:
        protocol: Name of the rule.
        query: What the data set says of the queries, apart from their pixels.
        gallery: The same of the gallery.
        row: The query's place.

    Raises:
        ValueError: If no protocol has this name.
    """
    if protocol not in ANSWERS:
        raise ValueError(f"protocol {protocol!r} is unknown: choose one of {', '.join(sorted(ANSWERS))}.")
    return ANSWERS[protocol](query, gallery, row)


def _of_other_images(query: Columns, gallery: Columns, row: int) -> Answers:
    right = _equal(gallery["label"], query["label"][row])
    right[row] = False
    return Answers(np.flatnonzero(right), np.array([row]))


def _of_same_label(query: Columns, gallery: Columns, row: int) -> Answers:
    return Answers(np.flatnonzero(_equal(gallery["label"], query["label"][row])), _rows([]))


def _of_other_cameras(query: Columns, gallery: Columns, row: int) -> Answers:
    same = _equal(gallery["label"], query["label"][row])
    same_camera = _equal(gallery["camera"], query["camera"][row])
    return Answers(np.flatnonzero(same & ~same_camera), np.flatnonzero(same & same_camera))


def _of_listed_ids(query: Columns, gallery: Columns, row: int) -> Answers:
    wanted = set(query["relevant"][row])
    return Answers(_rows([place for place, name in enumerate(gallery["id"]) if name in wanted]), _rows([]))


def _of_same_id(query: Columns, gallery: Columns, row: int) -> Answers:
    return Answers(np.flatnonzero(_equal(gallery["id"], query["id"][row])), _rows([]))


def _of_easy_or_hard(query: Columns, gallery: Columns, row: int) -> Answers:
    return Answers(_rows([*query["easy"][row], *query["hard"][row]]), _rows(query["junk"][row]))


def _equal(values: Sequence[object], value: object) -> NDArray[np.bool_]:
    equal: NDArray[np.bool_] = np.asarray(values) == value
    return equal


def _rows(places: Sequence[int]) -> NDArray[np.int64]:
    return np.array(places, dtype=np.int64)


ANSWERS: dict[str, Callable[[Columns, Columns, int], Answers]] = {
    leave_one_out.__name__: _of_other_images,
    in_shop.__name__: _of_same_label,
    veri776.__name__: _of_other_cameras,
    gldv2.__name__: _of_listed_ids,
    revisited.__name__: _of_easy_or_hard,
    same_image.__name__: _of_same_id,
}
"""The rule of every protocol. Revisited Oxford and Paris are judged at medium difficulty, that of their headline."""
