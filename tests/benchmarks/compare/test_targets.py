"""Targets against rows whose figures are round."""

from __future__ import annotations

import pytest

from benchmarks.compare.figures import Figure
from benchmarks.compare.methods import DEFAULT, DEFAULT_UNITS, DENSE_ALONE
from benchmarks.compare.targets import loss_of, target_table, within

from .test_figures import rows_of, shifted


def test_all_targets_of_the_rows_that_are_there() -> None:
    rows = [
        rows_of(DEFAULT, shifted(0.0), shifted(0.02), shifted(0.04)),  # dense 92; at 0.2 72 self, 62 cross; mean 62
        rows_of(DENSE_ALONE, {1.0: 0.92}, {1.0: 0.94}, {1.0: 0.96}),
        rows_of("alone 0.2", {0.2: 0.7}, {0.2: 0.7}),
        rows_of("joint, units", shifted(0.03), shifted(0.03)),
    ]
    every = {each.entry.name: each for each in rows}
    assert target_table(every) == [
        "| | target | measured | met |",
        "|---|---|---:|---|",
        "| default, weights | self-test at 0.2 less `alone 0.2`: at least 0, less one error | 2.0 ± 1.2 | yes |",
        "| default, weights | cross-test at 0.2 less `alone 0.2`: at least 0, less one error | -8.0 ± 1.2 | no |",
        "| default, weights | self-test at 1 less `alone, dense`: at least 0, less one error | -2.0 ± 1.6 | no |",
        "| default, weights | dense less cross-test at 0.2: at most 1.5 | 30.0 ± 0.0 | no |",
        "| default, weights | dense less cross-test at 0.1: at most 3 | 40.0 ± 0.0 | no |",
        "| default, weights | dense less cross-test at 0.05: at most 8 | 50.0 ± 0.0 | no |",
        "| default, weights | mean of cross-tests less `joint, units`: at least 0, less one error | -1.0 ± 1.2 | "
        "yes |",
    ]
    assert target_table({DENSE_ALONE: rows[1]}) == []


def test_units_are_compared_with_thin_networks_and_not_with_weights() -> None:
    rows = [
        rows_of(DEFAULT, shifted(0.5)),
        rows_of(DEFAULT_UNITS, shifted(0.0)),
        rows_of("thin, alone 0.2", {0.2: 0.6}),
    ]
    lines = target_table({each.entry.name: each for each in rows})
    assert "| default, units | cross-test at 0.2 less `thin, alone 0.2`: at least 0, less one error | 0.0 | " in (
        "".join(lines)
    )
    assert not any("less `default" in line for line in lines)
    assert lines[2] == "| default, weights | dense less cross-test at 0.2: at most 1.5 | 30.0 | no, by one seed |"


@pytest.mark.parametrize(
    ("figure", "met"),
    [(Figure(0.0, None, 1), True), (Figure(-0.1, None, 1), False), (Figure(-0.5, 0.5, 3), True)],
)
def test_one_standard_error_is_allowed(figure: Figure, met: bool) -> None:
    assert within(figure) == met


def test_a_loss_is_that_of_each_seed_from_its_own_dense_network() -> None:
    cells = [{0.2: 0.7, 1.0: 0.8}, {0.2: 0.7, 1.0: 0.9}]  # cross-tests are 0.6
    loss = loss_of(rows_of(DEFAULT, *cells), 0.2)
    assert (loss.mean, loss.error) == (pytest.approx(25.0), pytest.approx(5.0))
    assert loss_of(rows_of(DEFAULT, *cells), 0.1) is None
