"""A small network in a space of its own, and its image processor."""

from __future__ import annotations

import pytest
import torch

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel

SIZE = 32


@pytest.fixture(scope="session")
def model() -> PrunNetModel:
    """In eval mode. No test may change its weights."""
    torch.manual_seed(0)
    backbone_kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4}
    config = PrunNetConfig(backbone="resnet10t", backbone_kwargs=backbone_kwargs, image_size=SIZE, embedding_dim=6)
    model = PrunNetModel(config).eval()
    model.renew_embedding_space()
    return model


@pytest.fixture(scope="session")
def processor() -> PrunNetImageProcessor:
    return PrunNetImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
