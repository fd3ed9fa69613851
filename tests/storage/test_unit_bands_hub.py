"""Bands of whole units as a user sees them: on a Hub on loopback, and in folders beside other forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel

from prunnet_hf import PrunNetModel
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.hub_server import HubServer
from tests.tiny_models import same_state, tiny, tiny_config, trained
from tests.unit_banded import BLOCKS

REPO = "org/name"
EDGES = [0.2, 0.4]
ALWAYS = {"config.json", "preprocessor_config.json", "bands.index.json"}
BANDS = [f"band-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def model() -> PrunNetModel:
    """Not to be changed."""
    stored = {"capacities": EDGES, "statistics_capacities": [0.2, 0.3, 0.4]}
    return trained(tiny_config(granularity="channel", **stored, **BLOCKS["basic"])).prunnet


@pytest.fixture
def published(hub: HubServer, model: PrunNetModel) -> HubServer:
    """A Hub with the model in bands."""
    model.push_to_hub(REPO, bands=EDGES)
    hub.requests.clear()
    return hub


def fetched(hub: HubServer) -> set[str]:
    """Names of the files from which bytes were sent since the last call."""
    names = {one.path.split("/")[-1] for one in hub.requests if hub.downloaded(one.path)}
    hub.requests.clear()
    return names


class TestHub:
    def test_a_device_that_grows_fetches_the_difference(self, published: HubServer, model: PrunNetModel) -> None:
        assert set(published.repos[REPO].files()) >= ALWAYS | {*BANDS}
        for capacity, bands in ((0.2, {BANDS[0]}), (0.35, {BANDS[1]}), (0.4, set()), (0.9, {BANDS[2]}), (1.0, set())):
            assert same_state(PrunNetModel.from_pretrained(REPO, capacity=capacity), model.prune(capacity))
            assert fetched(published) - ALWAYS == bands
        assert same_state(PrunNetModel.from_pretrained(REPO), model)
        assert fetched(published) == set()

    def test_what_is_fetched_is_about_the_thin_file(
        self, published: HubServer, model: PrunNetModel, tmp_path: Path
    ) -> None:
        AutoModel.from_pretrained(REPO, capacity=0.2)
        files = published.repos[REPO].files()
        assert published.downloaded() == sum(len(files[name]) for name in (*ALWAYS, BANDS[0]))
        model.prune(0.2).save_pretrained(tmp_path)
        thin = (tmp_path / "model.safetensors").stat().st_size
        rest = len(files["bands.index.json"]) * 2 + 8 * sum(  # the index, its copy, and statistics for two capacities
            norm.numel() for name, norm in model.named_parameters() if "bn" in name
        )
        assert thin < len(files[BANDS[0]]) < thin + rest

    def test_the_next_form_replaces_the_bands(self, published: HubServer, model: PrunNetModel) -> None:
        model.push_to_hub(REPO)
        names = set(published.repos[REPO].files())
        assert "model.safetensors" in names
        assert not names & {*BANDS, "bands.index.json"}
        assert same_state(PrunNetModel.from_pretrained(REPO, capacity=0.2), model.prune(0.2))

    def test_a_band_that_is_not_there_is_named(self, published: HubServer) -> None:
        HfApi().delete_file(BANDS[1], REPO)
        with pytest.raises(OSError, match=rf"org/name.*{BANDS[1]}.*with access to the Hub"):
            PrunNetModel.from_pretrained(REPO, capacity=0.4)


class TestFolder:
    @pytest.fixture
    def directory(self, model: PrunNetModel, tmp_path: Path) -> Path:
        """A checkpoint that the test may change."""
        model.save_pretrained(tmp_path / "bands", bands=EDGES)
        return tmp_path / "bands"

    @pytest.mark.parametrize("source", ["path", "config"])
    def test_its_configuration_is_that_of_pruning(self, model: PrunNetModel, directory: Path, source: str) -> None:
        given: dict[str, Any] = {} if source == "path" else {"config": model.config}
        loaded = PrunNetModel.from_pretrained(directory, capacity=0.3, **given)
        assert loaded.config.kept_units == model.prune(0.3).config.kept_units
        assert loaded.prunable_units() == model.prune(0.3).prunable_units()
        assert (loaded.config.capacity, loaded.config.prunable, model.config.prunable) == (0.3, False, True)
        loaded.save_pretrained(directory / "again")
        assert same_state(PrunNetModel.from_pretrained(directory / "again"), model.prune(0.3))

    def test_loading_again_gives_the_same_files(self, directory: Path, tmp_path: Path) -> None:
        PrunNetModel.from_pretrained(directory).save_pretrained(tmp_path / "again", bands=EDGES)
        for name in (*BANDS, "bands.index.json"):
            assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()

    def test_a_configuration_of_single_weights(self, directory: Path, tmp_path: Path) -> None:
        tiny(capacities=EDGES).prunnet.save_pretrained(tmp_path / "other", bands=EDGES)
        (directory / "config.json").write_bytes((tmp_path / "other" / "config.json").read_bytes())
        with pytest.raises(CheckpointFormatError, match=r"bands of whole units.*granularity='weight'"):
            PrunNetModel.from_pretrained(directory, capacity=0.2)
        with pytest.raises(ValueError, match=r"do not fit the model.*units\.scores.*different models"):
            PrunNetModel.from_pretrained(directory)

    @pytest.mark.parametrize(
        ("capacity", "problem"),
        [
            (0.2, r"granularity='weight'.*leave such arguments out"),
            (None, r"do not fit granularity='weight'.*says granularity='channel'.*Leave"),
        ],
    )
    def test_another_granularity_cannot_be_asked_for(
        self, directory: Path, capacity: float | None, problem: str
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            PrunNetModel.from_pretrained(directory, capacity=capacity, granularity="weight")

    def test_kept_units_cannot_be_asked_for(self, model: PrunNetModel, tmp_path: Path) -> None:
        thin = model.prune(0.2)
        thin.save_pretrained(tmp_path)
        kept = {**thin.config.kept_units, "layer1.0.conv1": 1}
        with pytest.raises(ValueError, match=r"do not fit kept_units=.*Leave the argument out\.$"):
            PrunNetModel.from_pretrained(tmp_path, kept_units=kept)

    def test_no_variant(self, directory: Path) -> None:
        with pytest.raises(ValueError, match=r"variant.*fp16.*dtype="):
            PrunNetModel.from_pretrained(directory, capacity=0.2, variant="fp16")

    def test_an_older_reader_refuses_the_index(self, directory: Path) -> None:
        assert json.loads((directory / "bands.index.json").read_text())["version"] == 2

    def test_a_pruned_model_has_no_bands(self, model: PrunNetModel, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"bands=\[0\.2\].*0\.2.*without bands"):
            model.prune(0.2).save_pretrained(tmp_path, bands=[0.2])

    def test_a_damaged_band(self, directory: Path) -> None:
        file = directory / BANDS[1]
        blob = bytearray(file.read_bytes())
        blob[-1] ^= 1
        file.write_bytes(blob)
        PrunNetModel.from_pretrained(directory, capacity=0.2)
        with pytest.raises(CheckpointFormatError, match=rf"{BANDS[1]}: .*SHA-256"):
            PrunNetModel.from_pretrained(directory, capacity=0.4)


def test_a_thin_model_in_several_files(model: PrunNetModel, tmp_path: Path) -> None:
    thin = model.prune(0.3)
    thin.save_pretrained(tmp_path, max_shard_size="50KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert same_state(PrunNetModel.from_pretrained(tmp_path), thin)
    assert torch.equal(AutoModel.from_pretrained(tmp_path).projector[0].weight, thin.projector[0].weight)
