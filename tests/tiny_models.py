"""Models small enough to be made, calibrated, pushed and loaded in a fraction of a second, and how to compare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.pruning.masking import kept_masks

RESNET18: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}  # backbone_kwargs: four blocks

UNITS_OF_RESNET18: dict[str, Any] = {
    "layers": [1, 1, 1, 1],
    "channels": [4, 4, 16, 16],
    "stem_width": 4,
    "stem_type": "deep",
}
"""backbone_kwargs: groups of 4, 4, 16 and 16 units, which hold more than half of the parameters."""

SHORT_STEM: dict[str, Any] = {"stem_width": 4, "stem_type": "deep"}
UNIT_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "basic block": ("resnet18", UNITS_OF_RESNET18),
    "bottleneck": ("resnet50", {"layers": [2, 1, 1, 1], "channels": [8, 8, 8, 8], **SHORT_STEM}),
    "grouped bottleneck": (
        "resnext50_32x4d",
        {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "cardinality": 4, "base_width": 64, **SHORT_STEM},
    ),
    "inverted residual": ("mobilenetv2_075", {"depth_multiplier": 0.3}),
    "squeeze and excite": ("tinynet_e", {}),
    "linear mlp": ("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "convolutional mlp": ("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "conv_mlp": True}),
    "attention": ("vit_small_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    "attention without bias": (
        "vit_small_patch16_224",
        {"depth": 2, "embed_dim": 48, "num_heads": 3, "qkv_bias": False},
    ),
    "window attention": (
        "swin_tiny_patch4_window7_224",
        {"depths": [2, 1], "embed_dim": 8, "num_heads": [1, 2], "window_size": 2},
    ),
}
"""A small network of each kind of block that has units, by the kind: its name in timm, and its backbone_kwargs."""


def tiny_config(**changes: Any) -> PrunNetConfig:
    """The configuration of `tiny()`, except `changes`."""
    settings = {"backbone": "resnet18", "backbone_kwargs": RESNET18, "image_size": 32, "embedding_dim": 8}
    capacities = {"capacities": [0.2, 0.6], "statistics_capacities": [0.2, 0.6]}
    return PrunNetConfig(**{**settings, **capacities, "num_labels": 3, **changes})


def images(count: int = 4, seed: int = 0) -> Tensor:
    """Noise `(count, 3, 32, 32)`, the same for the same seed."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def trained(config: PrunNetConfig, seed: int = 0) -> PrunNetForImageClassification:
    """A network in which everything matters: no layer scale of 1e-6 or zero, statistics that differ."""
    torch.manual_seed(seed)
    model = PrunNetForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    model.calibrate([images(seed=1), images(seed=2)])
    return model.eval()


def tiny(seed: int = 0, capacities: Sequence[float] = (0.2, 0.6)) -> PrunNetForImageClassification:
    """A ResNet-18 of four blocks, for what doesn't depend on the backbone."""
    return trained(tiny_config(capacities=list(capacities), statistics_capacities=list(capacities)), seed)


def config_of_units(kind: str, **changes: Any) -> PrunNetConfig:
    """The configuration of a network of `UNIT_BACKBONES`."""
    backbone, kwargs = UNIT_BACKBONES[kind]
    return tiny_config(backbone=backbone, backbone_kwargs=kwargs, granularity="channel", **changes)


def tiny_of_units(seed: int = 0, capacities: Sequence[float] = (0.2, 0.6)) -> PrunNetForImageClassification:
    """`tiny`, but its capacities are of whole units."""
    chosen = {"capacities": list(capacities), "statistics_capacities": list(capacities)}
    return trained(tiny_config(granularity="channel", backbone_kwargs=UNITS_OF_RESNET18, **chosen), seed)


def kept_mask(scores: Tensor, capacity: float) -> Tensor:
    """The mask of one layer at one capacity."""
    return kept_masks(scores, [capacity])[0]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's tensors, to compare with later."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are the same bit for bit, NaN and the sign of zero included."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    return torch.equal(*(tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (found, expected)))


def same_state(model: nn.Module, expected: nn.Module | dict[str, Tensor]) -> bool:
    """Whether the model has the tensors of another model or state, bit for bit."""
    wanted = expected.state_dict() if isinstance(expected, nn.Module) else expected
    found = model.state_dict()
    return found.keys() == wanted.keys() and all(same_bits(found[name], wanted[name]) for name in wanted)


def assert_same_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """As `same_state`; a failure names the tensor that differs."""
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert same_bits(found[name], tensor), name


def assert_close(found: Tensor, expected: Tensor, within: float = 5e-5) -> None:
    """Assert that no value differs by more than `within` of the largest one."""
    torch.testing.assert_close(found, expected, rtol=0.0, atol=within * expected.detach().abs().max().item())
