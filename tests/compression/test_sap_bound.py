"""How many weights adaptive pruning keeps and prunes: values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.compression.sap_bound import sap_keep_bound, sap_prune_counts
from prunnet_hf.pruning.pq_index import pq_index

# Not (0.1, 1.0): there the index of one weight among sixty is 1 - 60^-9, almost 1 in float64.
EXPONENTS = st.sampled_from([(0.5, 1.0), (0.5, 2.0), (1.0, 2.0), (0.9, 1.1)])


def prune_count(index: float, d: int, **options: float) -> int:
    (count,) = sap_prune_counts(torch.tensor([index], dtype=torch.float64), torch.tensor([d]), **options).tolist()
    return count


@pytest.mark.parametrize(
    ("arguments", "bound"),
    [
        ((0.75, 4), 1.0),  # 4 * (1/4)^(0.5 / 0.5)
        ((0.75, 4, 0.5, 1.0, 1.0), 0.25),  # times (1 + 1)^(-1 / 0.5)
        ((0.875, 8, 0.5, 2.0), 2.0),  # 8 * (1/8)^(1 / 1.5) = 8 / 4
        ((0.5, 8, 1.0, 2.0, 1.0), 0.5),  # 8 * 2^-2 * (1/2)^2
        ((0.0, 9), 9.0),
        ((0.5, 0), 0.0),
    ],
)
def test_bound_is_the_formula(arguments, bound):
    assert sap_keep_bound(*arguments) == pytest.approx(bound, rel=1e-14)


@given(st.integers(1, 30), st.integers(0, 30), EXPONENTS)
def test_equal_weights_among_zeros_are_what_must_be_kept(num_equal, num_zeros, exponents):
    weights = torch.tensor([3.0] * num_equal + [0.0] * num_zeros, dtype=torch.float64)
    p, q = exponents
    index = float(pq_index(weights, p, q))
    assert sap_keep_bound(index, len(weights), p, q) == pytest.approx(num_equal, rel=1e-9)
    assert prune_count(index, len(weights), p=p, q=q, beta=1.0) == num_zeros


@pytest.mark.parametrize(
    ("arguments", "options", "count"),
    [
        ((0.75, 40), {}, 30),  # 40 - 40 / 4
        ((0.99, 40), {}, 36),  # beta: at most 0.9 * 40
        ((0.75, 40), {"gamma": 0.5}, 15),
        ((0.75, 40), {"eta": 1.0, "beta": 1.0}, 37),  # 40 - floor of 40 / 4 / 4 = 37.5
        ((0.75, 41), {}, 30),  # floor(41 * 0.75) = floor(30.75)
        ((0.75, 40), {"gamma": 0.0}, 0),
        ((0.99, 100), {"beta": 0.29}, 29),  # 0.29 * 100 is 28.999999999999996 in float64
        ((0.75, 40), {"gamma": 9.0, "beta": 1.0}, 40),
        ((0.0, 40), {}, 0),
        ((0.0, 0), {}, 0),
    ],
)
def test_prune_count_is_the_formula(arguments, options, count):
    assert prune_count(*arguments, **options) == count


def test_many_scopes_at_once():
    indices, counts = torch.tensor([[0.75, 0.99], [0.0, 0.5]]), torch.tensor([[40, 40], [7, 10]])
    assert sap_prune_counts(indices, counts).tolist() == [[30, 36], [0, 5]]


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.0, 1.0), (-0.5, 1.0), (1.1, 2.0), (0.5, 0.9), (math.nan, 1.0)])
def test_exponents_out_of_range_are_refused_with_both_values(p, q):
    for call in (lambda: sap_keep_bound(0.5, 3, p, q), lambda: prune_count(0.5, 3, p=p, q=q)):
        with pytest.raises(ValueError, match=rf"got p={p!r} and q={q!r}"):
            call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.0, 4), ValueError, r"^index .*\[0, 1\).*got 1.0"),
        ((-0.1, 4), ValueError, r"^index .*\[0, 1\).*got -0.1"),
        ((math.nan, 4), ValueError, r"^index .*\[0, 1\).*got nan"),
        (("0.1", 4), TypeError, r"^index .*got '0.1' \(str\)"),
        ((0.5, -1), ValueError, r"^d .*at least 0.*got -1"),
        ((0.5, 4.0), TypeError, r"^d .*whole number.*got 4.0 \(float\)"),
        ((0.5, 4, 0.5, 1.0, -1.0), ValueError, r"^eta .*at least 0.*got -1.0"),
    ],
)
def test_bounds_of_numbers_out_of_range(arguments, error, message):
    with pytest.raises(error, match=message):
        sap_keep_bound(*arguments)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((1.0, 4), {}, ValueError, r"^indices .*\[0, 1\).*got.*1\."),
        ((0.5, -4), {}, ValueError, r"^indices .*counts at least 0.*got.*-4"),
        ((0.5, 4), {"eta": -1.0}, ValueError, r"^eta .*at least 0.*got -1.0"),
        ((0.5, 4), {"gamma": math.inf}, ValueError, r"^gamma .*got inf"),
        ((0.5, 4), {"gamma": "1"}, TypeError, r"^gamma .*got '1' \(str\)"),
        ((0.5, 4), {"beta": 1.5}, ValueError, r"^beta .*\[0, 1\].*got 1.5"),
    ],
)
def test_counts_of_numbers_out_of_range(arguments, options, error, message):
    with pytest.raises(error, match=message):
        prune_count(*arguments, **options)


def test_counts_of_another_shape():
    with pytest.raises(ValueError, match=r"^counts .*\(2,\).*got \(3,\)"):
        sap_prune_counts(torch.zeros(2), torch.ones(3, dtype=torch.int64))
