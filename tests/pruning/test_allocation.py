"""Capacities shared out among layers: by hand, and the laws that hold whatever the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from prunnet_hf.pruning.allocation import ALLOCATIONS, allocated_counts, allocated_masks, check_allocation, share_out
from prunnet_hf.pruning.layers import PrunableLinear, find_masks, prunable_layers
from prunnet_hf.pruning.masking import kept_count

SHARES = st.floats(0.0, 1.0, exclude_min=True)


def network_of(*layers: tuple[list[float], list[float]]) -> nn.Module:
    """A network with one row of weights, and their scores, for each of `layers`."""
    network = nn.Sequential()
    for weights, scores in layers:
        layer = PrunableLinear.from_dense(nn.Linear(len(weights), 1))
        layer.weight, layer.scores = (nn.Parameter(torch.tensor([values])) for values in (weights, scores))
        network.append(layer)
    return network


def counts(network: nn.Module, capacity: float, allocation: str) -> list[int]:
    return list(allocated_counts(prunable_layers(network), capacity, allocation).values())


SCORED = [4.0, -3.0, 2.0, 1.0]
"""Root mean square 2.74: the normalised magnitudes are 1.46, 1.10, 0.73, 0.37."""
EQUAL = [-1.0, 1.0, 1.0, 1.0]
"""Normalised: 1 four times."""


def test_uniform_keeps_the_same_share_of_every_layer() -> None:
    network = network_of((SCORED, SCORED), (EQUAL * 2, EQUAL * 2))
    assert counts(network, 0.5, "uniform") == [kept_count(0.5, 4), kept_count(0.5, 8)] == [2, 4]
    masks = allocated_masks(network, 0.5)
    assert all(torch.equal(masks[name], mask) for name, mask in find_masks(network, [0.5])[0].items())


@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e30])
def test_global_is_one_threshold_over_scores_by_their_rms(factor: float) -> None:
    # 2 x kept_count(0.75, 4) = 6: of 1.46 1.10 | 1 1 1 1 | 0.73 0.37, whatever the scale of a layer
    network = network_of((EQUAL, [factor * score for score in SCORED]), (EQUAL, EQUAL))
    assert counts(network, 0.75, "global") == [2, 4]
    masks = allocated_masks(network, 0.75, "global")
    assert masks["0"].tolist() == [[True, True, False, False]]
    assert masks["1"].tolist() == [[True, True, True, True]]


def test_pq_index_gives_more_to_the_layer_whose_kept_weights_are_more_equal() -> None:
    # 1 - index of equal weights is 1, whatever their number. Of 8, 1, 0, 0 (by score): 1; (sqrt(8) + 1)^2 / (2 * 9) =
    # 0.81; 0.54; 0.41. Times 4 / 0.5, 4 / 1.5, 4 / 2.5, 4 / 3.5 that makes 8 2.67 1.6 1.14 and 8 2.17 0.87 0.47.
    network = network_of((EQUAL, SCORED), ([8.0, -1.0, 0.0, 0.0], SCORED))
    assert counts(network, 0.5, "pq_index") == [2, 2]  # 2 x kept_count(0.5, 4) = 4
    assert counts(network, 0.75, "pq_index") == [4, 2], "a full layer leaves the rest to others"  # 6: 1.6 and 1.14


def test_pq_index_is_of_the_weights_a_layer_keeps_not_of_all() -> None:
    # The first layer's by score: 1 1 1 and a huge one. The second's huge weight is kept first.
    network = network_of(([1.0, 1.0, 1.0, 1e6], SCORED), ([1e6, 1.0, 1.0, 1.0], SCORED))
    assert counts(network, 0.75, "pq_index") == [3, 3]
    assert counts(network, 0.5, "pq_index") == [3, 1]


def test_pq_index_keeps_the_best_scored_weights() -> None:
    network = network_of((EQUAL, [1.0, -5.0, 2.0, 3.0]), ([0.0, 9.0, 0.0, 0.0], [0.0, 9.0, 1.0, 2.0]))
    masks = allocated_masks(network, 0.5, "pq_index")
    assert masks["0"].tolist() == [[False, True, True, True]]
    assert masks["1"].tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_all_scores_zero(allocation: str) -> None:
    # Ties go to earlier layers, and within a layer to earlier weights.
    network = network_of(([0.0] * 4, [0.0] * 4), ([0.0] * 4, [0.0] * 4))
    masks = allocated_masks(network, 0.75, allocation)
    assert sum(int(mask.sum()) for mask in masks.values()) == 6
    assert all(mask.any() for mask in masks.values())


def test_shares_by_hand() -> None:
    layers = [torch.tensor([7.0, 9.0, 8.0]), torch.tensor([2.0, 1.0]), torch.tensor([2.0])]
    # The first of each layer, then 8, 7 and 1.
    expected = {3: [1, 1, 1], 4: [2, 1, 1], 5: [3, 1, 1], 6: [3, 2, 1]}
    assert {total: share_out(layers, total) for total in expected} == expected


layers_of = st.lists(
    st.integers(1, 20).flatmap(
        lambda size: st.tuples(
            *(
                arrays(np.float32, (size,), elements=st.sampled_from([0.0, -1.0, 1.0, 0.5, 2.0, 1e-20, -1e20]))
                for _ in range(2)
            )
        )
    ),
    min_size=1,
    max_size=5,
)


@given(layers=layers_of, capacities=st.tuples(SHARES, SHARES), allocation=st.sampled_from(ALLOCATIONS))
@settings(deadline=None)
def test_masks_are_nested_and_totals_exact(
    layers: list[tuple[np.ndarray, np.ndarray]], capacities: tuple[float, float], allocation: str
) -> None:
    network = network_of(*((weights.tolist(), scores.tolist()) for weights, scores in layers))
    small, large = (allocated_masks(network, capacity, allocation) for capacity in sorted(capacities))
    for capacity, masks in zip(sorted(capacities), (small, large), strict=True):
        uniform = [kept_count(capacity, len(weights)) for weights, _ in layers]
        kept = [int(mask.sum()) for mask in masks.values()]
        assert sum(kept) == sum(uniform)
        assert min(kept) >= 1
        assert allocation != "uniform" or kept == uniform
    assert not any((small[name] & ~large[name]).any() for name in small)


@given(layers=layers_of, capacity=SHARES, allocation=st.sampled_from(ALLOCATIONS))
@settings(deadline=None)
def test_what_is_kept_scores_no_less_than_what_is_not(
    layers: list[tuple[np.ndarray, np.ndarray]], capacity: float, allocation: str
) -> None:
    network = network_of(*((weights.tolist(), scores.tolist()) for weights, scores in layers))
    for name, mask in allocated_masks(network, capacity, allocation).items():
        magnitudes: Tensor = network.get_submodule(name).scores.abs()
        assert mask.all() or magnitudes[mask].min() >= magnitudes[~mask].max()


@pytest.mark.parametrize("allocation", ["", "Uniform", "layer", None])
def test_an_unknown_allocation(allocation: str) -> None:
    with pytest.raises(ValueError, match=r"allocation.*'uniform', 'pq_index', 'global'"):
        check_allocation(allocation)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite(allocation: str, bad: float) -> None:
    with pytest.raises(ValueError, match=r"'1'.*scores.*1 of 4"):
        allocated_masks(network_of((EQUAL, EQUAL), (EQUAL, [1.0, bad, 1.0, 1.0])), 0.5, allocation)


def test_weights_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"'0'.*weights.*1 of 4"):
        allocated_masks(network_of(([1.0, math.nan, 1.0, 1.0], EQUAL)), 0.5, "pq_index")


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_layers(allocation: str) -> None:
    assert allocated_masks(nn.Sequential(nn.ReLU()), 0.5, allocation) == {}
