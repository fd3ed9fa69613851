"""Masks of what is pruned for good: applied to a network, and refused where they don't fit."""

from __future__ import annotations

import pytest
import torch

from prunnet_hf.training.kept_weights import check_kept
from prunnet_hf.training.kept_weights import leave_out
from prunnet_hf.training.kept_weights import prunable_weights
from tests.training.test_objectives import BACKBONES
from tests.training.test_objectives import tiny_model

WEIGHTS = {"a": torch.ones(2, 3), "b": torch.ones(4)}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_prunable_weights_are_those_that_a_pruned_network_packs(backbone: str) -> None:
    model = tiny_model(backbone)
    assert list(prunable_weights(model)) == model.prune(1.0).packable_weights()


def test_what_is_left_out_is_zero_and_the_rest_as_it_was() -> None:
    model = tiny_model("resnet10t")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    kept = {name: weight > 0 for name, weight in prunable_weights(model).items()}
    leave_out(model, kept)
    for name, parameter in model.named_parameters():
        expected = before[name].clamp(min=0.0) if name in kept else before[name]
        assert torch.equal(parameter, expected), name
    assert not any(torch.signbit(model.get_parameter(name)).any() for name in kept)  # no -0.0, which would be packed


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"a": torch.ones(2, 3, dtype=torch.bool)}, r"these differ: \['b'\]"),
        ({**WEIGHTS, "c": torch.ones(1)}, r"these differ: \['c'\]"),
        ({**WEIGHTS, "a": torch.ones(3, 2)}, r"kept\['a'\] must have shape \(2, 3\); got \(3, 2\)"),
    ],
)
def test_masks_of_another_network_are_refused(kept: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_kept(WEIGHTS, kept)
