"""Schedules: how many weights each prunes, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prunnet_hf.compression.sap_arguments import SapArguments
from prunnet_hf.compression.schedules import check_no_layer_is_zero, masks_of_round
from prunnet_hf.pruning.masking import kept_count

# Indices with p = 0.5 and q = 1: a has 1 - (4 + 1 + 1 + 1)^2 / (4 * 19) = 27/76, b has 0.
WEIGHTS = {"a.weight": torch.tensor([[16.0, -1.0], [1.0, 1.0]]), "b.weight": torch.tensor([[2.0, 2.0], [2.0, 2.0]])}


def kept(weights=WEIGHTS, number=1, **options) -> dict[str, list[int]]:
    masks = masks_of_round(weights, SapArguments(**options), number)
    return {name.removesuffix(".weight"): mask.flatten().int().tolist() for name, mask in masks.items()}


def test_sap_prunes_each_layer_by_its_own_index():
    # a keeps at least 4 * (1 - 27/76) = 2.58, so floor(1.42) = 1 is pruned: the last of the three ones.
    assert kept(scope="layer") == {"a": [1, 1, 1, 0], "b": [1, 1, 1, 1]}


def test_sap_prunes_the_network_by_one_index():
    # (4 + 3 + 4 sqrt(2))^2 / 27 = 5.93 of 8 are kept at least: floor(2.07) = 2 are pruned.
    assert math.floor(8 - (7 + 4 * math.sqrt(2)) ** 2 / 27) == 2
    assert kept(scope="global") == {"a": [1, 1, 0, 0], "b": [1, 1, 1, 1]}


def test_sap_prunes_each_neuron_by_its_own_index():
    # Of (16, -1) at least (4 + 1)^2 / 17 = 1.47 are kept: floor(0.53) = 0. Of (16, 0.01) 4.1^2 / 16.01 = 1.05: 0.
    # Of three, (16, 0.01, 0.01), 4.2^2 / 16.02 = 1.10 are: floor(1.90) = 1.
    weights = {"a.weight": torch.tensor([[16.0, 0.01, 0.01], [5.0, 5.0, 5.0]])}
    assert kept(weights, scope="neuron") == {"a": [1, 1, 0, 1, 1, 1]}


def test_sap_follows_its_factors():
    assert kept(scope="layer", gamma=0.5) == {"a": [1, 1, 1, 1], "b": [1, 1, 1, 1]}  # floor(0.71)
    assert kept(scope="layer", gamma=1.5) == {"a": [1, 1, 0, 0], "b": [1, 1, 1, 1]}  # floor(2.13)
    assert kept(scope="layer", eta=1.0) == {"a": [1, 0, 0, 0], "b": [1, 0, 0, 0]}  # beta: floor(0.9 * 4) at most; 3
    assert kept(scope="layer", eta=1.0, beta=0.5) == {"a": [1, 1, 0, 0], "b": [1, 1, 0, 0]}


def test_lottery_ticket_prunes_a_fixed_share_of_what_is_left():
    assert kept(schedule="lottery_ticket", prune_share=0.5, scope="layer") == {"a": [1, 1, 0, 0], "b": [1, 1, 0, 0]}
    assert kept(schedule="lottery_ticket", prune_share=0.5, scope="global") == {"a": [1, 0, 0, 0], "b": [1, 1, 1, 0]}
    assert kept(schedule="lottery_ticket", prune_share=0.2, scope="layer") == {"a": [1] * 4, "b": [1] * 4}  # floor(.8)
    left = {"a.weight": torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.0]])}
    assert kept(left, schedule="lottery_ticket", prune_share=0.4, scope="layer") == {"a": [0, 0, 1, 1, 0]}  # 1 of 3


def test_a_share_of_a_whole_number_is_not_lost_by_rounding():
    weights = {"a.weight": torch.arange(1.0, 101.0)[None]}
    assert 0.29 * 100 < 29
    assert sum(kept(weights, schedule="lottery_ticket", prune_share=0.29)["a"]) == 71


@pytest.mark.parametrize("scope", ["global", "layer", "neuron"])
def test_one_shot_cuts_to_the_largest_share_first_and_exactly(scope):
    weights = {"a.weight": torch.arange(1.0, 101.0).view(5, 20), "b.weight": torch.arange(1.0, 41.0).view(2, 20)}
    sizes = {"global": [140], "layer": [100, 40], "neuron": [20] * 7}[scope]
    for number, share in enumerate([0.5, 0.2, 0.1], start=1):
        found = kept(weights, number, schedule="one_shot", kept_shares=[0.1, 0.5, 0.2], scope=scope)
        assert sum(map(sum, found.values())) == sum(kept_count(share, size) for size in sizes)


def test_weights_that_are_not_finite_are_refused_by_their_layer():
    weights = {**WEIGHTS, "b.weight": torch.tensor([[math.nan, 2.0]])}
    for schedule in ("sap", "lottery_ticket"):
        with pytest.raises(ValueError, match=r"layer 'b'.*finite.*1 of 2"):
            kept(weights, schedule=schedule)


def test_a_layer_of_zeros_is_refused_by_name():
    check_no_layer_is_zero({"a.weight": torch.tensor([[0.0, -1.0]])})
    weights = {**WEIGHTS, "c.weight": torch.zeros(1, 2), "d.weight": torch.tensor([[-0.0]])}
    with pytest.raises(ValueError, match=r"none: c, d\. .*--backbone"):
        check_no_layer_is_zero(weights)
