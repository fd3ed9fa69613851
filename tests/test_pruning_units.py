"""Pruning by whole units: what `prune` promises, in the words of single weights (test_prunable_model.py)."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from prunnet_hf import PrunNetForImageClassification, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.pruning.masking import kept_count
from prunnet_hf.retrieval.spaces import check_compatible
from prunnet_hf.storage.weights_digest import digest_weights
from tests.tiny_models import assert_close, images, same_state, tiny_of_units

BLOCK = "prunnet.backbone.layer3.0"


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    """Trained, as far as a configuration can tell; not to be changed."""
    made = tiny_of_units()
    made.renew_embedding_space()
    return made


@pytest.mark.parametrize("capacity", [1e-9, 0.2, 0.35, 1, 1.0])
@pytest.mark.filterwarnings("ignore:No running statistics")
def test_any_capacity(model, capacity: float) -> None:
    pruned = model.prune(capacity)
    assert pruned.config.capacity == capacity
    assert pruned.prunable_units() == {name: kept_count(capacity, n) for name, n in model.prunable_units().items()}
    with torch.no_grad():
        assert_close(pruned(images()).logits, model(images(), capacity=capacity).logits)


def test_units_are_those_with_the_largest_scores_in_their_own_order(model) -> None:
    scores = model.get_submodule(f"{BLOCK}.conv1").units.scores
    count = kept_count(0.35, 16)
    expected = scores.abs().topk(count).indices.sort().values
    pruned = model.prune(0.35)
    for whole, thin in zip(model.get_submodule(BLOCK).children(), pruned.get_submodule(BLOCK).children(), strict=True):
        if whole is model.get_submodule(BLOCK).conv1:
            assert torch.equal(thin.weight, whole.weight[expected])
        if whole is model.get_submodule(BLOCK).conv2:
            assert torch.equal(thin.weight, whole.weight[:, expected])


@torch.no_grad()
def test_the_embedding_model_alone_prunes_alike(model) -> None:
    whole, alone = model.prune(0.35), model.prunnet.prune(0.35)
    assert same_state(alone, whole.prunnet)
    assert alone.config.kept_units == whole.config.kept_units
    assert {f"prunnet.{name}": count for name, count in alone.prunable_units().items()} == whole.prunable_units()


def test_what_has_no_units_stays_as_it_is(model) -> None:
    pruned = model.prune(0.2)
    backbone = "prunnet.backbone"
    for name in (f"{backbone}.conv1.0.weight", f"{BLOCK}.downsample.0.weight", "prunnet.projector.0.weight"):
        assert torch.equal(pruned.get_parameter(name), model.get_parameter(name))
    assert torch.equal(pruned.classifier.weight, model.classifier.weight)


def test_a_pruned_model_names_its_capacity_and_the_way_out(model) -> None:
    pruned = model.prune(0.25)
    uses = (
        lambda: pruned.prune(0.1),
        lambda: pruned(images(), capacity=0.1),
        lambda: pruned.keep_statistics([]),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"capacity 0\.25.*dense checkpoint"):
            use()


@pytest.mark.parametrize("allocation", ["global", "pq_index"])
def test_units_are_not_shared_out_among_layers(model, allocation: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    for use in (model.prune, lambda c, **options: PrunNetModel.from_pretrained(tmp_path, capacity=c, **options)):
        with pytest.raises(ValueError, match=rf"^allocation.*'uniform'.*'channel'.*'{allocation}'.*Leave it out\.$"):
            use(0.5, allocation=allocation)
    with pytest.raises(ValueError, match=r"^allocation.*'uniform', 'pq_index', 'global'.*'best'"):
        model.prune(0.5, allocation="best")


def test_single_weights_are_not_what_is_kept(model) -> None:
    for any_model in (model, model.prune(0.5)):
        assert any_model.packable_weights() == []
        assert any_model.prunable_layers() == {}


class TestStatistics:
    def test_they_travel_and_are_interpolated(self, model) -> None:
        norm = model.get_submodule(f"{BLOCK}.bn2")  # whose channels all stay
        rows = norm.statistics_mean
        for capacity, expected in ((0.2, rows[0]), (0.6, rows[1]), (1.0, norm.running_mean)):
            assert torch.equal(model.prune(capacity).get_submodule(f"{BLOCK}.bn2").running_mean, expected)
        half = model.prune(0.8).get_submodule(f"{BLOCK}.bn2").running_mean  # half way from 0.6 to the dense network
        torch.testing.assert_close(half, (rows[1] + norm.running_mean) / 2)

    def test_those_of_units_are_cut_with_them(self, model) -> None:
        norm, conv = model.get_submodule(f"{BLOCK}.bn1"), model.get_submodule(f"{BLOCK}.conv1")
        kept = conv.units.scores.abs().topk(kept_count(0.2, 16)).indices.sort().values
        pruned = model.prune(0.2).get_submodule(f"{BLOCK}.bn1")
        assert torch.equal(pruned.running_var, norm.statistics_var[0][kept])
        assert not hasattr(pruned, "statistics_mean")

    def test_below_the_smallest_a_warning(self, model) -> None:
        with pytest.warns(UserWarning, match=r"0\.20.*0\.10.*calibration"):
            model.prune(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.prune(0.1, calibration=[images()])

    def test_calibration_is_measured_on_the_thin_network(self, model) -> None:
        batch = images(6, seed=9)
        pruned = model.prune(0.35, calibration=[batch])
        block = pruned.prunnet.backbone.layer1[0]
        hidden: list[torch.Tensor] = []
        block.conv1.register_forward_hook(lambda module, inputs, output: hidden.append(output))
        with torch.no_grad():
            copied = copy.deepcopy(pruned).train()  # a batch norm in train mode sees what calibration saw
            copied(batch)
        torch.testing.assert_close(block.bn1.running_mean, hidden[0].mean((0, 2, 3)))
        torch.testing.assert_close(block.bn1.running_var, hidden[0].var((0, 2, 3)))
        with pytest.raises(ValueError, match=r"calibration.*at least one batch"):
            model.prune(0.35, calibration=[])


class TestHandedOn:
    def test_the_image_processor(self, model) -> None:
        other = copy.deepcopy(model)
        other.image_processor = PrunNetImageProcessor(size=40, crop_size=32)
        assert other.prune(0.2).image_processor.to_dict() == other.image_processor.to_dict()

    def test_the_space_and_digests_of_its_own(self, model, tmp_path: Path) -> None:
        pruned = model.prune(0.2)
        assert pruned.config.embedding_space == model.config.embedding_space
        assert pruned.config.weights_digest["float32"] == digest_weights(pruned) != digest_weights(model)
        check_compatible(model, pruned)
        with pytest.raises(ValueError, match="can't be compared"):
            check_compatible(pruned, "0123456789abcdef")
        pruned.save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = PrunNetModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
            loaded.save_pretrained(tmp_path / "again")
        assert loaded.config.embedding_space == model.config.embedding_space

    def test_scores_are_no_weights_of_the_space(self, model) -> None:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.get_submodule(f"{BLOCK}.conv1").units.scores.mul_(2)
        assert changed.renew_embedding_space() == model.config.embedding_space

    def test_weights_that_changed_have_another(self, model) -> None:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.prunnet.projector[0].bias.add_(0.1)
        with pytest.warns(UserWarning, match="weights have changed"):
            assert changed.prune(0.2).config.embedding_space != model.config.embedding_space

    def test_the_mode(self, model) -> None:
        assert copy.deepcopy(model).train().prune(0.5).training
        assert not model.prune(0.5).training


@pytest.mark.parametrize("load", [PrunNetModel.from_pretrained, AutoModel.from_pretrained])
def test_from_pretrained_prunes_in_the_same_way(model, load: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    found, expected = load(tmp_path, capacity=0.35), PrunNetModel.from_pretrained(tmp_path).prune(0.35)
    assert same_state(found, expected)
    assert found.config.to_dict() == expected.config.to_dict()
    classifier = PrunNetForImageClassification.from_pretrained(tmp_path, capacity=0.35)
    assert same_state(classifier, model.prune(0.35))
