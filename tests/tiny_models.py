"""Models small enough to be made, pushed and loaded in a test of milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prunnet_hf import PrunNetConfig
from prunnet_hf import PrunNetForImageClassification


def tiny(seed: int = 0, capacities: Sequence[float] = (0.2, 0.6)) -> PrunNetForImageClassification:
    """A ResNet with four blocks and running statistics of each capacity, all different."""
    torch.manual_seed(seed)
    config = PrunNetConfig(
        backbone="resnet18",
        backbone_kwargs={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
        image_size=32,
        embedding_dim=8,
        num_labels=3,
        capacities=list(capacities),
        statistics_capacities=list(capacities),
    )
    model = PrunNetForImageClassification(config).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "statistics" in name or "running" in name:
                buffer.uniform_(0.5, 1.5)
    return model


def same_state(model: nn.Module, expected: nn.Module) -> bool:
    """Whether the two have the same tensors, bit for bit."""
    found, wanted = model.state_dict(), expected.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
