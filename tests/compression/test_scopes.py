"""Scopes: which weights are pruned, worked out by hand, and laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunnet_hf.compression.scopes import keep_largest

WEIGHTS = {"a.weight": torch.tensor([[4.0, -1.0], [0.5, 3.0]]), "b.weight": torch.tensor([[0.2, 0.1]])}


def keep(count: int):
    return lambda weights, kept: torch.full((len(weights),), count)


def chosen(masks: dict[str, Tensor]) -> dict[str, list[list[int]]]:
    return {name: mask.int().tolist() for name, mask in masks.items()}


@pytest.mark.parametrize(
    ("scope", "count", "expected"),
    [
        ("neuron", 1, {"a.weight": [[1, 0], [0, 1]], "b.weight": [[1, 0]]}),
        ("layer", 3, {"a.weight": [[1, 1], [0, 1]], "b.weight": [[1, 1]]}),  # b has two only
        ("layer", 1, {"a.weight": [[1, 0], [0, 0]], "b.weight": [[1, 0]]}),
        ("global", 5, {"a.weight": [[1, 1], [1, 1]], "b.weight": [[1, 0]]}),
        ("global", 3, {"a.weight": [[1, 0], [0, 1]], "b.weight": [[1, 0]]}),  # not -1: b's largest stays
    ],
)
def test_the_largest_of_each_scope_stay(scope, count, expected):
    assert chosen(keep_largest(WEIGHTS, scope, keep(count))) == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("neuron", {"a.weight": [[1, 0], [0, 1]], "b.weight": [[1, 0]]}),
        ("layer", {"a.weight": [[1, 0], [0, 0]], "b.weight": [[1, 0]]}),
        ("global", {"a.weight": [[1, 0], [0, 0]], "b.weight": [[1, 0]]}),
    ],
)
def test_one_weight_stays_whatever_the_counts(scope, expected):
    assert chosen(keep_largest(WEIGHTS, scope, keep(0))) == expected


def test_of_equal_magnitudes_the_lower_place_stays():
    weights = {"a.weight": torch.tensor([[2.0, -2.0, 2.0]]), "b.weight": torch.tensor([[2.0, -2.0, 2.0]])}
    assert chosen(keep_largest(weights, "global", keep(4))) == {"a.weight": [[1, 1, 1]], "b.weight": [[1, 0, 0]]}
    assert chosen(keep_largest(weights, "layer", keep(2))) == {"a.weight": [[1, 1, 0]], "b.weight": [[1, 1, 0]]}


def test_neurons_of_a_convolution_are_its_output_channels():
    weights = {"a.weight": torch.tensor([[[[1.0]], [[2.0]]], [[[4.0]], [[3.0]]]])}  # 2 outputs, 2 inputs
    assert keep_largest(weights, "neuron", keep(1))["a.weight"].flatten().tolist() == [False, True, True, False]


@pytest.mark.parametrize("scope", ["neuron", "layer", "global"])
def test_what_is_pruned_stays_pruned(scope):
    weights = {"a.weight": torch.tensor([[0.0, 0.0], [0.0, -3.0]]), "b.weight": torch.tensor([[0.0, 0.0]])}
    expected = {"a.weight": [[0, 0], [0, 1]], "b.weight": [[0, 0]]}
    assert chosen(keep_largest(weights, scope, keep(2))) == expected


def test_a_refusal_names_its_scope():
    def refuse(weights: Tensor, kept: Tensor) -> Tensor:
        raise ValueError("too small")

    with pytest.raises(ValueError, match=r"layer 'a': too small"):
        keep_largest(WEIGHTS, "neuron", refuse)
    with pytest.raises(ValueError, match=r"all prunable layers: too small"):
        keep_largest(WEIGHTS, "global", refuse)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=30), st.integers(0, 30))
def test_a_single_scope_keeps_the_given_count_and_no_weight_smaller_than_a_pruned_one(values, count):
    weight = torch.tensor([[float(value) for value in values]])
    mask = keep_largest({"a.weight": weight}, "layer", keep(count))["a.weight"]
    left = int(weight.count_nonzero())
    assert int(mask.sum()) == min(max(count, 1), left)
    pruned = weight[~mask & (weight != 0)].abs()
    assert pruned.numel() == 0 or mask.sum() == 0 or pruned.max() <= weight[mask].abs().min()
