"""Pruning by magnitude of a network that was trained alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.compare.post_hoc import prunable_by_magnitude
from prunnet_hf import PrunNetForImageClassification
from tests.tiny_models import UNITS_OF_RESNET18, images, tiny_config


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_the_largest_weights_are_kept_and_the_dense_network_stays(granularity: str) -> None:
    config = tiny_config(granularity=granularity, backbone_kwargs=UNITS_OF_RESNET18)
    alone = PrunNetForImageClassification(config).prune(1.0).eval()
    model = prunable_by_magnitude(alone, [0.25, 0.5])
    assert model.config.capacities == [0.25, 0.5]
    assert {0.25, 0.5} <= set(model.config.statistics_capacities)
    batch = images()
    torch.testing.assert_close(model(batch).logits, alone(batch).logits)
    model.calibrate([images(8)], progress=False)
    small = model.prune(0.5)
    weights = dict(small.named_parameters())
    for name, layer in model.prunable_layers().items():
        before, after = layer.weight.detach(), weights[f"{name}.weight"].detach()
        kept = after != 0
        assert torch.equal(after[kept], before[kept])
        assert kept.sum() == round(0.5 * before.numel())
        assert before[kept].abs().min() >= before[~kept].abs().max()
