"""Which form weights are saved in, and which is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunnet_hf import PrunNetModel
from prunnet_hf.storage.form import Source, Weights
from prunnet_hf.storage.forms import FORMS, form_to_write, model_arguments, read_weights, weights_bytes
from tests.tiny_models import tiny_config


@pytest.fixture(scope="module")
def model() -> PrunNetModel:
    """Not to be changed."""
    torch.manual_seed(0)
    return PrunNetModel(tiny_config(capacities=[0.2]))


def read(path: Path, capacity: float | None = None, variant: str | None = None) -> Weights | None:
    return read_weights(PrunNetModel, Source(path, {}, variant), None, capacity)


class TestFinding:
    @pytest.mark.parametrize(
        ("form", "name"), [({}, None), ({"bands": [0.2]}, "backbone.conv1.scores")], ids=["plain", "bands"]
    )
    def test_a_prunable_model(self, model, tmp_path: Path, form: Any, name: str | None) -> None:
        model.save_pretrained(tmp_path, **form)
        weights = read(tmp_path)
        assert weights.state_dict is None if name is None else name in weights.state_dict

    @pytest.mark.parametrize(("capacity", "is_packed"), [(0.25, True), (1.0, False)])
    def test_a_subnetwork(self, model, tmp_path: Path, capacity: float, is_packed: bool) -> None:
        model.prune(capacity).save_pretrained(tmp_path)
        assert (read(tmp_path).state_dict is not None) == is_packed

    def test_several_files_are_left_to_transformers(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path, max_shard_size="50KB")
        assert not (tmp_path / "model.safetensors").exists()
        assert read(tmp_path) is None

    def test_a_variant_is_plain(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert read(tmp_path, variant="fp16") is None

    @pytest.mark.parametrize(("capacity", "bands"), [(1.0, [0.2]), (0.25, None)])
    def test_other_forms_have_no_variant(self, model, tmp_path: Path, capacity: float, bands: Any) -> None:
        saved = model if bands else model.prune(capacity)
        saved.save_pretrained(tmp_path, bands=bands)
        with pytest.raises(ValueError, match=r"variant.*fp16.*dtype="):
            read(tmp_path, variant="fp16")

    def test_a_file_of_a_form_that_does_not_suit_is_left_over(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "dense", bands=[0.2])
        model.prune(0.25).save_pretrained(tmp_path / "pruned")
        for file in (tmp_path / "dense").glob("band*"):
            file.rename(tmp_path / "pruned" / file.name)
        assert "backbone.conv1.scores" not in read(tmp_path / "pruned").state_dict

    def test_the_configuration_of_a_subnetwork_from_bands(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path, bands=[0.2])
        weights = read(tmp_path, 0.2)
        assert weights.statistics == (0.2, 0.6)
        by_path = model_arguments(weights, tmp_path)
        assert (by_path["config"], by_path["prunable"], by_path["statistics_capacities"]) == (tmp_path, False, [])
        by_instance = model_arguments(weights, model.config)
        assert by_instance.keys() == {"config", "state_dict"}
        assert by_instance["config"].prunable is False
        assert model.config.prunable is True


def test_only_files_with_tensors_are_weights(tmp_path: Path) -> None:
    assert weights_bytes(tmp_path) == 0
    (tmp_path / "model.packed.safetensors").write_bytes(b"12345")
    (tmp_path / "config.json").write_bytes(b"12")
    (tmp_path / "bands.index.json").write_bytes(b"123")
    assert weights_bytes(tmp_path) == 5


class TestEveryForm:
    """What a new row in FORMS must satisfy, too."""

    def save(self, model, folder: Path, form: Any) -> dict[str, Any]:
        """Save the model, or a subnetwork of it, in this form; return what it was saved from."""
        subnetworks = [(model.prune(capacity), None) for capacity in (0.25, 1.0)]
        for source, bands in ((model, None), (model, [0.2]), *subnetworks):
            if form_to_write(source.config, bands) is form:
                source.save_pretrained(folder, bands=bands)
                return source.state_dict()
        raise AssertionError(f"no model is saved in the form {form.name}")

    @pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
    def test_it_writes_the_files_that_it_names_and_reads_them(self, model, tmp_path: Path, form: Any) -> None:
        state_dict = self.save(model, tmp_path, form)
        found = {file for pattern in form.files for file in tmp_path.glob(pattern)}
        assert {tmp_path / "config.json", tmp_path / "preprocessor_config.json", *found} == set(tmp_path.iterdir())
        weights = form.read(Source(tmp_path, {}), None)
        assert (weights.state_dict is None) == (form.write is None)
        if weights.state_dict is not None:
            assert weights.state_dict.keys() == state_dict.keys()
        for file in found:
            file.unlink()
        assert form.read(Source(tmp_path, {}), None) is None

    def test_their_files_do_not_share_names(self) -> None:
        patterns = [pattern for form in FORMS for pattern in form.files]
        assert len(patterns) == len(set(patterns))
        assert len({form.name for form in FORMS}) == len(FORMS)
