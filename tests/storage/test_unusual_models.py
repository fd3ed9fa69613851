"""Models that torch or timm make differently: layers of several names, other batch norms, compiled ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm.layers
import torch
from torch import nn

from prunnet_hf import PrunNetForImageClassification
from tests.tiny_models import assert_same_state, images, same_state, state_of, tiny, tiny_config

COAT: dict[str, Any] = {"embed_dims": [64] * 4, "serial_depths": [1] * 4, "mlp_ratios": [1] * 4}
CONVERSIONS = (nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm)


@pytest.mark.parametrize("options", [{}, {"bands": [0.2, 0.6]}], ids=["plain", "bands"])
@torch.no_grad()
def test_layers_of_several_names(options: dict[str, Any], tmp_path: Path) -> None:
    model = PrunNetForImageClassification(tiny_config(backbone="coat_lite_tiny", backbone_kwargs=COAT)).eval()
    shared = model.prunnet.backbone.cpe1.proj
    assert shared is model.prunnet.backbone.serial_blocks1[0].cpe.proj
    shared.weight.mul_(2)
    for name in ("first", "again"):
        model.save_pretrained(tmp_path / name, **options)
        loaded = PrunNetForImageClassification.from_pretrained(tmp_path / name)
        loaded_shared = loaded.prunnet.backbone.cpe1.proj
        assert loaded_shared is loaded.prunnet.backbone.serial_blocks1[0].cpe.proj
        assert torch.equal(loaded_shared.weight, shared.weight)
        assert torch.equal(loaded(images()).logits, model(images()).logits)
        model = loaded
    assert same_state(loaded.prune(0.2), model.prune(0.2))
    loaded.prune(0.2).save_pretrained(tmp_path / "checkpoint-1")  # plain, for transformers' Trainer
    assert_same_state(
        PrunNetForImageClassification.from_pretrained(tmp_path / "checkpoint-1"), state_of(model.prune(0.2))
    )


@pytest.mark.parametrize("convert", CONVERSIONS, ids=["torch", "timm"])
class TestSynchronisedBatchNorms:
    def test_they_are_saved_without_statistics_of_subnetworks(self, convert, tmp_path: Path, caplog) -> None:
        model = convert(tiny())
        for options in ({}, {"bands": []}):
            caplog.clear()
            model.save_pretrained(tmp_path, **options)
            assert "convert_sync_batchnorm" in caplog.text
            assert "model.calibrate(images)" in caplog.text
            assert model.config.stored_subnetworks == [0.2, 0.6]
            loaded = PrunNetForImageClassification.from_pretrained(tmp_path)
            assert loaded.config.statistics_capacities == [1.0]
            with pytest.warns(UserWarning, match=r"below capacity 1\.00.*calibration"):
                loaded.prune(0.2)

    def test_the_dense_statistics_stand_in(self, convert) -> None:
        plain, model = tiny(), convert(tiny())
        with pytest.warns(UserWarning, match=r"below capacity 1\.00.*calibration"):
            cut = model.prune(0.2)
        own = plain.prunnet.backbone.bn1.running_mean
        assert torch.equal(cut.prunnet.backbone.bn1.running_mean, own)
        with pytest.warns(UserWarning, match=r"below capacity 1\.00"), torch.no_grad():
            model.eval()(images(), capacity=0.2)

    def test_calibrating_brings_them_back(self, convert, tmp_path: Path, caplog) -> None:
        plain, model = tiny(), convert(tiny()).eval()
        model.calibrate([images(seed=1), images(seed=2)])
        model.save_pretrained(tmp_path)
        assert "convert_sync_batchnorm" not in caplog.text
        assert_same_state(PrunNetForImageClassification.from_pretrained(tmp_path), state_of(plain))


def test_compiled_models_run_at_a_capacity() -> None:
    model = tiny().prunnet
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = torch.compile(model, backend="eager")(images(), capacity=0.3).pooler_output
    torch._dynamo.reset()
    expected = model(images(), capacity=0.3).pooler_output
    torch.testing.assert_close(found, expected)
    first = model.backbone.conv1.scores
    gradients = [torch.autograd.grad(output.square().sum(), first)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)
