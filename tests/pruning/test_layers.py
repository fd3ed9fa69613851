"""Prunable layers: plain layers plus scores, and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from prunnet_hf import PrunNetModel
from prunnet_hf.pruning.layers import (
    PrunableConv2d,
    PrunableLinear,
    check_scores,
    find_masks,
    init_scores,
    is_prunable_type,
    make_prunable,
    masked_weights,
    prunable_layers,
)
from tests.tiny_models import tiny, tiny_config


class ConvSubclass(nn.Conv2d):
    """A convolution that may use its weight in its own way."""


class LinearSubclass(nn.Linear):
    """A linear layer that may use its weight in its own way."""


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "no bias": lambda: nn.Conv2d(4, 6, 1, bias=False),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "oblong": lambda: nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    "padding by name": lambda: nn.Conv2d(4, 6, 3, padding="same"),
    "padding mode": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_prunable_convolution_computes_what_the_plain_one_does(make) -> None:
    conv, images = make(), torch.randn(2, 4, 9, 9)
    expected = conv(images)
    prunable = PrunableConv2d.from_dense(conv)
    assert torch.equal(prunable(images), expected)
    dense = prunable.to_dense(prunable.weight.detach())
    assert type(dense) is nn.Conv2d
    assert torch.equal(dense(images), expected)
    assert dense.extra_repr() == conv.extra_repr()


@pytest.mark.parametrize("bias", [True, False])
def test_a_prunable_linear_computes_what_the_plain_one_does(bias: bool) -> None:
    linear, inputs = nn.Linear(5, 3, bias=bias), torch.randn(2, 5)
    expected = linear(inputs)
    prunable = PrunableLinear.from_dense(linear)
    assert torch.equal(prunable(inputs), expected)
    dense = prunable.to_dense(prunable.weight.detach())
    assert type(dense) is nn.Linear
    assert torch.equal(dense(inputs), expected)
    assert (dense.bias is None) == (not bias)


def test_parameters_are_taken_over_not_copied() -> None:
    linear = nn.Linear(5, 3).eval()
    linear.bias.requires_grad_(False)
    prunable = PrunableLinear.from_dense(linear)
    assert prunable.weight is linear.weight
    assert prunable.bias is linear.bias
    assert not prunable.training
    assert list(dict(prunable.named_parameters())) == ["weight", "bias", "scores"]


def test_scores_have_the_shape_and_layout_of_the_weight_and_are_float32() -> None:
    conv = nn.Conv2d(4, 6, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    scores = PrunableConv2d.from_dense(conv).scores
    assert (scores.shape, scores.dtype, scores.stride()) == (conv.weight.shape, torch.float32, conv.weight.stride())
    assert scores.requires_grad


def test_the_dense_layer_shares_nothing_with_the_prunable_one() -> None:
    prunable = PrunableLinear.from_dense(nn.Linear(2, 1))
    prunable.bias.requires_grad_(False)
    dense = prunable.to_dense(torch.ones(1, 2))
    assert not dense.bias.requires_grad
    with torch.no_grad():
        dense.bias.add_(1.0)
    assert dense.bias.item() == pytest.approx(prunable.bias.item() + 1.0)


@pytest.mark.parametrize(
    ("module", "prunable"),
    [
        (nn.Conv2d(1, 1, 1), True),
        (nn.Linear(1, 1), True),
        (ConvSubclass(1, 1, 1), False),
        (LinearSubclass(1, 1), False),
        (nn.Conv1d(1, 1, 1), False),
        (nn.Embedding(2, 2), False),
        (nn.BatchNorm2d(1), False),
        (PrunableLinear.from_dense(nn.Linear(1, 1)), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_only_exact_types_are_prunable(module: nn.Module, prunable: bool) -> None:
    assert is_prunable_type(module) is prunable


def test_make_prunable_replaces_exact_types_and_nothing_else() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        ConvSubclass(4, 4, 1),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2), LinearSubclass(2, 2)),
    )
    assert make_prunable(network) is network
    assert {name: type(layer) for name, layer in prunable_layers(network).items()} == {
        "0": PrunableConv2d,
        "3.1": PrunableLinear,
    }
    assert type(network[2]) is ConvSubclass
    assert type(network[3][2]) is LinearSubclass


def test_a_layer_with_two_names_stays_one_layer() -> None:
    shared = nn.Linear(2, 2)
    network = make_prunable(nn.ModuleDict({"a": shared, "b": shared}))
    assert network["a"] is network["b"]
    assert list(prunable_layers(network)) == ["a"]


def test_making_prunable_twice_changes_nothing() -> None:
    network = make_prunable(nn.Sequential(nn.Linear(2, 2)))
    layer = network[0]
    make_prunable(network)
    assert network[0] is layer


def test_scores_start_from_magnitudes() -> None:
    layer = PrunableLinear.from_dense(nn.Linear(3, 2))
    init_scores(layer, "magnitude")
    assert torch.equal(layer.scores, layer.weight.abs())
    assert layer.scores is not layer.weight


def test_kaiming_scores_fill_their_range() -> None:
    layer = PrunableLinear.from_dense(nn.Linear(100, 50))
    weight = layer.weight.detach().clone()
    init_scores(layer, "kaiming")
    # kaiming_uniform_(a=sqrt(5)): bound = sqrt(2 / (1 + 5)) * sqrt(3 / fan_in) = 1 / sqrt(100)
    assert layer.scores.abs().max() <= 0.1
    assert layer.scores.abs().max() > 0.099
    assert abs(layer.scores.mean()) < 0.005
    assert torch.equal(layer.weight, weight)


def test_masked_weights_stand_in_for_the_layers_own() -> None:
    network = make_prunable(nn.Sequential(nn.Linear(4, 1, bias=False)))
    layer = network[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        layer.scores.copy_(torch.tensor([[0.1, -0.4, 0.3, 0.2]]))
    (masks,) = find_masks(network, [0.5])  # 4 - round(0.5 * 3) = 2 kept: |-0.4| and 0.3
    assert masks["0"].tolist() == [[False, True, True, False]]
    tensors = masked_weights(network, masks)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"0.weight": [[0.0, 10.0, 100.0, 0.0]]}
    functional_call(network, tensors, (torch.ones(1, 4),)).backward()
    assert layer.weight.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    assert layer.scores.grad.tolist() == [[0.0, -10.0, 100.0, 0.0]]  # G * W * sign(S) on kept weights
    assert network(torch.ones(1, 4)).item() == 1111.0  # the layer itself stays dense


def test_masks_of_several_capacities_are_those_of_each() -> None:
    network = make_prunable(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)))
    for layer in prunable_layers(network).values():
        init_scores(layer, "kaiming")
    for capacity, masks in zip((0.2, 0.7), find_masks(network, [0.2, 0.7]), strict=True):
        (alone,) = find_masks(network, [capacity])
        assert masks.keys() == alone.keys() == {"0", "1"}
        assert all(torch.equal(masks[name], alone[name]) for name in masks)
    assert find_masks(network, []) == []


def test_scores_that_are_not_finite_are_refused_by_the_layers_name() -> None:
    network = make_prunable(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    for layer in prunable_layers(network).values():
        init_scores(layer, "kaiming")
    check_scores(network)
    with torch.no_grad():
        network[1].scores[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"'1'.*scores.*1 of 4"):
        check_scores(network)


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()])
def test_casts_leave_scores_and_so_the_choice_alone(cast) -> None:
    model = tiny()
    expected = find_masks(model, [0.2, 0.6])
    scores = {name: layer.scores.detach().clone() for name, layer in model.prunable_layers().items()}
    next(iter(model.prunable_layers().values())).scores.grad = torch.ones_like(next(iter(scores.values())))
    cast(model)
    for name, layer in model.prunable_layers().items():
        assert torch.equal(layer.scores, scores[name])
        assert layer.scores.dtype == torch.float32
        assert layer.scores.grad is None or layer.scores.grad.dtype == torch.float32
    found = find_masks(model, [0.2, 0.6])
    assert all(torch.equal(mask, expected[0][name]) for name, mask in found[0].items())


def test_scores_of_a_network_made_in_half_precision_are_float32() -> None:
    model = PrunNetModel._from_config(tiny_config(), dtype=torch.bfloat16)
    assert {layer.scores.dtype for layer in model.prunable_layers().values()} == {torch.float32}
    assert {layer.weight.dtype for layer in model.prunable_layers().values()} == {torch.bfloat16}


def test_scores_move_with_the_network() -> None:
    model = tiny().to(torch.bfloat16, memory_format=torch.channels_last).to("meta")
    assert all(layer.scores.is_meta for layer in model.prunable_layers().values())
    assert model.prunnet.backbone.conv1.scores.is_contiguous(memory_format=torch.channels_last)
