"""Rules: which units they find, and that a mask is a gate between a unit's producer and its consumers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention, BlurPool2d, GroupNorm1, Mlp
from timm.models._efficientnet_blocks import CondConvResidual, InvertedResidual, SqueezeExcite
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from prunnet_hf.pruning.channel_rules import RULES, find_units
from prunnet_hf.pruning.subnetworks import find_masks, scored_units
from tests.tiny_models import UNIT_BACKBONES, assert_close, config_of_units, images, trained


def find(block: nn.Module) -> dict[str, int]:
    return {name: group.num_units for name, group in find_units(block).items()}


class TestWhatIsFound:
    """The names of groups and the numbers of units, by hand."""

    def test_basic_block(self) -> None:
        assert find(BasicBlock(8, 6)) == {"conv1": 6}

    def test_bottleneck(self) -> None:
        assert find(Bottleneck(8, 2, base_width=128)) == {"conv1": 4, "conv2": 4}

    def test_grouped_bottleneck(self) -> None:
        block = Bottleneck(8, 4, cardinality=2, base_width=64)  # 8 channels in 2 groups
        (group,) = find_units(block).values()
        assert (group.name, group.num_units, group.are_single_channels) == ("conv1", 2, False)
        places = {axis.tensor: axis.places(torch.tensor([1]), 2).tolist() for axis in group.axes}
        assert places["conv1.weight"] == places["conv3.weight"] == places["bn2.running_var"] == [4, 5, 6, 7]

    @pytest.mark.parametrize("with_se", [False, True])
    def test_inverted_residual(self, with_se: bool) -> None:
        block = InvertedResidual(4, 4, exp_ratio=2.0, se_layer=SqueezeExcite if with_se else None)
        (group,) = find_units(block).values()
        assert (group.name, group.num_units, group.are_single_channels) == ("conv_pw", 8, True)
        consumers = {axis.tensor for axis in group.axes if axis.masked}
        assert consumers == {"conv_pwl.weight"} | ({"se.conv_reduce.weight"} if with_se else set())
        assert ("se.conv_expand.bias" in {axis.tensor for axis in group.axes}) == with_se

    @pytest.mark.parametrize("use_conv", [False, True])
    @pytest.mark.parametrize("norm_layer", [None, nn.BatchNorm1d])
    def test_mlp(self, use_conv: bool, norm_layer: Any) -> None:
        (group,) = find_units(Mlp(4, 12, norm_layer=norm_layer, use_conv=use_conv)).values()
        assert (group.name, group.num_units, group.are_single_channels) == ("fc1", 12, True)
        norm = (
            set() if norm_layer is None else {f"norm.{k}" for k in ("weight", "bias", "running_mean", "running_var")}
        )
        assert {axis.tensor for axis in group.axes} == {"fc1.weight", "fc1.bias", "fc2.weight"} | norm

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("kind", [Attention, WindowAttention])
    def test_attention(self, kind: Any, bias: bool) -> None:
        sizes = {"window_size": (2, 2)} if kind is WindowAttention else {}
        (group,) = find_units(kind(6, num_heads=2, qkv_bias=bias, **sizes)).values()
        assert (group.name, group.num_units, group.are_single_channels) == ("qkv", 3, False)
        tensors = {axis.tensor: axis.places(torch.tensor([1]), 3).tolist() for axis in group.axes}
        rows = [1, 4, 7, 10, 13, 16]  # the second of three dimensions in both heads of queries, keys and values
        assert tensors == {"qkv.weight": rows, "proj.weight": [1, 4]} | ({"qkv.bias": rows} if bias else {})

    def test_heads_of_another_width(self) -> None:
        assert find(Attention(8, num_heads=2, attn_head_dim=3)) == {"qkv": 3}

    def test_names_say_where_the_block_is(self) -> None:
        network = nn.Sequential(nn.Sequential(BasicBlock(8, 6)), Mlp(4, 12))
        assert find(network) == {"0.0.conv1": 6, "1.fc1": 12}


class MyMlp(Mlp):
    """It may compute something else."""


def another_se(width: int, **others: Any) -> nn.Module:
    return nn.Conv2d(width, width, 1)


MIXED = {"dw_kernel_size": [3, 5], "exp_ratio": 2.0}
NOT_KNOWN: dict[str, Callable[[], nn.Module]] = {
    "a norm over all units": lambda: BasicBlock(8, 6, norm_layer=GroupNorm1),
    "a blur between them": lambda: BasicBlock(8, 6, stride=2, aa_layer=BlurPool2d),
    "a norm in a bottleneck": lambda: Bottleneck(8, 2, norm_layer=GroupNorm1),
    "a layer norm of an mlp": lambda: Mlp(4, 12, norm_layer=nn.LayerNorm),
    "norms of queries and keys": lambda: Attention(6, 2, qk_norm=True, norm_layer=nn.LayerNorm),
    "a norm before proj": lambda: Attention(6, 2, scale_norm=True, norm_layer=nn.LayerNorm),
    "a gate": lambda: Attention(6, 2, gated=True),
    "groups of several channels": lambda: InvertedResidual(4, 4, exp_ratio=2.0, group_size=2),
    "another squeeze-excite": lambda: InvertedResidual(4, 4, exp_ratio=2.0, se_layer=another_se),
    "convolutions of several sizes": lambda: InvertedResidual(4, 4, **MIXED),
    "several experts": lambda: CondConvResidual(4, 4, exp_ratio=2.0, num_experts=2),
    "a subclass": lambda: MyMlp(4, 12),
}


@pytest.mark.parametrize("kind", NOT_KNOWN)
def test_blocks_with_something_unknown_have_no_units(kind: str) -> None:
    assert find_units(NOT_KNOWN[kind]()) == {}


# What each kind of producer feeds, beside the queries that an attention masks.
READERS = {
    "conv1": ["conv2"],
    "conv2": ["conv3"],
    "conv_pw": ["conv_pwl", "se.conv_reduce"],
    "fc1": ["fc2"],
    "qkv": ["proj"],
}


def add_gate(block: nn.Module, producer: str, gate: Tensor) -> None:
    """Multiply by `gate` `(num_units,)` what consumers read of each unit. This knows nothing of axes."""
    grouped = producer == "conv1" and hasattr(block, "conv3") and block.conv2.groups > 1
    for name in ["conv3"] if grouped else READERS[producer]:
        if name != "se.conv_reduce" or isinstance(block.se, SqueezeExcite):
            block.get_submodule(name).register_forward_pre_hook(
                lambda module, inputs: gated(module, inputs[0], gate, producer == "qkv")
            )
    if producer == "qkv":
        block.qkv.register_forward_hook(lambda module, inputs, output: gated_queries(output, gate))


def gated(reader: nn.Module, inputs: Tensor, gate: Tensor, in_every_head: bool) -> Tensor:
    width = inputs.shape[1] if isinstance(reader, nn.Conv2d) else inputs.shape[-1]
    # A unit of a grouped convolution is a run of channels; one of an attention is in every head.
    factor = gate.repeat(width // len(gate)) if in_every_head else gate.repeat_interleave(width // len(gate))
    return inputs * (factor[:, None, None] if isinstance(reader, nn.Conv2d) else factor)


def gated_queries(output: Tensor, gate: Tensor) -> Tensor:
    queries, others = output[..., : output.shape[-1] // 3], output[..., output.shape[-1] // 3 :]
    return torch.cat([queries * gate.repeat(queries.shape[-1] // len(gate)), others], -1)


@pytest.mark.parametrize("kind", UNIT_BACKBONES)
def test_masks_and_gradients_are_those_of_gates(kind: str) -> None:
    model = trained(config_of_units(kind)).double()
    (masks,) = find_masks(model, [0.35])
    values = images().double()
    output = model(values, capacity=0.35).logits
    output.square().sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    statistics = {name: t for name, t in model.subnetwork(0.35).items() if "running" in name}
    for name in scored_units(model):
        scores = model.get_submodule(name).units.scores
        # A gate that is the mask, and whose derivative is the estimator's: that of |s| where a unit is kept.
        gate = masks[name] * (1.0 + scores.abs() - scores.abs().detach())
        block, _, producer = name.rpartition(".")
        add_gate(model.get_submodule(block), producer, gate)
    expected = torch.func.functional_call(model, statistics, (values,)).logits
    assert_close(output, expected, within=1e-12)
    expected.square().sum().backward()
    assert sum(name.endswith(".scores") for name in found) == len(masks)
    for name, parameter in model.named_parameters():
        assert_close(found[name], parameter.grad, within=1e-9)
    assert all(found[f"{name}.units.scores"].any() for name in masks)


def test_rules_are_for_blocks_that_timm_has() -> None:
    assert {kind.__module__.partition(".")[0] for kind in RULES} == {"timm"}
    assert len(RULES) == 6


def test_scores_do_not_hide_units() -> None:
    model = trained(config_of_units("basic block"))
    assert scored_units(model).keys() == find_units(model).keys()
    assert find_units(timm.create_model("resnet18", **UNIT_BACKBONES["basic block"][1])).keys() == {
        name.removeprefix("prunnet.backbone.") for name in scored_units(model)
    }
