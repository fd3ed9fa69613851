"""What is the same of networks that leave out single weights and of those that leave out units."""

from __future__ import annotations

import torch

from prunnet_hf.pruning.subnetworks import dense_twin, find_masks, plain_copy, scored_units, unit_weights
from tests.tiny_models import tiny, tiny_of_units

GROUPS = {f"prunnet.backbone.layer{number}.0.conv1": units for number, units in enumerate((4, 4, 16, 16), 1)}


def test_masks_are_of_layers_or_of_groups_of_units() -> None:
    weights, units = tiny(), tiny_of_units()
    assert scored_units(weights) == {}
    assert find_masks(weights, [0.2])[0].keys() == weights.prunable_layers().keys()
    assert {name: len(mask) for name, mask in find_masks(units, [0.2])[0].items()} == GROUPS
    assert scored_units(units.prune(0.2)) == {}


def test_plain_copy_has_zeros_or_all_of_its_units() -> None:
    weights, units = tiny(), tiny_of_units()
    copies = [plain_copy(model, find_masks(model, [0.2])[0]) for model in (weights, units)]
    assert all(not name.endswith("scores") for model in copies for name in model.state_dict())
    stem = copies[0].prunnet.backbone.conv1.weight
    assert int(stem.count_nonzero()) == 9408 - round(0.8 * 9407)
    assert torch.equal(
        copies[1].get_parameter("prunnet.backbone.layer4.0.conv2.weight"),
        units.get_parameter("prunnet.backbone.layer4.0.conv2.weight"),
    )


def test_weights_in_units_and_those_of_the_dense_network_that_a_thin_one_was_cut_from() -> None:
    dense = tiny_of_units()
    thin = dense.prune(0.2)
    before, after = unit_weights(dense_twin(thin)), unit_weights(thin)
    assert [*before] == [*after] == [*unit_weights(dense)]
    assert {name: weight.shape for name, weight in before.items()} == {
        name: weight.shape for name, weight in unit_weights(dense).items()
    }
    assert before["prunnet.backbone.layer4.0.conv2.weight"].shape == (16, 16, 3, 3)
    assert after["prunnet.backbone.layer4.0.conv2.weight"].shape == (16, 4, 3, 3)
    assert all(parameter.is_meta for parameter in dense_twin(thin).parameters())
    assert dense_twin(dense) is dense
