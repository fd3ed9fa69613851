"""Pruning, its statistics, and each layer's share; test_modeling_prunnet.py tests all backbones."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetModel
from prunnet_hf.pruning.allocation import ALLOCATIONS, allocated_counts
from prunnet_hf.pruning.masking import kept_count
from tests.tiny_models import assert_same_state, images, same_state, state_of, tiny, tiny_config

OTHERS = [allocation for allocation in ALLOCATIONS if allocation != "uniform"]


@pytest.fixture(scope="module")
def resnet() -> PrunNetForImageClassification:
    """For what doesn't depend on the backbone; not to be changed."""
    return tiny()


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    """Trained, as far as a configuration can tell; not to be changed."""
    made = tiny()
    with torch.no_grad():
        for power, layer in enumerate(made.prunable_layers().values()):
            layer.weight.pow_(1 + 2 * (power % 3))  # so that layers differ in their PQ Index
    made.renew_embedding_space()
    return made


def kept(pruned: PrunNetForImageClassification) -> dict[str, Tensor]:
    return {name: pruned.get_parameter(name) != 0 for name in pruned.packable_weights()}


class TestPruning:
    @pytest.mark.parametrize("capacity", [0.0, -0.5, 1.5, math.nan])
    def test_capacity_out_of_range(self, resnet, capacity: float) -> None:
        for use in (resnet.prune, resnet.prunnet.subnetwork, lambda capacity: resnet(images(), capacity=capacity)):
            with pytest.raises(ValueError, match=r"capacity.*\(0, 1\]"):
                use(capacity)

    @pytest.mark.parametrize("capacity", ["0.2", True])
    def test_capacity_of_another_type(self, resnet, capacity: Any) -> None:
        for use in (resnet.prune, lambda capacity: resnet(images(), capacity=capacity)):
            with pytest.raises(TypeError, match=r"capacity.*\(0, 1\]"):
                use(capacity)

    def test_a_pruned_model_names_its_capacity_and_the_way_out(self, resnet) -> None:
        pruned = resnet.prune(capacity=0.25)
        uses = (
            lambda: pruned.prune(capacity=0.1),
            lambda: pruned(images(), capacity=0.1),
            lambda: pruned.keep_statistics([]),
        )
        for use in uses:
            with pytest.raises(ValueError, match=r"capacity 0\.25.*dense checkpoint"):
                use()

    def test_scores_that_are_not_numbers(self, resnet) -> None:
        broken = copy.deepcopy(resnet)
        with torch.no_grad():
            next(iter(broken.prunable_layers().values())).scores[0, 0, 0, 0] = math.nan
        with pytest.raises(ValueError, match=r"scores.*finite"):
            broken.prune(capacity=0.5)

    def test_the_mode_and_frozen_biases_are_kept(self, resnet) -> None:
        model = copy.deepcopy(resnet).train()
        assert model.prune(capacity=0.5).training
        assert not resnet.prune(capacity=0.5).training

    @torch.no_grad()
    def test_the_embedding_model_alone_prunes_alike(self, resnet) -> None:
        embeddings = resnet.prune(capacity=0.3).prunnet(images()).pooler_output
        assert torch.equal(resnet.prunnet.prune(capacity=0.3)(images()).pooler_output, embeddings)

    def test_projector_and_classifier_stay_dense(self, resnet) -> None:
        pruned = resnet.prune(capacity=0.2)
        assert torch.equal(pruned.classifier.weight, resnet.classifier.weight)
        assert torch.equal(pruned.prunnet.projector[0].weight, resnet.prunnet.projector[0].weight)

    def test_what_is_prunable(self, resnet) -> None:
        expected = {
            f"prunnet.backbone.{name}"
            for name, module in resnet.prune(capacity=0.5).prunnet.backbone.named_modules()
            if type(module) in (nn.Conv2d, nn.Linear)
        }
        assert set(resnet.prunable_layers()) == expected
        assert "prunnet.backbone.conv1" in expected, "the first convolution too"


class TestStatistics:
    def test_stored_statistics_become_those_of_the_subnetwork(self, resnet) -> None:
        norm = resnet.prunnet.backbone.bn1
        mean = norm.statistics_mean
        assert torch.equal(resnet.prune(capacity=0.2).prunnet.backbone.bn1.running_mean, mean[0])
        assert torch.equal(resnet.prune(capacity=0.6).prunnet.backbone.bn1.running_mean, mean[1])
        assert torch.equal(resnet.prune(capacity=1.0).prunnet.backbone.bn1.running_mean, norm.running_mean)
        half = resnet.prune(capacity=0.8).prunnet.backbone.bn1.running_mean  # half way from 0.6 to the dense network
        torch.testing.assert_close(half, (mean[1] + norm.running_mean) / 2)

    def test_below_the_smallest_a_warning(self, resnet) -> None:
        with pytest.warns(UserWarning, match=r"0\.20.*0\.10.*calibration"):
            resnet.prune(capacity=0.1)

    def test_calibration_measures_the_batches_it_is_given(self, resnet) -> None:
        batches = [images(4, seed=7), images(6, seed=8)]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            pruned = resnet.prune(capacity=0.3, calibration=iter(batches))
        backbone = pruned.prunnet.backbone
        with torch.no_grad():
            activations = [backbone.conv1(batch) for batch in batches]
        means = [activation.mean((0, 2, 3)) for activation in activations]
        variances = [activation.var((0, 2, 3)) for activation in activations]
        # Batches of 4 and 6 images: weighed 0.4 and 0.6.
        torch.testing.assert_close(backbone.bn1.running_mean, 0.4 * means[0] + 0.6 * means[1])
        torch.testing.assert_close(backbone.bn1.running_var, 0.4 * variances[0] + 0.6 * variances[1])

    def test_calibration_below_the_smallest_warns_of_nothing(self, resnet) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            resnet.prune(capacity=0.05, calibration=[images()])

    def test_a_low_capacity_between_stored_ones_is_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        model = PrunNetModel(tiny_config(statistics_capacities=[0.05, 0.6]))
        model.prune(capacity=0.1)
        (record,) = caplog.records
        assert "0.05 and 0.60" in record.getMessage()
        caplog.clear()
        model.prune(capacity=0.3)
        model.prune(capacity=0.1, calibration=[images()])
        model(images(), capacity=0.1)
        assert not caplog.records

    def test_calibration_of_no_tensors(self, resnet) -> None:
        with pytest.raises(TypeError, match=r"batch 0 is a dict.*batch\['pixel_values'\]"):
            resnet.prune(capacity=0.3, calibration=[{"pixel_values": images()}])

    def test_a_half_precision_model_is_calibrated_in_its_own_type(self) -> None:
        model = PrunNetModel(tiny_config()).to(torch.bfloat16)
        model.calibrate([images(4), images(2)], progress=False)
        pruned = model.prune(capacity=0.3, calibration=[images(4), images(2)], progress=False)
        assert {buffer.dtype for name, buffer in pruned.named_buffers() if "running" in name} == {torch.bfloat16}
        assert {buffer.dtype for name, buffer in model.named_buffers() if "stat" in name} == {torch.bfloat16}

    def test_empty_calibration(self, resnet) -> None:
        with pytest.raises(ValueError, match=r"calibration.*at least one batch"):
            resnet.prune(capacity=0.3, calibration=[])

    def test_calibrate_agrees_with_calibration_and_leaves_the_weights(self, resnet) -> None:
        model = copy.deepcopy(resnet).train()
        parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
        batches = [images(4, seed=7), images(4, seed=8)]
        model.calibrate(iter(batches))
        assert model.training
        assert all(torch.equal(parameter, parameters[name]) for name, parameter in model.named_parameters())
        for capacity in (0.2, 0.6, 1.0):
            measured = model.prune(capacity, calibration=batches).state_dict()
            for name, tensor in model.prune(capacity).state_dict().items():
                if "running" in name:
                    torch.testing.assert_close(tensor, measured[name])

    def test_training_a_subnetwork_leaves_all_statistics_alone(self, resnet) -> None:
        model = copy.deepcopy(resnet).train()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model(images(), torch.tensor([0, 1, 2, 0]), capacity=0.2).loss.backward()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        model(images())
        assert not torch.equal(model.prunnet.backbone.bn1.running_mean, before["prunnet.backbone.bn1.running_mean"])

    def test_keep_statistics(self, resnet, tmp_path: Path) -> None:
        model = copy.deepcopy(resnet)
        model.keep_statistics([0.6, 1.0])
        assert model.config.statistics_capacities == [0.6, 1.0]
        assert torch.equal(model.prunnet.backbone.bn1.statistics_mean, resnet.prunnet.backbone.bn1.statistics_mean[1:])
        model.save_pretrained(tmp_path)
        assert_same_state(PrunNetForImageClassification.from_pretrained(tmp_path), state_of(model))

    def test_statistics_that_are_not_stored_cannot_be_kept(self, resnet) -> None:
        with pytest.raises(ValueError, match=r"capacities.*\[0\.2, 0\.6\].*\[0\.3\]"):
            copy.deepcopy(resnet).keep_statistics([0.3, 0.6])


class TestEmbeddingSpace:
    def test_its_life(self, resnet) -> None:
        model = copy.deepcopy(resnet)
        assert model.config.embedding_space is None
        space = model.renew_embedding_space()
        assert space == model.config.embedding_space
        assert len(space) == 16
        assert int(space, 16) >= 0
        assert model.prune(capacity=0.2).config.embedding_space == space
        assert model.renew_embedding_space() == space, "the same weights, the same space"

    def test_it_follows_the_weights_of_the_embeddings_only(self, resnet) -> None:
        model = copy.deepcopy(resnet)
        space = model.renew_embedding_space()
        with torch.no_grad():
            model.classifier.weight.add_(1.0)
            next(iter(model.prunable_layers().values())).scores.add_(1.0)
        assert model.renew_embedding_space() == space
        assert model.prunnet.renew_embedding_space() == space, "whichever class holds the network"
        with torch.no_grad():
            model.prunnet.projector[0].bias[0] += 1e-6
        assert model.renew_embedding_space() != space


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("capacity", [0.05, 0.2, 0.6])
def test_as_many_weights_whatever_the_allocation(model, allocation: str, capacity: float) -> None:
    pruned = model.prune(capacity, [images()], allocation=allocation)
    expected = allocated_counts(model.prunable_layers(), capacity, allocation)
    assert {name.removesuffix(".weight"): int(mask.sum()) for name, mask in kept(pruned).items()} == expected
    sizes = [layer.weight.numel() for layer in model.prunable_layers().values()]
    assert sum(expected.values()) == sum(kept_count(capacity, size) for size in sizes)
    assert pruned.config.allocation == allocation
    assert model.config.allocation == "uniform"


@pytest.mark.parametrize("allocation", OTHERS)
def test_layers_get_other_shares(model, allocation: str) -> None:
    uniform = allocated_counts(model.prunable_layers(), 0.2)
    assert allocated_counts(model.prunable_layers(), 0.2, allocation) != uniform


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_subnetworks_are_nested(model, allocation: str) -> None:
    chain = [kept(model.prune(c, [images()], allocation=allocation)) for c in (0.05, 0.051, 0.3, 0.8, 1.0)]
    for small, large in pairwise(chain):
        assert not any((small[name] & ~large[name]).any() for name in small)


@pytest.mark.parametrize("allocation", OTHERS)
def test_stored_statistics_are_of_uniform_subnetworks(model, allocation: str, caplog) -> None:
    model.prune(0.2, allocation=allocation)
    assert f"not of allocation='{allocation}'" in caplog.text
    caplog.clear()
    model.prune(0.2)
    model.prune(0.2, [images()], allocation=allocation)
    model.prune(1.0, allocation=allocation)  # which leaves nothing to share out
    assert not caplog.records


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@torch.no_grad()
def test_it_saves_and_loads(model, allocation: str, tmp_path: Path) -> None:
    pruned = model.prune(0.2, [images()], allocation=allocation)
    pruned.save_pretrained(tmp_path)
    loaded = PrunNetForImageClassification.from_pretrained(tmp_path)
    assert same_state(loaded, pruned)
    assert (loaded.config.capacity, loaded.config.allocation) == (0.2, allocation)


@pytest.mark.parametrize("form", [{}, {"bands": [0.2, 0.6]}], ids=["plain", "bands"])
@pytest.mark.parametrize(("capacity", "allocation"), [(0.2, "global"), (0.6, "pq_index")])
def test_from_pretrained_prunes_in_the_same_way(
    model, form: dict[str, Any], capacity: Any, allocation: str, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path, **form)
    whole = PrunNetModel.from_pretrained(tmp_path)
    expected = whole.prune(capacity, allocation=allocation)
    for load in (PrunNetModel.from_pretrained, AutoModel.from_pretrained):
        found = load(tmp_path, capacity=capacity, allocation=allocation)
        assert same_state(found, expected)
        assert found.config.to_dict() == expected.config.to_dict()


@pytest.mark.parametrize("allocation", OTHERS)
def test_rebuilt_scores_share_out_nearly_alike(model, allocation: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, bands=[0.2, 0.6])
    found = kept(PrunNetForImageClassification.from_pretrained(tmp_path, capacity=0.3, allocation=allocation))
    exact = kept(model.prune(0.3, allocation=allocation))
    differing = sum(int((found[name] != mask).sum()) for name, mask in exact.items())
    total = sum(int(mask.sum()) for mask in exact.values())
    assert sum(int(mask.sum()) for mask in found.values()) == total
    assert differing <= 0.05 * total


def test_loading_refuses_what_it_cannot_mean(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"allocation='global'.*capacity="):
        PrunNetModel.from_pretrained(tmp_path, allocation="global")
    with pytest.raises(ValueError, match=r"allocation.*'uniform'"):
        PrunNetModel.from_pretrained(tmp_path, capacity=0.2, allocation="best")
    with pytest.raises(TypeError, match=r"capacity.*\(0, 1\].*'small'"):
        PrunNetModel.from_pretrained(tmp_path, capacity="small")
    with pytest.raises(TypeError, match=r"allocation='global'.*from_pretrained"):
        PrunNetConfig.from_pretrained(tmp_path, allocation="global")


def test_a_pruned_checkpoint_keeps_its_allocation(model, tmp_path: Path) -> None:
    model.prune(0.2, [images()], allocation="global").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"capacity 0\.20.*dense checkpoint"):
        PrunNetModel.from_pretrained(tmp_path, capacity=0.1, allocation="pq_index")


def test_an_unknown_allocation(model) -> None:
    with pytest.raises(ValueError, match=r"allocation.*'uniform', 'pq_index', 'global'.*'best'"):
        model.prune(0.2, allocation="best")


def test_weights_that_are_not_finite() -> None:
    broken = tiny()
    with torch.no_grad():
        broken.prunnet.backbone.conv1.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"'prunnet\.backbone\.conv1'.*weights.*1 of"):
        broken.prune(0.5, allocation="pq_index")
