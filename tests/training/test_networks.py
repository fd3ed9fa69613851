"""SyncBatchNorm in the place of batch norms. It runs on GPUs alone: here it is put in place and looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.pruning.calibration import batch_norms
from prunnet_hf.training.networks import SyncedBatchNorms


def tiny_model(backbone: str = "resnet10t") -> PrunNetForImageClassification:
    torch.manual_seed(0)
    backbone_kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4} if backbone == "resnet10t" else {}
    config = PrunNetConfig(
        backbone=backbone, backbone_kwargs=backbone_kwargs, image_size=32, embedding_dim=6, num_labels=4
    )
    return PrunNetForImageClassification(config).train()


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv2_050"])  # plain norms, and norms with activations
def test_every_batch_norm_is_replaced_and_nothing_else_changes(backbone: str) -> None:
    model = tiny_model(backbone).to("meta")
    before = dict(model.named_parameters()), dict(model.named_buffers()), list(model.state_dict())
    plain = dict(batch_norms(model))
    synced = SyncedBatchNorms(model)
    found = dict(batch_norms(model))
    assert list(found) == list(plain)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in found.values())
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in plain.values())
    assert list(model.state_dict()) == before[2]
    assert all(parameter is before[0][name] for name, parameter in model.named_parameters())
    assert all(buffer is before[1][name] for name, buffer in model.named_buffers())
    activations = [getattr(norm, "act", None) for norm in plain.values()]
    assert [getattr(norm, "act", None) for norm in found.values()] == activations

    with synced.undone():
        assert batch_norms(model) == plain
    assert batch_norms(model) == found
    model.eval()
    synced.undo()
    assert batch_norms(model) == plain
    assert not any(norm.training for norm in plain.values())


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sync_batchnorm=True .*Leave --sync_batchnorm out"):
        SyncedBatchNorms(tiny_model())
