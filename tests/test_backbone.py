"""Backbones: any timm model that fits, a clear word where one doesn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunnet_hf import PrunNetConfig
from prunnet_hf.backbone import create_backbone, feature_size, has_fitting_weights

SMALL_VIT = {"depth": 1, "embed_dim": 24, "num_heads": 3}
SMALL_SWIN = {"depths": [1, 1], "embed_dim": 8, "num_heads": [1, 2], "window_size": 4}


def config(backbone: str, image_size: int = 32, stem_pool: bool = True, **kwargs: Any) -> PrunNetConfig:
    return PrunNetConfig(backbone=backbone, backbone_kwargs=kwargs, image_size=image_size, stem_pool=stem_pool)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "size"),
    [
        ("resnet18", {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 12]}, 12),
        ("vit_small_patch16_224", SMALL_VIT, 24),
        ("mobilenetv3_small_050", {}, 1024),  # pools first, then widens
    ],
)
def test_feature_size_is_the_length_of_the_pooled_features(backbone: str, kwargs: dict[str, Any], size: int) -> None:
    network = create_backbone(config(backbone, **kwargs)).eval()
    with torch.no_grad():
        features = network.forward_head(network.forward_features(torch.zeros(1, 3, 32, 32)))
    assert features.shape == (1, size)
    assert feature_size(network) == size


def test_backbones_of_one_size_are_built_for_it() -> None:
    network = create_backbone(config("vit_small_patch16_224", image_size=48, **SMALL_VIT))
    assert network.pos_embed.shape == (1, 3 * 3 + 1, 24)


@pytest.mark.parametrize("backbone", ["resnet_18", "vit_smal_patch16_224"])
def test_an_unknown_backbone_with_a_suggestion(backbone: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone.*'{backbone}'.*Did you mean .+\?"):
        create_backbone(config(backbone))


def test_an_unknown_backbone_like_no_other() -> None:
    with pytest.raises(ValueError, match=r"backbone.*'0000'\.$"):
        create_backbone(config("0000"))


@pytest.mark.parametrize(
    ("backbone", "image_size", "kwargs"),
    [
        ("vit_small_patch16_224", 8, SMALL_VIT),  # smaller than a patch
        ("swin_tiny_patch4_window7_224", 2, SMALL_SWIN),
        ("convnext_tiny", 1, {"depths": [1, 1, 1, 1], "dims": [4, 4, 4, 4]}),
    ],
)
def test_an_image_size_the_backbone_cannot_take(backbone: str, image_size: int, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"image_size={image_size}\b") as caught:
        create_backbone(config(backbone, image_size=image_size, **kwargs))
    assert backbone in str(caught.value)


@pytest.mark.parametrize("kwargs", [{"no_such_argument": 1}, {"num_classes": 5}, {"depth": 1, "num_heads": 5}])
def test_arguments_that_timm_refuses(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="backbone='vit_small_patch16_224'") as caught:
        create_backbone(config("vit_small_patch16_224", **kwargs))
    assert repr(kwargs) in str(caught.value)


@pytest.mark.parametrize("kwargs", [{"channels": []}, {"channels": {}}, {"layers": [1, 1], "channels": [4, 8]}])
def test_arguments_of_which_timm_builds_no_network(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(timm can't build )?backbone='resnet18'") as caught:
        create_backbone(config("resnet18", **kwargs))
    assert repr(kwargs) in str(caught.value)


def test_no_prunable_layer() -> None:
    # All convolutions of timm's BiT are StdConv2d, which standardise their weight: a subclass. num_classes=0 leaves no
    # linear layer.
    with pytest.raises(ValueError, match=r"'resnetv2_50x1_bit'.*torch\.nn\.Conv2d"):
        create_backbone(config("resnetv2_50x1_bit"))


@pytest.mark.parametrize("backbone", ["convnext_tiny", "vit_small_patch16_224"])
def test_no_stem_pool_to_leave_out(backbone: str) -> None:
    kwargs = SMALL_VIT if backbone.startswith("vit") else {"depths": [1, 1, 1, 1], "dims": [4, 4, 4, 4]}
    with pytest.raises(ValueError, match=f"stem_pool=False.*maxpool.*'{backbone}'"):
        create_backbone(config(backbone, stem_pool=False, **kwargs))


def test_the_stem_pool_is_left_out() -> None:
    kwargs = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
    assert isinstance(create_backbone(config("resnet18", **kwargs)).maxpool, nn.MaxPool2d)
    assert isinstance(create_backbone(config("resnet18", stem_pool=False, **kwargs)).maxpool, nn.Identity)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("resnet18", {}, True),
        ("resnet18", {"drop_path_rate": 0.1}, True),
        ("resnet18", {"channels": [8, 8, 16, 16]}, False),
        ("resnet18", {"in_chans": 1}, False),
        ("resnet18", {"unheard_of": 1}, False),  # an error comes when it is built
        ("vit_small_patch16_224", {}, True),
        ("test_resnet.r160_in1k", {}, True),
        ("resnet18.nobody", {}, False),
        ("nobody", {}, False),
    ],
)
def test_pretrained_weights_that_fit(name: str, arguments: dict[str, object], expected: bool) -> None:
    assert has_fitting_weights(name, arguments) is expected


def test_pretrained_weights_that_can_not_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"^.*'resnet18' can't be fetched .*--pretrained_backbone false\.$"):
        create_backbone(PrunNetConfig(backbone="resnet18"), pretrained=True)
