"""Which form weights are saved in, and which is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.storage.forms import check_bands, model_arguments, read_weights


@pytest.fixture(scope="module")
def model() -> PrunNetModel:
    """Not to be changed."""
    torch.manual_seed(0)
    layers = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
    stored = {"capacities": [0.2], "statistics_capacities": [0.2, 0.6]}
    config = PrunNetConfig(backbone="resnet18", backbone_kwargs=layers, image_size=32, embedding_dim=8, **stored)
    return PrunNetModel(config)


class TestChoice:
    def test_edges_come_in_order(self, model) -> None:
        assert check_bands(model, [0.6, 0.2, 0.2], push_to_hub=False) == [0.2, 0.6]
        assert check_bands(model, [], push_to_hub=False) == []
        assert check_bands(model, None, push_to_hub=True) is None

    @pytest.mark.parametrize(
        ("bands", "push", "problem"),
        [
            ([0.0], False, r"bands must be in \(0, 1\]"),
            ([0.2], True, r"push_to_hub must be False beside bands=\[0\.2\]"),
        ],
    )
    def test_what_does_not_go_together(self, model, bands: Any, push: bool, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            check_bands(model, bands, push)

    def test_bands_that_are_no_list(self, model) -> None:
        with pytest.raises(TypeError, match=r"bands must be a list of numbers in \(0, 1\]"):
            check_bands(model, 0.2, push_to_hub=False)

    @pytest.mark.parametrize("capacity", [0.25, 1.0])
    def test_a_pruned_model_has_one_form(self, model, capacity: float) -> None:
        with pytest.raises(ValueError, match=r"for prunable models; this one is pruned to capacity"):
            check_bands(model.prune(capacity), [0.2], push_to_hub=False)


class TestFinding:
    @pytest.mark.parametrize(
        ("form", "found", "name"),
        [
            ({}, "plain", None),
            ({"bands": [0.2]}, "bands are one set of files", "backbone.conv1.scores"),
        ],
        ids=str,
    )
    def test_a_prunable_model(self, model, tmp_path: Path, form: Any, found: str, name: str | None) -> None:
        model.save_pretrained(tmp_path, **form)
        weights = read_weights(PrunNetModel, tmp_path, None, None, None, {})
        assert weights.form == found
        assert weights.state_dict is None if name is None else name in weights.state_dict

    def test_a_subnetwork(self, model, tmp_path: Path) -> None:
        for capacity, found in ((0.25, "a packed subnetwork is one file"), (1.0, "plain")):
            model.prune(capacity).save_pretrained(tmp_path)
            assert read_weights(PrunNetModel, tmp_path, None, None, None, {}).form == found

    def test_several_files_are_left_to_transformers(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path, max_shard_size="50KB")
        assert not (tmp_path / "model.safetensors").exists()
        assert read_weights(PrunNetModel, tmp_path, None, None, None, {}) is None

    def test_a_variant_is_plain(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert read_weights(PrunNetModel, tmp_path, None, None, "fp16", {}) is None

    def test_the_configuration_of_a_subnetwork_from_bands(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path, bands=[0.2])
        weights = read_weights(PrunNetModel, tmp_path, None, 0.2, None, {})
        assert weights.statistics == (0.2, 0.6)
        by_path = model_arguments(weights, tmp_path)
        assert (by_path["config"], by_path["prunable"], by_path["statistics_capacities"]) == (tmp_path, False, [])
        by_instance = model_arguments(weights, model.config)
        assert by_instance.keys() == {"config", "state_dict"}
        assert by_instance["config"].prunable is False
        assert model.config.prunable is True
