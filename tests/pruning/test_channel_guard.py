"""The guard: what has no units or other ones than the rules say can't be made prunable by units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.backbone import features_of
from prunnet_hf.pruning.channel_guard import check_units, share_in_units
from prunnet_hf.pruning.channel_rules import find_units
from tests.tiny_models import (
    UNITS_OF_RESNET18,
    assert_same_state,
    config_of_units,
    state_of,
    tiny_config,
    tiny_of_units,
)

SMALL = {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 16]}
WITHOUT_UNITS: dict[str, dict[str, Any]] = {
    "regnety_002": {},
    "resnetv2_50": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "vgg11_bn": {},
    "densenet121": {"block_config": (1, 1, 1, 1)},
    "convnextv2_atto": SMALL,
    "mobilenetv4_conv_small_035": {},
    "mixnet_s": {},
}


@pytest.mark.parametrize("backbone", WITHOUT_UNITS)
def test_backbones_without_units(backbone: str) -> None:
    config = PrunNetConfig(
        backbone=backbone, backbone_kwargs=WITHOUT_UNITS[backbone], image_size=64, granularity="channel"
    )
    with torch.device("meta"), pytest.raises(ValueError, match="granularity") as caught:
        PrunNetModel(config)
    message = str(caught.value)
    assert message.startswith(f"backbone='{backbone}' can't have granularity='channel': ")
    for word in ("% of its parameters", "50%", "ResNet", "MobileNetV2", "ConvNeXt", "ViT", "granularity='weight'"):
        assert word in message
    assert "\n" not in message


def test_the_same_backbones_have_single_weights() -> None:
    with torch.device("meta"):
        assert PrunNetModel(PrunNetConfig(backbone="regnety_002", image_size=64)).prunable_layers()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=0, **UNITS_OF_RESNET18)


def tied_together(self: Mlp, x: Tensor) -> Tensor:
    hidden = self.act(self.fc1(x))
    return self.fc2(hidden / hidden.std(-1, keepdim=True))


def scaled_otherwise(self: Attention, x: Tensor, **others: Any) -> Tensor:
    batch, tokens, _ = x.shape
    q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    return self.proj((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def in_another_order(self: Attention, x: Tensor, **others: Any) -> Tensor:
    batch, tokens, _ = x.shape
    q, k, v = self.qkv(x).reshape(batch, tokens, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)
    return self.proj((q @ k.mT * self.scale).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def of_a_fixed_width(self: Mlp, x: Tensor) -> Tensor:
    return self.fc2(self.act(self.fc1(x)).unflatten(-1, (2, 96)).flatten(-2))


class TestBlocksThatComputeSomethingElse:
    """A rule is wrong about a block: here because the block, which timm could change, isn't what it was."""

    @pytest.mark.parametrize(
        ("block", "forward"),
        [(Mlp, tied_together), (Mlp, of_a_fixed_width), (Attention, scaled_otherwise), (Attention, in_another_order)],
    )
    def test_they_are_refused(self, block: Any, forward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(block, "forward", forward)
        with pytest.raises(
            ValueError, match=r"^backbone='vit_small_patch16_224'.*rules for its blocks.*ViT"
        ) as caught:
            PrunNetModel(config_of_units("attention"))
        assert "\n" not in str(caught.value)

    def test_also_where_a_block_begins_without_effect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Mlp, "forward", tied_together)
        model = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
        assert model.stages[0].blocks[0].gamma.max() < 1e-5
        with pytest.raises(ValueError, match=r"^backbone='convnext_tiny'.*rules"):
            PrunNetModel(config_of_units("linear mlp"))

    def test_a_place_that_a_rule_forgets(self, network: nn.Module) -> None:
        groups = find_units(network)
        whole = groups["layer3.0.conv1"]
        for axis in whole.axes:
            groups["layer3.0.conv1"] = replace(whole, axes=tuple(other for other in whole.axes if other != axis))
            with pytest.raises(ValueError, match=r"^backbone='mine'.*rules"):
                check_units("mine", network, groups, features_of, 32)

    def test_a_size_that_a_rule_forgets(self) -> None:
        network = timm.create_model("mobilenetv2_075", num_classes=0, depth_multiplier=0.3)
        groups = find_units(network)
        whole = groups["blocks.1.0.conv_pw"]
        without = {key: size for key, size in whole.sizes.items() if key[1] != "groups"}
        groups["blocks.1.0.conv_pw"] = replace(whole, sizes=without)
        with pytest.raises(ValueError, match=r"^backbone='mine'.*rules"):
            check_units("mine", network, groups, features_of, 32)


class TestItDisturbsNothing:
    def test_the_same_seed_gives_the_same_network(self) -> None:
        def make(granularity: str) -> dict[str, Tensor]:
            torch.manual_seed(0)
            model = PrunNetModel(tiny_config(backbone_kwargs=UNITS_OF_RESNET18, granularity=granularity))
            return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(".scores")}

        weight, channel = make("weight"), make("channel")
        assert weight.keys() == channel.keys()
        assert all(torch.equal(tensor, channel[name]) for name, tensor in weight.items())

    def test_no_number_is_drawn_and_nothing_changed(self, network: nn.Module) -> None:
        before, state = torch.get_rng_state(), state_of(network)
        check_units("mine", network, find_units(network), features_of, 32)
        assert torch.equal(torch.get_rng_state(), before)
        assert_same_state(network, state)
        assert all(module.training for module in network.modules())
        assert network.layer1[0].conv1.out_channels == 4

    @pytest.mark.parametrize("context", [lambda: torch.device("meta"), lambda: torch.autocast("cpu", torch.bfloat16)])
    def test_in_any_surroundings(self, network: nn.Module, context: Any) -> None:
        with context():
            check_units("mine", network, find_units(network), features_of, 32)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_with_any_default_type(self, dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)
        try:
            model = PrunNetModel(config_of_units("attention"))
        finally:
            torch.set_default_dtype(torch.float32)
        assert model.backbone.pos_embed.dtype == dtype

    def test_nothing_is_computed_when_weights_are_loaded(self, tmp_path: Path) -> None:
        tiny_of_units().save_pretrained(tmp_path)
        inputs: list[bool] = []
        hook = register_module_forward_pre_hook(lambda module, values: inputs.append(values[0].is_meta))
        try:
            PrunNetModel.from_pretrained(tmp_path)
        finally:
            hook.remove()
        assert inputs, "the shapes are checked"
        assert all(inputs)


def test_the_share_is_that_of_the_tensors_that_are_cut() -> None:
    network = nn.Sequential(
        nn.Linear(2, 3), Mlp(3, 5, 2)
    )  # 9 parameters, and 20 + 12 in an mlp with 2 in its last bias
    assert share_in_units(network, find_units(network)) == (20 + 10) / (9 + 20 + 12)
    assert share_in_units(nn.Identity(), {}) == 0
