"""What a run says of itself: data, command, versions, sizes and latencies."""

from __future__ import annotations

import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.data.splits import RetrievalSplits
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.runs.description import (
    base_model,
    command_line,
    dataset_name,
    describe_model,
    describe_run,
    describe_subnetworks,
    is_trained,
    recipe_of,
)
from prunnet_hf.runs.run_directory import without_local_paths
from tests.tiny_models import tiny_of_units

SIZE = 32


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def model() -> PrunNetForImageClassification:
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone="resnet10t",
        backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4},
        image_size=SIZE,
        embedding_dim=6,
        num_labels=3,
    )
    return PrunNetForImageClassification(config).eval()


def arguments(**options: object) -> RunArguments:
    return RunArguments(ModelArguments(), DataArguments(num_workers=0), TrainArguments(batch_size=4, **options))


def test_kept_weights_are_those_that_are_there(model: PrunNetForImageClassification, tmp_path: Path) -> None:
    subnetworks = {capacity: model.prunnet.prune(capacity) for capacity in (0.2, 1.0)}
    rows = describe_subnetworks(tmp_path, model, subnetworks, "fixed")
    total = sum(layer.weight.numel() for layer in model.prunable_layers().values())
    assert total > 0
    assert [row.capacity for row in rows] == [0.2, 1.0]
    assert all(row.prunable_weights == total for row in rows)
    assert rows[1].kept_weights == total
    kept = sum(
        int(subnetworks[0.2].get_parameter(name).count_nonzero()) for name in subnetworks[0.2].packable_weights()
    )
    assert rows[0].kept_weights == kept
    assert 0 < rows[0].multiply_adds < rows[1].multiply_adds


def test_single_weights_save_no_work(model: PrunNetForImageClassification, tmp_path: Path) -> None:
    rows = describe_subnetworks(tmp_path, model, {c: model.prunnet.prune(c) for c in (0.2, 1.0)}, "fixed")
    parameters = sum(tensor.numel() for tensor in model.prunnet.prune(0.2).parameters())
    assert [row.parameters for row in rows] == [parameters] * 2
    assert [row.executed_multiply_adds for row in rows] == [rows[1].multiply_adds] * 2
    assert rows[0].latency_ms == rows[1].latency_ms > 0  # one network was measured for both
    assert {row.latency_runtime for row in rows} == {f"ONNX Runtime {version('onnxruntime')}"}


def test_whole_units_save_what_they_say(tmp_path: Path) -> None:
    # Groups of 4, 4, 16 and 16 units, of which 0.5 keeps 2, 2, 8 and 8. Each unit has 3 x 3 weights for every channel
    # of its block's input, and as many for every channel of the output.
    model = tiny_of_units()
    networks = {capacity: model.prunnet.prune(capacity) for capacity in (0.5, 1.0)}
    rows = describe_subnetworks(tmp_path, model, networks, "fixed")
    of_a_unit = [9 * (8 + 4), 9 * (4 + 4), 9 * (4 + 16), 9 * (16 + 16)]
    for row, kept in zip(rows, ([2, 2, 8, 8], [4, 4, 16, 16]), strict=True):
        assert row.kept_weights == sum(n * size for n, size in zip(kept, of_a_unit, strict=True))
        assert row.prunable_weights == rows[1].kept_weights
        assert (row.kept_units, row.units) == (sum(kept), 40)
    for row, network in zip(rows, networks.values(), strict=True):
        assert row.parameters == sum(tensor.numel() for tensor in network.parameters())
        assert row.multiply_adds == row.executed_multiply_adds
        assert row.dense_parameters == rows[1].parameters
    assert rows[0].parameters < rows[1].parameters
    assert rows[0].executed_multiply_adds < rows[1].executed_multiply_adds
    assert describe_model(model).granularity == "channel"
    pruned = model.prune(0.5)
    (alone,) = describe_subnetworks(tmp_path, pruned, {0.5: pruned.prunnet}, "fixed")
    for name in ("kept_weights", "prunable_weights", "kept_units", "units", "parameters", "dense_parameters"):
        assert getattr(alone, name) == getattr(rows[0], name)


def test_size_of_a_model_in_several_files_is_that_of_all(model: PrunNetForImageClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model", bands=[0.2])
    (dense,) = describe_subnetworks(tmp_path, model, {1.0: model.prunnet.prune(1.0)}, "fixed")
    files = list((tmp_path / "model").glob("*.safetensors"))
    assert len(files) == 4
    assert dense.file_bytes == sum(file.stat().st_size for file in files)


def test_description_of_a_run(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_accelerate.py", "--data_dir", "my photos", "--epochs", "3"])
    images = Dataset.from_dict({"image": [PILImage.new("L", (2, 2))] * 5}, features=Features({"image": Image()}))
    splits = RetrievalSplits(None, images.select(range(2)), images, "gldv2")
    found = describe_run(accelerator, arguments(), splits)
    assert found.command == "train_accelerate.py --data_dir DIR --epochs 3"
    assert found.versions["torch"] == torch.__version__.partition("+")[0]
    assert (found.num_queries, found.num_gallery, found.protocol) == (2, 5, "gldv2")
    assert (found.num_processes, found.mixed_precision) == (1, "no")
    assert found.latency_device is not None
    assert found.latency_device.endswith(", 1 thread)")
    assert found.recipe["batch_size"] == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data_dir=/home/me/photos", "--seed", "1"], "train_accelerate.py --data_dir=DIR --seed 1"),
        (
            ["--output_dir", "/home/me/out", "--config", "my recipe.yaml"],
            "train_accelerate.py --output_dir DIR --config 'my recipe.yaml'",
        ),
        (["--seed", "1", "--data_dir"], "train_accelerate.py --seed 1 --data_dir"),
        (["--config", "/home/me/omniglot.yaml"], "train_accelerate.py --config omniglot.yaml"),
    ],
)
def test_command_without_the_folders_of_this_machine(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_accelerate.py", *words])
    assert command_line() == expected


def test_command_of_a_module_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("prunnet_hf.compression.sap")
    assert spec is not None
    assert spec.origin is not None
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", [spec.origin, "--data_dir", "photos", "--rounds", "2"])
    assert command_line() == "-m prunnet_hf.compression.sap --data_dir DIR --rounds 2"
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_accelerate.py"])  # called from a module that runs
    assert command_line() == "train_accelerate.py"


def test_data_set_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset_name(arguments()) == "glyphs"
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    for data_dir in (str(tmp_path / "photos"), "."):
        run = RunArguments(ModelArguments(), DataArguments("image_folder", data_dir), TrainArguments())
        assert dataset_name(run) == "photos"


def test_recipe_leaves_out_how_the_run_was_called() -> None:
    recipe = recipe_of(arguments(resume=True, eval_only=True))
    assert recipe["batch_size"] == 4
    assert not {"resume", "eval_only"} & recipe.keys()


def test_model_is_described_without_scores_and_classifier(model: PrunNetForImageClassification) -> None:
    model.renew_embedding_space()
    found = describe_model(model)
    # Once pruned, nothing is left but what embedding needs.
    assert found.parameters == sum(tensor.numel() for tensor in model.prunnet.prune(0.2).parameters())
    assert found.embedding_space == model.config.embedding_space
    assert (found.backbone, found.image_size, found.embedding_dim) == ("resnet10t", SIZE, 6)
    assert (found.capacities, found.prunable) == (model.config.capacities, True)


def test_base_model_is_one_on_the_hub(tmp_path: Path) -> None:
    assert base_model(ModelArguments(pretrained_backbone=False)) is None
    assert base_model(ModelArguments(backbone_kwargs={"channels": [8, 8, 16, 16]})) is None  # no weights fit
    assert base_model(ModelArguments(model_name_or_path="org/name")) == "org/name"
    assert base_model(ModelArguments(model_name_or_path=str(tmp_path))) is None
    # timm's own default for resnet18
    assert (
        base_model(ModelArguments()) == base_model(ModelArguments(pretrained_backbone=True)) == "timm/resnet18.a1_in1k"
    )


def test_recipe_names_no_folder_of_the_machine() -> None:
    recipe = {"epochs": 3, "data_dir": "/home/me/photos", "output_dir": "out", "model_name_or_path": "/home/me/base"}
    assert without_local_paths(recipe) == {"epochs": 3, "model_name_or_path": "base"}
    assert without_local_paths({"model_name_or_path": "org/name"}) == {"model_name_or_path": "org/name"}
    assert without_local_paths({"model_name_or_path": None}) == {"model_name_or_path": None}


@pytest.mark.parametrize(
    ("sampling", "trained"),
    [("fixed", [0.2, 0.6, 1.0]), ("sandwich", [0.2, 0.3, 0.6, 0.9, 1.0])],
)
def test_trained_are_those_of_the_list_or_of_the_range_drawn_from(sampling: str, trained: list[float]) -> None:
    asked = (0.1, 0.2, 0.3, 0.6, 0.9, 1.0)
    assert [capacity for capacity in asked if is_trained(capacity, [0.2, 0.6], sampling)] == trained


def test_without_subnetworks_the_dense_network_alone_is_trained() -> None:
    assert [capacity for capacity in (0.5, 1.0) if is_trained(capacity, [], "sandwich")] == [1.0]
