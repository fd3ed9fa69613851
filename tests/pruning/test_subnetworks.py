"""What is the same of networks that leave out single weights and of those that leave out units."""

from __future__ import annotations

import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.utils import parametrizations

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.pruning.channel_rules import find_units
from prunnet_hf.pruning.layers import scored_modules
from prunnet_hf.pruning.subnetworks import (
    check_scores,
    dense_twin,
    find_masks,
    masked_weights,
    plain_copy,
    scored_units,
    unit_weights,
)
from prunnet_hf.training.passes import subnetwork_passes
from tests.tiny_models import images, same_state, state_of, tiny, tiny_of_units

BLOCK = "prunnet.backbone.layer1.0"
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


@pytest.mark.parametrize("make", [tiny, tiny_of_units])
def test_what_is_masked(make) -> None:
    model = make()
    (masks,) = find_masks(model, [0.35])
    tensors = masked_weights(model, masks)
    for name, tensor in tensors.items():
        assert tensor.shape == model.get_parameter(name).shape
        assert tensor.grad_fn is not None
    if make is tiny:
        assert masks.keys() == model.prunable_layers().keys()
        assert tensors.keys() == {f"{name}.weight" for name in masks}
        assert scored_units(model) == {}
    else:
        assert masks.keys() == model.prunable_units().keys() == scored_units(model).keys()
        assert tensors.keys() == {name.replace("conv1", "conv2") + ".weight" for name in masks}
        assert model.prunable_layers() == {}


def test_masked_columns_by_hand() -> None:
    model = tiny_of_units()
    with torch.no_grad():
        model.get_submodule(f"{BLOCK}.conv1").units.scores.copy_(torch.tensor([0.6, -0.9, 0.7, 0.5]))
    (masks,) = find_masks(model, [0.5])  # 4 - round(0.5 * 3) = 2
    assert masks[f"{BLOCK}.conv1"].tolist() == [False, True, True, False]
    weight = model.get_parameter(f"{BLOCK}.conv2.weight")
    masked = masked_weights(model, masks)[f"{BLOCK}.conv2.weight"]
    assert torch.equal(masked[:, 1:3], weight[:, 1:3])
    assert not masked[:, [0, 3]].any()


@pytest.mark.parametrize("make", [tiny, tiny_of_units])
def test_a_plain_copy_has_no_scores_and_shares_nothing(make) -> None:
    model = make()
    before = state_of(model)
    copied = plain_copy(model, find_masks(model, [0.35])[0])
    assert scored_modules(copied) == []
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in copied.state_dict().values()}
    assert same_state(model, before)
    if make is tiny_of_units:  # whose units are all still there
        assert {name: tuple(t.shape) for name, t in copied.state_dict().items()} == {
            name: tuple(tensor.shape) for name, tensor in before.items() if not name.endswith(".scores")
        }


def test_pruned_networks_have_neither() -> None:
    for model in (tiny().prune(0.35), tiny_of_units().prune(0.35)):
        check_scores(model)
        assert scored_units(model) == {}
        assert find_masks(model, [0.5]) == [{}]
    assert find_units(tiny_of_units().prune(0.35)), "which are there, without scores"


def test_units_inside_a_larger_network_have_its_names() -> None:
    model = nn.Sequential(tiny_of_units(), nn.Identity())
    assert scored_units(model).keys() == {f"0.{name}" for name in tiny_of_units().prunable_units()}


def lora(model: PrunNetForImageClassification) -> None:
    conv = model.get_submodule(f"{BLOCK}.conv1")
    model.get_submodule(BLOCK).conv1 = nn.Sequential(conv, nn.Identity())


@torch.no_grad()
@pytest.mark.parametrize("change", [lambda model: freeze_batch_norm_2d(model.prunnet.backbone.layer1), lora])
def test_units_that_are_not_found_any_more_are_not_silently_kept(change) -> None:
    model = tiny_of_units()
    pruned = model.prune(0.35)
    change(model)
    assert model(images()).logits.shape == (4, 3)
    for use in (
        lambda: model(images(), capacity=0.35),
        lambda: model.prune(0.35),
        lambda: model.calibrate([images()]),
    ):
        with pytest.raises(ValueError, match=r"^capacity.*layer1\.0\.conv1.*replaced.*prune first"):
            use()
    change(pruned)  # of which nothing is to be chosen any more
    assert pruned(images()).logits.shape == (4, 3)


@pytest.mark.parametrize("make", [tiny, tiny_of_units])
def test_gradients_that_gradient_checkpointing_would_make_wrong_are_refused(make) -> None:
    model = make()
    model.prunnet.backbone.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match="grad_checkpointing must be off for gradients of subnetworks"):
        model(images(), capacity=0.2)
    with pytest.raises(ValueError, match="grad_checkpointing must be off"):
        subnetwork_passes(model, is_compiled=False)
    with torch.no_grad():
        checkpointed = model(images(), capacity=0.2).logits
    model.prunnet.backbone.set_grad_checkpointing(False)
    assert torch.equal(model(images(), capacity=0.2).logits, checkpointed)


def test_layers_whose_weights_are_computed_from_others_are_refused() -> None:
    model = tiny_of_units()
    parametrizations.weight_norm(model.prunnet.backbone.layer1[0].conv1)
    with pytest.raises(
        ValueError, match=r"'prunnet\.backbone\.layer1\.0\.conv1' and 0 more have parametrizations.*Remove"
    ):
        model.prune(0.2)
