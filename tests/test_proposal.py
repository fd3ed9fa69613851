"""The proposed capacity: by hand, in words, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from prunnet_hf.proposal import LayerBound
from prunnet_hf.proposal import check_capacity_or_auto
from prunnet_hf.proposal import propose_capacity

WEIGHTS = {
    "equal": torch.tensor([[-2.0, 2.0], [2.0, 2.0]]),  # index 0: all 4 are needed
    "peaked": torch.tensor([0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),  # index 1 - 1/8: 1 of 8 is
}


def test_the_bounds_of_all_layers_added_up() -> None:
    proposal = propose_capacity(WEIGHTS)
    assert proposal.layers == (LayerBound("equal", 4, 0.0, 4.0), LayerBound("peaked", 8, 0.875, 1.0))
    assert proposal.capacity == 0.417  # 5 of 12, in thousandths, rounded up


def test_it_says_why_in_numbers() -> None:
    assert str(propose_capacity(WEIGHTS)) == (
        "capacity 0.417: SAP's bound keeps at least 5 of 12 prunable weights (p=0.5, q=1, eta=0), as the PQ Index of "
        "their layers is from 0.000 (equal) to 0.875 (peaked); weights drawn from a normal distribution have 0.153"
    )


def test_what_may_be_left_out_lowers_it() -> None:
    # (1 + 1)^(-1 / (1 - 0.5)) = 1/4 of each bound
    assert propose_capacity({"equal": WEIGHTS["equal"]}, eta=1.0).capacity == 0.25


def test_normal_weights_are_hardly_compressible() -> None:
    # In the limit 1 - index = gamma(3/4)^2 / sqrt(pi) = 0.8472
    weights = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    assert propose_capacity({"layer": weights}).capacity in (0.847, 0.848)


def test_equal_weights_all_stay_and_a_proposal_is_never_zero() -> None:
    assert propose_capacity({"layer": torch.ones(7)}).capacity == 1.0
    peaked = torch.zeros(10_000)
    peaked[0] = 1.0
    assert propose_capacity({"layer": peaked}).capacity == 0.001
    assert propose_capacity({"layer": torch.zeros(3)}).capacity == 1.0  # all magnitudes equal


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (0.5, 0.7), (0.5, math.nan)])
def test_exponents_out_of_range(p: float, q: float) -> None:
    with pytest.raises(ValueError, match=r"^p and q must satisfy 0 < p <= 1 <= q"):
        propose_capacity(WEIGHTS, p=p, q=q)


def test_other_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"eta must be at least 0"):
        propose_capacity(WEIGHTS, eta=-1.0)
    with pytest.raises(ValueError, match=r"at least one prunable layer; there is none"):
        propose_capacity({})
    with pytest.raises(ValueError, match=r"layer 'bad': weights must be finite; 1 of 2 are NaN or infinite"):
        propose_capacity({"good": torch.ones(2), "bad": torch.tensor([1.0, math.inf])})


def test_a_capacity_or_auto() -> None:
    assert check_capacity_or_auto("auto") == "auto"
    assert check_capacity_or_auto(1) == 1.0
    with pytest.raises(TypeError, match=r"must be a number in \(0, 1\], or 'auto'; got 'smallest'"):
        check_capacity_or_auto("smallest")
    with pytest.raises(ValueError, match=r"capacity must be in \(0, 1\]"):
        check_capacity_or_auto(0.0)
