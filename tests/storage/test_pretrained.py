"""Saving and loading: exact, whole, strict, and never something else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTConfig,
    ViTModel,
    pipeline,
)

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.pruning.layers import find_masks
from prunnet_hf.storage.packed import PACKED_WEIGHTS_NAME
from prunnet_hf.storage.replacing import replace_model
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.processes import die_at_rename
from tests.tiny_models import same_state, tiny, tiny_of_units

DENSE_WEIGHTS_NAME = "model.safetensors"


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    """Not to be changed."""
    return tiny()


@pytest.fixture
def dense(model: PrunNetForImageClassification, tmp_path: Path) -> Path:
    """A directory with the dense model, which the test may change."""
    model.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def packed(model: PrunNetForImageClassification, tmp_path: Path) -> Path:
    """A directory with a subnetwork of capacity 0.25, which the test may change."""
    model.prune(capacity=0.25).save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


def with_wide_scores(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is loaded of these tensors: scores are float32 at least, in which a shorter type's are exact."""
    return {
        name: tensor.float() if name.endswith(".scores") and tensor.itemsize < 4 else tensor
        for name, tensor in state.items()
    }


def weight_files(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir() if "safetensors" in file.name}


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize("capacity", [None, 0.25, 1.0])
    def test_every_type_is_exact(self, dtype: torch.dtype, capacity: float | None, tmp_path: Path) -> None:
        saved = tiny().to(dtype)
        saved = saved if capacity is None else saved.prune(capacity)
        saved.save_pretrained(tmp_path)
        loaded = PrunNetForImageClassification.from_pretrained(tmp_path)
        assert loaded.dtype == dtype
        assert same_state(loaded, with_wide_scores(saved.state_dict()))
        assert loaded.config.capacity == (capacity or 1.0)

    def test_the_type_can_be_chosen_on_loading(self, model, dense: Path, packed: Path) -> None:
        for directory, source in ((dense, model), (packed, model.prune(0.25))):
            loaded = PrunNetForImageClassification.from_pretrained(directory, dtype=torch.bfloat16)
            expected = {
                name: tensor if name.endswith(".scores") or not tensor.is_floating_point() else tensor.bfloat16()
                for name, tensor in source.state_dict().items()
            }
            assert same_state(loaded, expected)

    @pytest.mark.parametrize("form", [{}, {"bands": [0.2, 0.6]}], ids=str)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_shorter_type_leaves_the_masks_as_they_are(self, dtype: torch.dtype, form: Any, tmp_path: Path) -> None:
        saved = tiny()
        with torch.no_grad():  # so close together that a shorter type can't tell them apart
            for layer in saved.prunable_layers().values():
                layer.scores.copy_(1 + layer.scores / 1000)
        saved.save_pretrained(tmp_path, **form)
        loaded = PrunNetForImageClassification.from_pretrained(tmp_path, dtype=dtype)
        for name, mask in find_masks(saved, [0.6])[0].items():
            assert torch.equal(find_masks(loaded, [0.6])[0][name], mask), name
        resaved = tmp_path / "resaved"
        loaded.save_pretrained(resaved)
        assert same_state(PrunNetForImageClassification.from_pretrained(resaved), loaded)
        assert loaded(torch.zeros(1, 3, 32, 32, dtype=dtype), capacity=0.6).logits.dtype == dtype

    @pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
    def test_device_map(self, model, dense: Path, packed: Path, device_map: Any) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(dense, device_map=device_map)
        assert torch.equal(loaded.cpu().classifier.weight, model.classifier.weight)
        loaded = PrunNetForImageClassification.from_pretrained(packed, device_map=device_map)
        assert same_state(loaded.cpu(), model.prune(0.25))

    def test_a_model_placed_by_device_map_prunes(self, model, dense: Path) -> None:
        placed = PrunNetForImageClassification.from_pretrained(dense, device_map="auto")
        assert same_state(placed.prune(0.25).cpu(), model.prune(0.25))

    def test_shards(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        assert "model.safetensors.index.json" in weight_files(tmp_path)
        assert len(weight_files(tmp_path)) > 3
        assert same_state(PrunNetForImageClassification.from_pretrained(tmp_path), model)
        assert AutoModel.from_pretrained(tmp_path, capacity=0.5).config.capacity == 0.5

    def test_fewer_shards_leave_none_of_the_old(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path, max_shard_size="10KB")
        model.save_pretrained(tmp_path)
        assert weight_files(tmp_path) == {DENSE_WEIGHTS_NAME}

    def test_another_state_dict_can_be_saved(self, model, tmp_path: Path) -> None:
        other = tiny(seed=1)
        for saved, expected in ((model, other), (model.prune(0.25), other.prune(0.25))):
            saved.save_pretrained(tmp_path, state_dict=expected.state_dict())
            assert same_state(PrunNetForImageClassification.from_pretrained(tmp_path), expected)

    def test_only_the_main_process_writes(self, model, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "rank-1", is_main_process=False)
        assert not (tmp_path / "rank-1").exists()

    def test_loading_info(self, packed: Path) -> None:
        loaded, info = PrunNetForImageClassification.from_pretrained(packed, output_loading_info=True)
        assert isinstance(loaded, PrunNetForImageClassification)
        assert not info["missing_keys"]

    def test_the_model_knows_where_it_comes_from(self, dense: Path, packed: Path) -> None:
        for directory in (dense, packed):
            assert PrunNetModel.from_pretrained(directory).config.name_or_path == str(directory)

    def test_a_cached_repository_loads_without_the_network(self, model, packed: Path, dense: Path, tmp_path: Path):
        for name, directory in (("dense", dense), ("packed", packed)):
            repository = tmp_path / "cache" / f"models--org--{name}"
            (repository / "refs").mkdir(parents=True)
            (repository / "refs" / "main").write_text("0" * 40)
            shutil.copytree(directory, repository / "snapshots" / ("0" * 40))
        where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
        assert same_state(PrunNetForImageClassification.from_pretrained("org/dense", **where), model)
        assert same_state(PrunNetForImageClassification.from_pretrained("org/packed", **where), model.prune(0.25))
        assert AutoModel.from_pretrained("org/packed", **where).config.capacity == 0.25

    def test_a_subfolder(self, model, packed: Path) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(packed.parent, subfolder="packed")
        assert same_state(loaded, model.prune(0.25))


class TestCapacityOnLoading:
    @pytest.mark.parametrize("capacity", [0.25, 0.31, 1.0, 1])
    @pytest.mark.parametrize("loader", [PrunNetForImageClassification, AutoModelForImageClassification])
    def test_the_result_is_pruned(self, model, dense: Path, loader: Any, capacity: float) -> None:
        loaded = loader.from_pretrained(dense, capacity=capacity)
        assert type(loaded) is PrunNetForImageClassification
        assert loaded.config.capacity == capacity
        assert loaded.config.prunable is False
        assert same_state(loaded, model.prune(capacity))

    def test_auto_model(self, model, dense: Path) -> None:
        loaded = AutoModel.from_pretrained(dense, capacity=0.25)
        assert type(loaded) is PrunNetModel
        assert same_state(loaded, model.prunnet.prune(0.25))

    def test_the_pipeline(self, dense: Path) -> None:
        PrunNetImageProcessor().save_pretrained(dense)
        task = "image-feature-extraction"
        extractor = pipeline(task, model=str(dense), image_processor=str(dense), model_kwargs={"capacity": 0.25})
        assert extractor.model.config.capacity == 0.25
        assert extractor.model.prunable_layers() == {}

    def test_a_configuration_states_what_the_checkpoint_is(self, dense: Path, packed: Path) -> None:
        for directory, capacity in ((dense, 1.0), (packed, 0.25)):
            assert PrunNetConfig.from_pretrained(directory).capacity == capacity
            # AutoConfig can't know whether a user or a pipeline passes an argument.
            assert AutoConfig.from_pretrained(directory, capacity=0.5).capacity == capacity
            with pytest.raises(TypeError, match=r"PrunNetModel\.from_pretrained\(path, capacity=0\.5\)"):
                PrunNetConfig.from_pretrained(directory, capacity=0.5)

    @pytest.mark.parametrize("loader", [PrunNetModel, AutoModel])
    def test_a_pruned_checkpoint_names_its_capacity(self, packed: Path, loader: Any) -> None:
        with pytest.raises(ValueError, match=r"capacity 0\.25.*dense checkpoint"):
            loader.from_pretrained(packed, capacity=0.1)

    @pytest.mark.parametrize("loader", [PrunNetModel, AutoModel])
    @pytest.mark.parametrize(("capacity", "error"), [(2.0, ValueError), ("0.5", TypeError), (True, TypeError)])
    def test_a_bad_capacity(self, dense: Path, loader: Any, capacity: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"capacity.*\(0, 1\]"):
            loader.from_pretrained(dense, capacity=capacity)

    def test_an_edited_configuration_prunes_nothing(self, dense: Path) -> None:
        edit_config(dense, capacity=0.5)
        with pytest.raises(ValueError, match=r"capacity.*1\.0.*prunable.*0\.5"):
            PrunNetModel.from_pretrained(dense)

    def test_a_subnetwork_that_claims_to_be_dense(self, packed: Path) -> None:
        edit_config(packed, capacity=1.0, prunable=True, statistics_capacities=[0.2, 0.6, 1.0])
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            PrunNetModel.from_pretrained(packed)


EDGES = [0.2, 0.6]


class TestPrunableModelInBands:
    """What a user sees of bands; what is in the files: test_bands.py."""

    @pytest.fixture
    def directory(self, model, tmp_path: Path) -> Path:
        """A directory with the prunable model in bands, which the test may change."""
        model.save_pretrained(tmp_path / "model", bands=EDGES)
        return tmp_path / "model"

    def test_all_but_the_scores_is_exact(self, model, directory: Path) -> None:
        loaded, info = PrunNetForImageClassification.from_pretrained(directory, output_loading_info=True)
        assert not info["missing_keys"]
        state = model.state_dict()
        found = {name: tensor for name, tensor in loaded.state_dict().items() if not name.endswith(".scores")}
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
        assert loaded.state_dict().keys() == state.keys()
        assert loaded.config.name_or_path == str(directory)
        for capacity in (0.2, 0.6, 1.0):
            assert same_state(loaded.prune(capacity), model.prune(capacity))

    @pytest.mark.parametrize("capacity", [0.01, 0.2, 0.31, 0.6, 0.99, 1.0])
    @pytest.mark.filterwarnings("ignore:No running statistics")
    def test_a_capacity_on_loading_is_pruning_after_it(self, directory: Path, capacity: float) -> None:
        for loader in (PrunNetForImageClassification, PrunNetModel, AutoModel, AutoModelForImageClassification):
            expected = loader.from_pretrained(directory).prune(capacity)
            found = loader.from_pretrained(directory, capacity=capacity)
            assert type(found) is type(expected)
            assert same_state(found, expected)
            assert found.config.to_dict() == expected.config.to_dict()
            assert not found.training

    def test_saved_again_it_is_the_same(self, directory: Path, tmp_path: Path) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(directory)
        loaded.save_pretrained(tmp_path / "again", bands=EDGES)
        for file in directory.iterdir():
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name

    def test_it_can_be_trained_again(self, directory: Path) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(directory).train()
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        loaded(images, labels=torch.arange(4) % 3, capacity=0.6).loss.backward()
        stem = loaded.prunnet.backbone.conv1
        assert stem.scores.grad.abs().sum() > 0
        assert torch.equal(stem.scores.grad, stem.weight.grad * stem.weight)  # their sign is positive

    def test_another_classifier(self, directory: Path) -> None:
        for loader in (PrunNetForImageClassification, AutoModelForImageClassification):
            loaded = loader.from_pretrained(directory, capacity=0.2, num_labels=5)
            assert loaded.classifier.out_features == 5
            assert loaded.config.num_labels == 5

    def test_a_model_without_a_classifier(self, directory: Path, tmp_path: Path) -> None:
        PrunNetModel.from_pretrained(directory).save_pretrained(tmp_path / "base", bands=EDGES)
        _, info = PrunNetForImageClassification.from_pretrained(
            tmp_path / "base", num_labels=2, output_loading_info=True
        )
        assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}

    @pytest.mark.parametrize("loader", [PrunNetForImageClassification, AutoModelForImageClassification])
    @pytest.mark.parametrize("form", ["bands", "packed", "dense"])
    def test_without_a_classifier_nothing_is_classified_at_random(
        self, model, directory: Path, tmp_path: Path, loader: Any, form: str
    ) -> None:
        base, target = PrunNetModel.from_pretrained(directory), tmp_path / "base"
        saved = base.prune(0.2) if form == "packed" else base
        saved.save_pretrained(target, bands=EDGES if form == "bands" else None)
        capacity = {} if form == "packed" else {"capacity": 0.2}
        for arguments in ({}, capacity, {"config": PrunNetConfig.from_pretrained(target)}):
            with pytest.raises(ValueError, match=r"base has no classifier.*PrunNetModel.*num_labels="):
                loader.from_pretrained(target, **arguments)
        # To be trained it gets one, also of as many classes as the configuration has.
        for arguments in ({"num_labels": model.config.num_labels}, {"id2label": {0: "a", 1: "b"}, **capacity}):
            loaded = loader.from_pretrained(target, **arguments)
            assert loaded.is_classifier_new
            assert "asks_for_classifier" not in loaded.config.to_dict()
            loaded.save_pretrained(tmp_path / "tuned")
            assert not loader.from_pretrained(tmp_path / "tuned").is_classifier_new
        assert not loader.from_pretrained(directory).is_classifier_new

    def test_a_configuration_given_as_such(self, model, directory: Path) -> None:
        for config in (PrunNetConfig.from_pretrained(directory), str(directory)):
            loaded = PrunNetForImageClassification.from_pretrained(directory, config=config, capacity=0.6)
            assert same_state(loaded, model.prune(0.6))

    def test_a_subfolder_and_the_cache(self, model, directory: Path, tmp_path: Path) -> None:
        repository = tmp_path / "cache" / "models--org--name"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(directory, repository / "snapshots" / ("0" * 40) / "dense")
        where = {"cache_dir": tmp_path / "cache", "local_files_only": True, "subfolder": "dense"}
        loaded = PrunNetForImageClassification.from_pretrained("org/name", capacity=0.6, **where)
        assert same_state(loaded, model.prune(0.6))

    def test_another_form_replaces_it(self, model, directory: Path) -> None:
        model.save_pretrained(directory)
        assert weight_files(directory) == {DENSE_WEIGHTS_NAME}
        assert not (directory / "bands.index.json").exists()
        model.save_pretrained(directory, bands=[0.2])
        model.prune(0.6).save_pretrained(directory)
        assert weight_files(directory) == {PACKED_WEIGHTS_NAME}
        assert not (directory / "bands.index.json").exists()

    def test_a_variant(self, directory: Path) -> None:
        with pytest.raises((ValueError, OSError), match=r"variant.*None|model\.fp16\.safetensors"):
            PrunNetModel.from_pretrained(directory, variant="fp16")

    def test_weights_of_another_model(self, directory: Path) -> None:
        edit_config(directory, embedding_dim=4)
        for capacity in (None, 0.2):
            with pytest.raises(ValueError, match=r"do not fit.*config\.json"):
                PrunNetModel.from_pretrained(directory, capacity=capacity)

    def test_an_argument_that_does_not_fit(self, directory: Path) -> None:
        with pytest.raises(ValueError, match=r"do not fit embedding_dim=4\b"):
            PrunNetModel.from_pretrained(directory, capacity=0.2, embedding_dim=4)

    def test_a_save_that_fails_leaves_what_was_there(self, directory: Path) -> None:
        before = {file.name: file.read_bytes() for file in directory.iterdir()}
        diverged = tiny()
        with torch.no_grad():
            diverged.prunnet.backbone.conv1.scores[0] = float("nan")
        with pytest.raises(ValueError, match=r"conv1\.scores.*finite"):
            diverged.save_pretrained(directory, bands=EDGES)
        assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


class TestBands:
    @pytest.fixture
    def bands(self, model, tmp_path: Path) -> Path:
        """A directory with edges 0.2, 0.6 and 1.0, which the test may change."""
        model.save_pretrained(tmp_path / "bands", bands=[0.2, 0.6])
        return tmp_path / "bands"

    def test_only_what_is_needed_must_be_there(self, model, bands: Path) -> None:
        for file in weight_files(bands) - {"band-00001-of-00003.safetensors"}:
            (bands / file).unlink()
        assert same_state(PrunNetForImageClassification.from_pretrained(bands, capacity=0.2), model.prune(0.2))
        with pytest.raises(OSError, match=r"\[0\.2, 0\.6, 1\.0\].*band-00002-of-00003\.safetensors"):
            PrunNetModel.from_pretrained(bands, capacity=0.6)

    def test_a_band_of_another_model(self, bands: Path, tmp_path: Path) -> None:
        tiny(seed=1).save_pretrained(tmp_path / "other", bands=[0.2, 0.6])
        shutil.copy(tmp_path / "other" / "band-00002-of-00003.safetensors", bands)
        with pytest.raises(CheckpointFormatError, match=r"band-00002-of-00003\.safetensors: .*another model"):
            PrunNetModel.from_pretrained(bands, capacity=0.6)

    def test_statistics_that_are_mixed_warn_as_pruning_does(self, bands: Path) -> None:
        with pytest.warns(UserWarning, match=r"0\.20.*0\.10.*calibration") as caught:
            PrunNetModel.from_pretrained(bands, capacity=0.1)
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_another_type_on_loading(self, model, bands: Path, dtype: torch.dtype) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(bands, capacity=0.6, dtype=dtype)
        assert same_state(loaded, model.prune(0.6).to(dtype))

    def test_edges_without_statistics(self, model, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"bands.*\[0\.2, 0\.6\].*\[0\.3\]"):
            model.save_pretrained(tmp_path, bands=[0.3])
        assert list(tmp_path.iterdir()) == []


class TestWhichFile:
    """config.json says what the checkpoint is; a weight file of another kind beside it is left over."""

    @pytest.mark.parametrize("loader", [PrunNetForImageClassification, AutoModelForImageClassification])
    def test_a_stale_packed_file_beside_a_dense_model(self, model, dense: Path, packed: Path, loader: Any) -> None:
        shutil.copy(packed / PACKED_WEIGHTS_NAME, dense)
        assert same_state(loader.from_pretrained(dense), model)
        assert same_state(loader.from_pretrained(dense, capacity=0.6), model.prune(0.6))

    @pytest.mark.parametrize("loader", [PrunNetForImageClassification, AutoModelForImageClassification])
    def test_a_stale_dense_file_beside_a_subnetwork(self, model, dense: Path, packed: Path, loader: Any) -> None:
        shutil.copy(dense / DENSE_WEIGHTS_NAME, packed)
        assert same_state(loader.from_pretrained(packed), model.prune(0.25))

    def test_a_stale_packed_file_beside_a_network_pruned_to_capacity_1(self, model, packed: Path, tmp_path: Path):
        full = model.prune(1.0)
        full.save_pretrained(tmp_path / "full")
        shutil.copy(packed / PACKED_WEIGHTS_NAME, tmp_path / "full")
        assert same_state(PrunNetForImageClassification.from_pretrained(tmp_path / "full"), full)

    def test_a_configuration_given_as_such_decides(self, model, packed: Path, dense: Path) -> None:
        for directory, expected in ((dense, model), (packed, model.prune(0.25))):
            for config in (PrunNetConfig.from_pretrained(directory), str(directory)):
                loaded = PrunNetForImageClassification.from_pretrained(directory, config=config)
                assert same_state(loaded, expected)


class TestOverridingTheConfiguration:
    """Arguments of from_pretrained that are none of its own change the configuration, packed or dense."""

    @pytest.mark.parametrize("loader", [PrunNetForImageClassification, AutoModelForImageClassification])
    @pytest.mark.parametrize(
        "override", [{"num_labels": 5}, {"id2label": dict(enumerate("abcde")), "label2id": {}}], ids=min
    )
    def test_another_classifier(self, model, dense: Path, packed: Path, loader: Any, override: dict[str, Any]) -> None:
        for directory, expected in ((dense, model), (packed, model.prune(0.25))):
            loaded = loader.from_pretrained(directory, **override)
            assert loaded.classifier.weight.shape == (5, 8)
            assert same_state(loaded.prunnet, expected.prunnet)
            assert loaded.config.capacity == expected.config.capacity

    def test_the_same_number_of_labels(self, model, packed: Path) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(packed, num_labels=3, id2label={0: "a", 1: "b", 2: "c"})
        assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert same_state(loaded, model.prune(0.25))

    @pytest.mark.parametrize("loader", [PrunNetModel, AutoModel])
    def test_weights_that_do_not_fit_name_the_argument(self, dense: Path, packed: Path, loader: Any) -> None:
        message = r"do not fit embedding_dim=16.*config\.json says embedding_dim=8.*mismatched weights: .*projector"
        for directory in (dense, packed):
            with pytest.raises(ValueError, match=message):
                loader.from_pretrained(directory, embedding_dim=16, num_labels=7)

    def test_a_configuration_that_differs_names_the_field(self, dense: Path) -> None:
        config = PrunNetConfig.from_pretrained(dense)
        config.backbone_kwargs = {"layers": [2, 1, 1, 1], "channels": [4, 4, 8, 8]}
        with pytest.raises(ValueError, match=r"do not fit backbone_kwargs=\{'layers': \[2, 1, 1, 1\].*missing"):
            PrunNetForImageClassification.from_pretrained(dense, config=config)

    def test_an_unknown_argument_is_refused(self, packed: Path) -> None:
        with pytest.raises(TypeError, match="colour"):
            PrunNetModel.from_pretrained(packed, colour="red")


class TestVariants:
    @pytest.mark.parametrize("capacity", [None, 0.25])
    def test_saving_one_is_refused_and_loses_nothing(self, model, dense: Path, capacity: float | None) -> None:
        before = {file.name: file.read_bytes() for file in dense.iterdir()}
        saved = model if capacity is None else model.prune(capacity)
        with pytest.raises(ValueError, match=r"variant.*'fp16'.*another directory"):
            saved.save_pretrained(dense, variant="fp16")
        assert {file.name: file.read_bytes() for file in dense.iterdir()} == before

    def test_saving_without_one_may_say_so(self, model, dense: Path) -> None:
        model.save_pretrained(dense, variant=None)
        assert weight_files(dense) == {DENSE_WEIGHTS_NAME}

    def test_a_dense_variant_made_elsewhere_is_loaded(self, model, dense: Path) -> None:
        (dense / DENSE_WEIGHTS_NAME).rename(dense / "model.fp16.safetensors")
        assert same_state(PrunNetForImageClassification.from_pretrained(dense, variant="fp16"), model)

    def test_a_subnetwork_has_none(self, packed: Path) -> None:
        with pytest.raises(ValueError, match=r"variant.*packed.*'fp16'"):
            PrunNetModel.from_pretrained(packed, variant="fp16")

    def test_the_variant_packed_is_no_way_around(self, dense: Path, packed: Path) -> None:
        # transformers' name for the weights of that variant is the very name of the packed file.
        with pytest.raises(OSError, match=r"model\.packed\.safetensors"):
            PrunNetForImageClassification.from_pretrained(dense, variant="packed")
        shutil.copy(packed / PACKED_WEIGHTS_NAME, dense)
        with pytest.raises(ValueError, match=r"unexpected.*packed_mask"):
            PrunNetForImageClassification.from_pretrained(dense, variant="packed")


class TestStrictness:
    @pytest.mark.parametrize("loader", [PrunNetModel, PrunNetForImageClassification, AutoModel])
    def test_missing_weights(self, dense: Path, loader: Any) -> None:
        tensors = load_file(dense / DENSE_WEIGHTS_NAME)
        del tensors["prunnet.projector.0.weight"]
        save_file(tensors, dense / DENSE_WEIGHTS_NAME, {"format": "pt"})
        with pytest.raises(ValueError, match=r"missing.*projector\.0\.weight"):
            loader.from_pretrained(dense)

    def test_foreign_weights(self, dense: Path) -> None:
        tensors = load_file(dense / DENSE_WEIGHTS_NAME)
        tensors["prunnet.backbone.adapter.weight"] = torch.ones(2)
        save_file(tensors, dense / DENSE_WEIGHTS_NAME, {"format": "pt"})
        with pytest.raises(ValueError, match=r"unexpected.*adapter\.weight"):
            PrunNetForImageClassification.from_pretrained(dense)

    def test_weights_of_another_size(self, dense: Path) -> None:
        edit_config(dense, embedding_dim=16)
        with pytest.raises(ValueError, match=r"mismatched.*projector\.0\.bias"):
            PrunNetForImageClassification.from_pretrained(dense)

    def test_weights_of_another_backbone(self, dense: Path) -> None:
        edit_config(dense, backbone_kwargs={"layers": [2, 1, 1, 1], "channels": [4, 4, 8, 8]})
        with pytest.raises(ValueError, match=r"missing.* \d+ more"):
            PrunNetForImageClassification.from_pretrained(dense)

    @pytest.mark.parametrize("capacity", [None, 0.25])
    def test_a_classifier_of_another_size_starts_anew(self, model, dense: Path, capacity: float | None) -> None:
        loaded = PrunNetForImageClassification.from_pretrained(dense, num_labels=50, capacity=capacity)
        assert loaded.classifier.weight.shape == (50, 8)
        assert 0.25 < loaded.classifier.weight.std() < 0.46  # normal, of deviation 8 ** -0.5 = 0.354
        assert not loaded.classifier.bias.any()
        expected = model if capacity is None else model.prune(capacity)
        assert same_state(loaded.prunnet, expected.prunnet)

    def test_embeddings_alone_get_a_new_classifier(self, model, tmp_path: Path) -> None:
        model.prunnet.save_pretrained(tmp_path)
        loaded = PrunNetForImageClassification.from_pretrained(tmp_path, num_labels=4)
        assert loaded.classifier.weight.shape == (4, 8)
        assert loaded.classifier.weight.isfinite().all()
        assert same_state(loaded.prunnet, model.prunnet)

    def test_another_type_of_model(self, tmp_path: Path) -> None:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        ViTModel(ViTConfig(image_size=32, **sizes)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"'vit'.*'prunnet'.*own class"):
            PrunNetModel.from_pretrained(tmp_path)

    def test_a_truncated_file(self, dense: Path) -> None:
        weights = dense / DENSE_WEIGHTS_NAME
        whole = weights.read_bytes()
        for size in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
            weights.write_bytes(whole[:size])
            with pytest.raises(OSError, match=r"damaged.*Download"):
                PrunNetModel.from_pretrained(dense)

    def test_a_truncated_packed_file(self, packed: Path) -> None:
        weights = packed / PACKED_WEIGHTS_NAME
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(CheckpointFormatError, match=r"model\.packed\.safetensors.*truncated.*Download"):
            AutoModel.from_pretrained(packed)

    def test_no_model_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"config\.json.*(Save|download)"):
            PrunNetModel.from_pretrained(tmp_path)

    def test_weights_without_a_configuration(self, dense: Path, packed: Path) -> None:
        # transformers would build the default configuration, which the weights of a default model fit.
        for directory in (dense, packed):
            (directory / "config.json").unlink()
            with pytest.raises(OSError, match=r"has no config\.json"):
                PrunNetForImageClassification.from_pretrained(directory)

    def test_a_configuration_without_weights(self, dense: Path) -> None:
        (dense / DENSE_WEIGHTS_NAME).unlink()
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            PrunNetModel.from_pretrained(dense)

    def test_a_file_is_no_directory_to_save_in(self, model, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(NotADirectoryError, match="save_directory"):
            model.save_pretrained(tmp_path / "taken")
        assert (tmp_path / "taken").read_text() == "mine"


class TestInterruptedSave:
    def test_saving_over_another_kind_leaves_only_the_new_weights(self, model, dense: Path, packed: Path) -> None:
        subnetwork = model.prune(0.6)
        subnetwork.save_pretrained(dense)
        assert weight_files(dense) == {PACKED_WEIGHTS_NAME}
        assert same_state(PrunNetForImageClassification.from_pretrained(dense), subnetwork)
        model.save_pretrained(packed)
        assert weight_files(packed) == {DENSE_WEIGHTS_NAME}
        assert same_state(PrunNetForImageClassification.from_pretrained(packed), model)

    def test_what_else_is_in_the_directory_stays(self, model, dense: Path) -> None:
        others = {"README.md": "my card", "optimizer.safetensors": "mine", "model-notes.txt": "mine too"}
        for name, text in others.items():
            (dense / name).write_text(text)
        model.prune(0.25).save_pretrained(dense)
        assert {name: (dense / name).read_text() for name in others} == others

    @pytest.mark.parametrize("capacity", [None, 0.25])
    def test_a_weight_that_cannot_be_written(self, model, dense: Path, capacity: float | None) -> None:
        other = tiny(seed=1) if capacity is None else tiny(seed=1).prune(capacity)
        state = other.state_dict() | {"classifier.bias": torch.ones(3).to_sparse()}
        before = {file.name: file.read_bytes() for file in dense.iterdir()}
        with pytest.raises((TypeError, ValueError, NotImplementedError), match=r"(?i)sparse"):
            other.save_pretrained(dense, state_dict=state)
        assert {file.name: file.read_bytes() for file in dense.iterdir()} == before
        assert same_state(PrunNetForImageClassification.from_pretrained(dense), model)

    def test_a_move_that_fails_puts_the_old_model_back(self, model, dense: Path, tmp_path: Path) -> None:
        staging = dense / ".saving-test0000"
        tiny(seed=1).save_pretrained(staging)
        (staging / "obstacle").write_text("a file")
        (dense / "obstacle").mkdir()  # a file can't replace a directory
        before = (dense / DENSE_WEIGHTS_NAME).read_bytes()
        with pytest.raises(OSError, match="obstacle"):
            replace_model(staging, dense)
        assert (dense / DENSE_WEIGHTS_NAME).read_bytes() == before
        assert same_state(PrunNetForImageClassification.from_pretrained(dense), model)

    @pytest.mark.parametrize("shard_size", ["10KB", "1GB"])
    def test_killed_at_any_move(self, model, shard_size: str, tmp_path: Path) -> None:
        new, outcomes = model.prune(0.25), []
        while not outcomes or outcomes[-1] != "new":
            directory = tmp_path / str(len(outcomes))
            model.save_pretrained(directory, max_shard_size=shard_size)
            die_at_rename(len(outcomes), lambda directory=directory: new.save_pretrained(directory))
            outcomes.append(outcome(directory, {"old": model, "new": new}))
            assert not list(directory.glob(".*"))  # loading has tidied up
            assert len(outcomes) < 100
        assert set(outcomes) == {"old", "new"}
        assert outcomes == sorted(outcomes, key=["old", "new"].index)

    def test_killed_while_a_thin_model_replaces_bands_of_units(self, tmp_path: Path) -> None:
        model, outcomes = tiny_of_units(), []
        new = model.prune(0.25)
        for number in (0, 4, 8, 99):
            directory = tmp_path / str(number)
            model.save_pretrained(directory, bands=[0.2])
            die_at_rename(number, lambda directory=directory: new.save_pretrained(directory))
            outcomes.append(outcome(directory, {"old": model, "new": new}))
            assert not list(directory.glob(".*"))
        assert outcomes == ["old", "old", "old", "new"]

    def test_killed_before_or_after_all_moves_leaves_a_lock_that_loading_removes(self, dense: Path) -> None:
        (dense / ".saving.lock").write_text("process 1 on another machine")
        PrunNetModel.from_pretrained(dense)
        assert not list(dense.glob(".*"))


def outcome(directory: Path, models: dict[str, nn.Module]) -> str:
    """Which of `models` the directory loads as, or "nothing" where it says clearly that it can't be loaded."""
    try:
        loaded = PrunNetForImageClassification.from_pretrained(directory)
    except OSError:
        return "nothing"
    return next((name for name, model in models.items() if same_state(loaded, model)), "something else")


class TestAutoClasses:
    def test_image_processor(self, dense: Path) -> None:
        PrunNetImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(dense)
        loaded = AutoImageProcessor.from_pretrained(dense)
        assert type(loaded) is PrunNetImageProcessor
        assert loaded(Image.new("RGB", (80, 60)), return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)

    @pytest.mark.parametrize("capacity", [1.0, 0.25])
    def test_pipeline_gives_the_embedding(self, model, capacity: float, tmp_path: Path) -> None:
        (model if capacity == 1.0 else model.prune(capacity)).save_pretrained(tmp_path)
        processor = PrunNetImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor.save_pretrained(tmp_path)
        extractor = pipeline("image-feature-extraction", model=str(tmp_path), image_processor=str(tmp_path))
        image = Image.effect_noise((48, 40), 90).convert("RGB")
        found = extractor(image, pool=True, return_tensors=True)
        with torch.no_grad():
            expected = model.prunnet(**processor(image, return_tensors="pt"), capacity=capacity).pooler_output
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [PrunNetModel, PrunNetConfig, PrunNetImageProcessor])
def test_directory_of_a_run_is_not_its_model(kind: Any, finished_run: Path) -> None:
    inside = re.escape(str(finished_run / "model"))
    with pytest.raises(OSError, match=rf"directory of a run: load {inside}\.$"):
        kind.from_pretrained(finished_run)


def test_folders_of_a_user_are_not_leftovers_of_a_save(model, tmp_path: Path) -> None:
    mine = tmp_path / ".saving-mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    (tmp_path / ".saving-abcdefgh").symlink_to(mine.parent)
    model.save_pretrained(tmp_path)
    PrunNetModel.from_pretrained(tmp_path)
    assert mine.read_text() == "mine"
    assert (tmp_path / ".saving-abcdefgh").is_symlink()


def test_the_tensors_of_a_wrapper_replace_no_model(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"state_dict .*'module\.classifier\.bias'.* wrapper\.module\.state_dict\(\)"):
        model.save_pretrained(tmp_path, state_dict=nn.DataParallel(model).state_dict())
    assert same_state(PrunNetForImageClassification.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("name", ["nowhere/in/this", "/nowhere", ""])
def test_a_folder_that_is_missing_is_named(name):
    with pytest.raises(FileNotFoundError, match=rf"'{name}' is neither a folder nor.*org/name.*Check the path"):
        PrunNetModel.from_pretrained(name)
