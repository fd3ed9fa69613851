"""Multiply-adds that can be counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.export.multiply_adds import count_multiply_adds
from prunnet_hf.pruning.masking import kept_count

SIZE = 8
DIM = 5


class ByHand(nn.Module):
    """A backbone whose multiply-adds can be counted: two convolutions, and a linear layer by its weight alone."""

    num_features = 7

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, kernel_size=3, padding=1, bias=False)
        self.grouped = nn.Conv2d(4, 6, kernel_size=2, stride=2, groups=2)
        self.read = nn.Linear(6, 7, bias=False)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.grouped(torch.relu(self.first(pixels))).flatten(2).transpose(1, 2)
        return F.linear(features, self.read.weight)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=1)


WEIGHTS = {"first": 4 * 3 * 3 * 3, "grouped": 6 * 2 * 2 * 2, "read": 7 * 6}
POSITIONS = {"first": 8 * 8, "grouped": 4 * 4, "read": 4 * 4}
PROJECTOR = 7 * DIM


@pytest.fixture
def model() -> PrunNetModel:
    config = PrunNetConfig(
        backbone="resnet10t",
        backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4},
        image_size=32,
        embedding_dim=DIM,
        prunable=False,
    )
    model: Any = PrunNetModel(config).eval()
    model.backbone = ByHand()
    model.projector = nn.Sequential(nn.Linear(7, DIM), nn.BatchNorm1d(DIM)).eval()
    return model


def test_dense_count_and_where_weights_are_used(model: PrunNetModel) -> None:
    found = count_multiply_adds(model, SIZE)
    assert found.dense == sum(WEIGHTS[name] * POSITIONS[name] for name in WEIGHTS) + PROJECTOR
    assert found.sizes == {f"backbone.{name}.weight": size for name, size in WEIGHTS.items()}
    assert found.positions == {f"backbone.{name}.weight": count for name, count in POSITIONS.items()}


@pytest.mark.parametrize("capacity", [0.2, 0.5, 1.0])
def test_subnetwork_counts_its_kept_weights_and_all_of_the_projector(model: PrunNetModel, capacity: float) -> None:
    kept = {name: kept_count(capacity, size) for name, size in WEIGHTS.items()}
    expected = sum(kept[name] * POSITIONS[name] for name in WEIGHTS) + PROJECTOR
    assert count_multiply_adds(model, SIZE).at(capacity) == expected


def test_count_is_the_same_for_a_pruned_network() -> None:
    config = PrunNetConfig(
        backbone="resnet10t",
        backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4},
        image_size=32,
        embedding_dim=DIM,
    )
    dense = PrunNetModel(config).eval()
    found = [count_multiply_adds(dense.prune(capacity), 32) for capacity in (0.2, 1.0)]
    assert found[0] == found[1]
    assert found[0].at(0.2) < found[0].at(1.0) == found[0].dense


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_with_all_and_with_half_of_its_units(device: str) -> None:
    config = PrunNetConfig(
        backbone="vit_tiny_patch16_224",
        backbone_kwargs={"depth": 3, "embed_dim": 32, "num_heads": 2},
        image_size=32,
        embedding_dim=DIM,
        granularity="channel",
    )
    dense = PrunNetModel(config).eval()
    for network, head, hidden in ((dense, 16, 128), (dense.prune(0.5), 8, 64)):
        # Four patches and the class token; queries, keys, values; scores and their sums; then the MLP.
        patches, inner, tokens = 4 * (16 * 16 * 3) * 32, 2 * head, 5
        attention = tokens * 32 * 3 * inner + 2 * tokens * tokens * inner + tokens * inner * 32
        expected = patches + 3 * (attention + 2 * tokens * 32 * hidden) + 32 * DIM
        found = count_multiply_adds(network.to(device), 32)
        assert found.dense == found.at(0.2) == expected


def test_counting_leaves_no_trace(model: PrunNetModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_multiply_adds(model, SIZE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(torch.rand(2, 3, SIZE, SIZE)).pooler_output.requires_grad
